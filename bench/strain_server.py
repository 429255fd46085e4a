"""A server under strain: hostile clients, random requests by its own schema, load that is cut off, and its memory.

Usage:
    python bench/strain_server.py [-m MODEL.gguf] [-d DRAFTER.gguf] [--parts abuse,schema,memory,signals]
                                  [--requests 2000]

Starts `frspec serve` on the loopback (without -m the demo pair). Parts: `abuse`, clients that are slow, broken or
worse, beside which others must be served; `schema`, schemathesis over /openapi.json, without a 5xx but 501 and 503,
and without answers that it does not tell of (needs the package schemathesis); `memory`, many requests, at most eight
at a time, in the last quarter of which the process must be within 2 % as large as in the second; `signals`, SIGTERM
and SIGKILL under load, and a start at the same port. Prints a line for each; returns 1 where one has failed.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

COMPLETIONS, CHATS = "/v1/completions", "/v1/chat/completions"
HEAD = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
LONG = {"prompt": "x", "ignore_eos": True, "max_tokens": 400, "stream": True}
TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
START_SECONDS = 180.0
ALLOWED = {501, 503}


class Server:
    """`frspec serve` in a process of its own."""

    def __init__(self, arguments: list[str], port: int = 0) -> None:
        beside = Path(sys.executable).parent / "frspec"
        command = [str(beside if beside.is_file() else "frspec"), "serve", "--port", str(port), *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.port = int(self._wait_for(r"listening on http://127\.0\.0\.1:(\d+)")[1])
        self._wait_for("ready after")
        self.said: list[str] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _wait_for(self, pattern: str) -> re.Match[str]:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if found := re.search(pattern, line):
                return found
        raise SystemExit(f"the server ended: found no {pattern!r}")

    def _listen(self) -> None:
        assert self.process.stderr is not None
        self.said.extend(self.process.stderr)

    def rss(self) -> int:
        """Bytes that it has in memory."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def ask(self, body: dict[str, Any], path: str = COMPLETIONS) -> tuple[int, bytes]:
        """The status and the body of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def get(self, path: str) -> tuple[int, bytes]:
        """The same of what has no body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        """A connection for those who speak no HTTP."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def is_idle(self) -> bool:
        """Whether nothing is written, and nothing waits."""
        found = self.get("/metrics")[1].decode()
        values = re.findall(r"frspec_num_requests_(?:running|waiting)\{[^}]*\} (\S+)", found)
        return len(values) == 2 and all(float(value) == 0 for value in values)


@contextmanager
def serving(arguments: list[str], port: int = 0) -> Iterator[Server]:
    """A server that ends with the block."""
    server = Server(arguments, port)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait()


def wait_until(happened: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Waits for something that must come."""
    ends = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > ends:
            raise AssertionError(f"{what}: found nothing of it after {seconds:g} s")
        time.sleep(0.02)


def request(body: dict[str, Any]) -> bytes:
    """As it goes over the wire."""
    data = json.dumps(body).encode()
    return f"{HEAD}Content-Length: {len(data)}\r\n\r\n".encode() + data


def hostile(server: Server) -> Iterator[tuple[str, Callable[[], object]]]:
    """What may come, by name."""

    def sent(data: bytes, reads: bool = True) -> None:
        with server.connect() as client, suppress(OSError):
            client.sendall(data)
            if reads:
                client.settimeout(20)
                while client.recv(65536):
                    pass

    def leaves(events: int) -> None:
        with server.connect() as client:
            client.sendall(request(LONG))
            for _ in range(events):
                client.recv(256)

    def slow_body() -> None:
        with server.connect() as client:
            for byte in request({"prompt": "x", "max_tokens": 2}):
                client.sendall(bytes([byte]))
            assert b" 200 " in client.recv(4096)

    def status(body: bytes, kind: str = "application/json") -> int:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("POST", COMPLETIONS, body, {"Content-Type": kind})
        return connection.getresponse().status

    def refused(*codes: int, body: bytes) -> None:
        found = status(body)
        assert found in codes, f"found status {found}, expected {codes}"

    def many_idle() -> None:
        idle = [server.connect() for _ in range(300)]
        assert server.get("/health")[0] == 200
        for client in idle:
            client.close()

    deep = b'{"prompt": "x", "a": ' + b"[" * 5000 + b"]" * 5000 + b"}"
    yield "garbage", lambda: sent(b"\x00\xff" * 5000 + b"\r\n\r\n")
    yield "TLS", lambda: sent(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500))
    yield "a header of 1 MB", lambda: sent(b"GET / HTTP/1.1\r\nX: " + b"x" * 2**20 + b"\r\n\r\n")
    yield "10,000 headers", lambda: sent(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 10_000 + b"\r\n")
    yield "two lengths", lambda: sent(f"{HEAD}Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd".encode())
    yield "a negative length", lambda: sent(f"{HEAD}Content-Length: -1\r\n\r\n".encode())
    yield "broken chunks", lambda: sent(f"{HEAD}Transfer-Encoding: chunked\r\n\r\nzz\r\n".encode())
    yield "half a body", lambda: sent(f'{HEAD}Content-Length: 100\r\n\r\n{{"prompt":'.encode(), reads=False)
    yield "a byte at a time", slow_body
    yield "5 MB", lambda: refused(413, body=b'{"prompt": "' + b"x" * 5_000_000 + b'"}')
    yield "deep JSON", lambda: refused(400, body=deep)
    yield "deeper JSON", lambda: refused(400, 413, body=b"[" * 1_000_000)
    yield "long numbers", lambda: refused(400, body=b'{"prompt": "x", "seed": ' + b"9" * 100_000 + b"}")
    yield "lone surrogates", lambda: refused(400, body=b'{"prompt": "\\ud800"}')
    yield "no UTF-8", lambda: refused(400, body=b'{"prompt": "\xff"}')
    yield "duplicate keys", lambda: refused(200, 400, body=b'{"prompt": "x", "max_tokens": 1, "max_tokens": 2}')
    yield (
        "a grammar that explodes",
        lambda: refused(
            200, 400, body=json.dumps({"prompt": "x", "max_tokens": 2, "grammar": 'root ::= ("a"?){9999}'}).encode()
        ),
    )
    yield (
        "a schema without end",
        lambda: refused(
            200, 400, body=json.dumps({"prompt": "x", "max_tokens": 2, "json_schema": {"$ref": "#"}}).encode()
        ),
    )
    yield "leaves at once", lambda: leaves(0)
    yield "leaves in the stream", lambda: leaves(3)
    yield "300 idle connections", many_idle


def abuse(server: Server) -> str:
    """Beside each of them, and after all, an honest client gets its text."""
    body = {"prompt": "The river", "max_tokens": 12, "seed": 3, "temperature": 0.7}
    expected = json.loads(server.ask(body)[1])["choices"][0]["text"]
    count = 0
    with ThreadPoolExecutor(1) as threads:
        for name, act in hostile(server):
            done = threads.submit(act)
            status, answer = server.ask(body)
            assert status == 200, f"beside {name}: found status {status}"
            assert json.loads(answer)["choices"][0]["text"] == expected, f"beside {name}: found another text"
            try:
                done.result(60)
            except Exception as error:
                raise AssertionError(f"{name}: {error!r}") from error
            count += 1
    wait_until(server.is_idle, "no text is left")
    return f"{count} kinds of hostile clients, beside each of which an honest one has its text"


def schema(server: Server) -> str:
    """Requests that the schema allows, and such that it does not."""
    import schemathesis
    from hypothesis import HealthCheck, settings
    from schemathesis.specs.openapi import checks

    said = [checks.status_code_conformance, checks.content_type_conformance, checks.response_schema_conformance]
    found: dict[int, int] = {}
    read = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")
    few = settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    for result in read.get_all_operations():
        operation = result.ok()

        @few
        def check(case: Any) -> None:
            if isinstance(case.body, dict) and case.path.startswith("/v1/"):  # long texts take their time
                case.body = {**case.body, "max_tokens": 1}
                case.body.pop("n", None)
            response = case.call(timeout=60)
            code = response.status_code
            found[code] = found.get(code, 0) + 1
            assert code < 500 or code in ALLOWED, f"{case.method} {case.path}: found {code}: {case.body!r}"
            case.validate_response(response, checks=said)

        operation.as_strategy()
        import hypothesis

        hypothesis.given(case=operation.as_strategy())(check)()
    wait_until(server.is_idle, "no text is left", 120)
    return f"answers by status: {dict(sorted(found.items()))}"


def memory(server: Server, requests: int) -> str:
    """Chats, completions, streams, errors, and clients that leave."""
    sizes: list[float] = []
    lock = threading.Lock()

    def one(number: int) -> None:
        kind = number % 8
        if kind == 0:
            with suppress(OSError), server.connect() as client:
                client.sendall(request({**LONG, "prompt": f"{number} x"}))
                client.recv(100)
        elif kind == 1:
            server.ask({"prompt": "x", "temperature": -1})
        else:
            said = f"{number} rivers " * (1 + number % 40)
            body = {"max_tokens": 8, "stream": kind > 4, "n": 1 + kind % 3}
            if kind % 2:
                assert server.ask({**body, "messages": [{"role": "user", "content": said}]}, CHATS)[0] == 200
            else:
                assert server.ask({**body, "prompt": said})[0] == 200
        with lock:
            sizes.append(float(server.rss()))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(one, range(requests)))
    quarter = len(sizes) // 4
    second, last = (statistics.median(sizes[i * quarter : (i + 1) * quarter]) for i in (1, 3))
    said = f"{requests} requests: {second / 2**20:.1f} MiB in the second quarter, {last / 2**20:.1f} MiB in the last"
    assert last < 1.02 * second, said
    return said


def signals(arguments: list[str]) -> str:
    """Load that is cut off."""
    with serving(arguments) as server, ThreadPoolExecutor(8) as threads:
        begun = threading.Semaphore(0)

        def is_whole(seed: int) -> bool:
            with suppress(OSError, http.client.HTTPException), server.connect() as client:
                client.sendall(request({**LONG, "seed": seed, "max_tokens": 120}))
                response = http.client.HTTPResponse(client)
                response.begin()
                assert response.status == 200, f"SIGTERM: found status {response.status}"
                begun.release()
                return response.read().rstrip().endswith(b"[DONE]")
            return False

        asked = [threads.submit(is_whole, seed) for seed in range(8)]
        assert all(begun.acquire(timeout=60) for _ in asked), "SIGTERM: found texts that do not begin"
        server.process.send_signal(signal.SIGTERM)
        code = server.process.wait(120)
        ended = sum(one.result() for one in asked)
        assert code == 0, f"SIGTERM: found exit code {code}"
        assert ended == len(asked), f"SIGTERM: found {ended} of {len(asked)} texts written to their end"
    with serving(arguments) as server, ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(server.ask, LONG) for _ in range(8)]
        wait_until(lambda: not server.is_idle(), "texts are written")
        server.process.kill()
        for one in asked:
            with suppress(OSError, http.client.HTTPException):
                one.result(60)
        server.process.wait()
        port = server.port
    with serving(arguments, port) as server:
        assert server.port == port
        assert server.ask({"prompt": "x", "max_tokens": 2})[0] == 200
    return f"SIGTERM under load: exit code 0, {ended} of 8 texts whole; after SIGKILL served again at the same port"


def main() -> int:
    """Runs the parts; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model")
    parser.add_argument("-d", "--drafter")
    parser.add_argument("--parts", default="abuse,schema,memory,signals")
    parser.add_argument("--requests", type=int, default=2000)
    options = parser.parse_args()
    arguments = ["-c", "512", "-t", "1"]
    if not options.model:  # the demo pair has no template
        arguments += ["--chat-template", TEMPLATE]
    for flag, value in (("-m", options.model), ("-d", options.drafter)):
        arguments += [flag, value] if value else []
    failed = 0
    for part in options.parts.split(","):
        begin = time.monotonic()
        try:
            if part == "signals":
                said = signals(arguments)
            else:
                with serving(arguments) as server:
                    if part == "memory":
                        said = memory(server, options.requests)
                    else:
                        said = {"abuse": abuse, "schema": schema}[part](server)
                    assert server.process.poll() is None, "the server has ended"
                    assert not any("Traceback" in line for line in server.said), "".join(server.said)[-2000:]
        except AssertionError as error:
            said, failed = f"FAILED: {error}", failed + 1
        print(f"{part}: {said} ({time.monotonic() - begin:.0f} s)", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
