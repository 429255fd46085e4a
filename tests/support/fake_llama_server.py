"""A stand-in for llama-server: the arguments, the health check and the completions that an evaluation uses.

It writes the prompt's last token and its successors. FAKE_LLAMA_SERVER is what goes wrong, if anything: "dies" before
it listens, "refuses" to write, "falls" while it writes, "lingers" when it is told to end.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

FAULT = os.environ.get("FAKE_LLAMA_SERVER", "")
ARGUMENTS = sys.argv[1:]
DRAFTED = 2  # tokens of each three, where it speculates


class Handler(BaseHTTPRequestHandler):
    """One request."""

    loading = 2  # health checks that are answered with 503

    def answer(self, status: int, body: dict[str, Any]) -> None:
        """Sends a JSON object."""
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self) -> None:
        """The health check."""
        if Handler.loading > 0:
            Handler.loading -= 1
            return self.answer(503, {"error": {"message": "Loading model"}})
        return self.answer(200, {"status": "ok"})

    def do_POST(self) -> None:
        """A text."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if FAULT == "refuses":
            return self.answer(500, {"error": {"message": "context too small"}})
        if FAULT == "falls":
            print("GGML_ASSERT failed", flush=True)
            os._exit(134)
        count = asked["n_predict"]
        tokens = [asked["prompt"][-1] + i for i in range(count)]
        timings = {"prompt_n": len(asked["prompt"]), "prompt_ms": 2.5, "predicted_n": count, "predicted_ms": 1.0}
        if "--spec-type" in ARGUMENTS:
            timings |= {"draft_n": count, "draft_n_accepted": (count - 1) // (DRAFTED + 1) * DRAFTED}
        return self.answer(200, {"tokens": tokens, "timings": timings, "asked": asked, "arguments": ARGUMENTS})

    def log_message(self, *values: Any) -> None:
        """Says nothing."""


if "--version" in ARGUMENTS:
    print("version: 9.9 (build 7)", file=sys.stderr)
    sys.exit(0)
print(f"pid {os.getpid()}", flush=True)
if FAULT == "dies":
    time.sleep(0.2)
    print("error: failed to load model", flush=True)
    sys.exit(3)
if FAULT == "lingers":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
HTTPServer(("127.0.0.1", int(ARGUMENTS[ARGUMENTS.index("--port") + 1])), Handler).serve_forever()
