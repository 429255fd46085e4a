"""Servers beside each other: `frspec serve`, with and without drafts, and llama-server, with the same file and client.

Usage:
    python bench/against_llama_server.py MODEL.gguf --llama-server PATH [-d DRAFTER.gguf] [--clients 1,2,4,8]
                                         [--tokens 64] [--rounds 2] [-t 2]

Each client asks for one chat after the other, at temperature 0, as long as `--tokens`, and reads it as a stream;
prompts are read anew. Then come chats of two turns, of which the second is timed: what was read before is in the cache.
Servers take turns, forwards and backwards (ABBA), and have the machine for themselves. Shown are totals over all
rounds: requests and tokens a second, the time to the first piece of text (median, 95th percentile), the pauses between
two pieces (median, 99th percentile), and what a second turn takes. Counted, too, are the texts that are not those that
the same server has given to one client. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

TASKS = (
    "sorts a list of dictionaries by a key",
    "parses a CSV file",
    "computes prime numbers with a sieve",
    "reverses the words of a sentence",
    "implements a binary search tree",
    "fetches a URL with retries",
    "counts words in a text file",
    "solves the N queens problem",
)
LONGER = "Now add type hints and a docstring, and explain the changes."
START_SECONDS = 120.0


@dataclass
class Answer:
    """A text, and when its pieces came: seconds from the request on."""

    text: str
    tokens: int
    times: list[float]


@dataclass
class Seen:
    """What one server has done for so many clients."""

    requests: int = 0
    tokens: int = 0
    seconds: float = 0.0
    first: list[float] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)


def free_port() -> int:
    """A port of the loopback that nobody has."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def started(command: Sequence[str]) -> Iterator[int]:
    """The port of a server that runs meanwhile and has loaded its model."""
    port = free_port()
    environment = dict(os.environ)
    folder = str(Path(command[0]).parent)  # where llama.cpp's libraries lie, too
    environment["LD_LIBRARY_PATH"] = ":".join(filter(None, [folder, environment.get("LD_LIBRARY_PATH", "")]))
    process = subprocess.Popen(
        [*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        ends = time.monotonic() + START_SECONDS
        while not is_ready(port):
            if process.poll() is not None or time.monotonic() > ends:
                raise SystemExit(f"{' '.join(command)}: found it ended or silent, expected a server")
            time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait()


def is_ready(port: int) -> bool:
    """Whether the server there takes requests."""
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False


def ask(port: int, messages: list[dict[str, str]], tokens: int, reuse: bool = False) -> Answer:
    """One answer, as a stream."""
    body = {
        "messages": messages,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "cache_prompt": reuse,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    begin = time.perf_counter()
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(f"found status {response.status}: {response.read()[:500]!r}")
    text, count, times = "", 0, []
    for line in response:
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if event.get("usage"):
            count = event["usage"]["completion_tokens"]
        piece = "".join(choice["delta"].get("content") or "" for choice in event["choices"])
        if piece:
            text += piece
            times.append(time.perf_counter() - begin)
    connection.close()
    return Answer(text, count, times)


def take(seen: Seen, name: str, answer: Answer) -> None:
    """Adds an answer."""
    seen.requests += 1
    seen.tokens += answer.tokens
    seen.first.append(answer.times[0])
    seen.pauses += [after - before for before, after in zip(answer.times, answer.times[1:])]  # noqa: B905
    seen.texts[name] = answer.text


def chat(task: str, number: int = 0) -> list[dict[str, str]]:
    """Those of other numbers begin otherwise."""
    return [{"role": "user", "content": f"{number}. Write a Python function that {task}."}]


def at_once(port: int, clients: int, tokens: int, seen: Seen) -> None:
    """All tasks, shared out among so many clients."""
    left = list(TASKS)
    lock = threading.Lock()
    errors: list[Exception] = []

    def work() -> None:
        while True:
            with lock:
                if not left:
                    return
                task = left.pop(0)
            try:
                answer = ask(port, chat(task), tokens)
            except (OSError, RuntimeError) as error:
                errors.append(error)
                return
            with lock:
                take(seen, task, answer)

    threads = [threading.Thread(target=work) for _ in range(clients)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen.seconds += time.perf_counter() - begin
    if errors:
        raise errors[0]


def second_turns(port: int, tokens: int, number: int, count: int, seen: Seen) -> None:
    """Chats that go on, of one client: what was read and written before is in the cache."""
    for task in TASKS[:count]:
        messages = chat(task, number)
        first = ask(port, messages, tokens, True)
        messages += [{"role": "assistant", "content": first.text}, {"role": "user", "content": LONGER}]
        begin = time.perf_counter()
        answer = ask(port, messages, tokens, True)
        seen.seconds += time.perf_counter() - begin
        take(seen, task, answer)


def percentile(values: Sequence[float], share: float) -> float:
    """In milliseconds; the next value that was seen."""
    ordered = sorted(values)
    return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def row(name: str, what: str, seen: Seen, base: Seen, alone: Seen) -> str:
    """A line of the table; `base`: the same of llama-server; `alone`: of this server with the fewest clients."""
    other_texts = sum(seen.texts[task] != alone.texts[task] for task in seen.texts)
    rate, other = seen.tokens / seen.seconds, base.tokens / base.seconds
    return (
        f"| {name} | {what} | {seen.requests / seen.seconds:.2f} | {rate:.1f} | {rate / other:.2f} "
        f"| {1000 * statistics.median(seen.first):.0f} / {percentile(seen.first, 0.95):.0f} "
        f"| {percentile(seen.pauses, 0.5):.0f} / {percentile(seen.pauses, 0.99):.0f} "
        f"| {other_texts if what != 'second turn' else ''} |"
    )


def measure(options: argparse.Namespace) -> None:
    """Runs all servers, and prints."""
    beside = Path(sys.executable).parent / "frspec"
    own = [str(beside if beside.is_file() else "frspec"), "serve", "-m", options.model, "-t", str(options.threads)]
    own += ["-np", "8", "-c", str(options.context)]
    theirs = [options.llama_server, "-m", options.model, "-t", str(options.threads), "-np", "8"]
    theirs += ["-c", str(8 * options.context)]  # which it divides among the texts
    servers = {"llama-server": theirs, "frspec": own, "frspec, n-grams": [*own, "--ngram", "8"]}
    for drafter in options.drafter:
        servers[f"frspec, {re.split(r'[.]', Path(drafter).name)[0]}"] = [*own, "-d", drafter]
    numbers = [int(number) for number in options.clients.split(",")]
    seen = {(name, number): Seen() for name in servers for number in [*numbers, 0]}
    with ExitStack() as stack:
        ports = {name: stack.enter_context(started(command)) for name, command in servers.items()}
        for port in ports.values():
            ask(port, chat(TASKS[0], 99), options.tokens)  # warms up
        for turn in range(options.rounds):
            order = list(ports) if turn % 2 == 0 else list(reversed(ports))
            for number in numbers:
                for name in order:
                    at_once(ports[name], number, options.tokens, seen[name, number])
            for name in order:
                second_turns(ports[name], options.tokens, 1 + turn, options.turns, seen[name, 0])
    columns = "server,clients,requests/s,tokens/s,to llama-server,first ms p50 / p95,pause ms p50 / p99,other texts"
    print("| " + columns.replace(",", " | ") + " |\n" + "|---" * 8 + "|")
    for number in [*numbers, 0]:
        for name in servers:
            what = str(number) if number else "second turn"
            mine, base, alone = (
                seen[name, number],
                seen["llama-server", number],
                seen[name, numbers[0] if number else 0],
            )
            print(row(name, what, mine, base, alone), flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--llama-server", required=True)
    parser.add_argument("-d", "--drafter", action="append", default=[], help="may be repeated")
    parser.add_argument("--clients", default="1,2,4,8")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--turns", type=int, default=4, help="chats whose second turn is timed, in each round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--context", type=int, default=1024, help="of each text")
    parser.add_argument("-t", "--threads", type=int, default=2)
    measure(parser.parse_args())


if __name__ == "__main__":
    main()
