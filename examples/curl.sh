#!/usr/bin/env bash
# Asks a running `frspec serve` with curl: curl.sh [http://127.0.0.1:8080]. Its model needs a chat template.
set -euo pipefail
url=${1:-http://127.0.0.1:8080}
ask() { curl --silent --show-error --fail-with-body --no-buffer "$url$1" -H 'Content-Type: application/json' -d "$2"; }

curl --silent --show-error --fail-with-body "$url/health"
echo
# A text goes on; a seed gives it again.
ask /v1/completions '{"prompt": "def fibonacci(n):", "max_tokens": 32, "temperature": 0}'
echo
# A chat, as a stream of events.
ask /v1/chat/completions '{"messages": [{"role": "user", "content": "Name three rivers."}], "max_tokens": 16, "stream": true}'
# How probable a text is: the log-probabilities of a prompt, and no text.
ask /v1/completions '{"prompt": "The quick brown fox", "max_tokens": 0, "echo": true, "logprobs": 0}'
echo
ask /tokenize '{"content": "The quick brown fox", "with_pieces": true}'
echo
