"""Keys, sizes, the queue, and clients that leave."""

from __future__ import annotations

import json
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import Any

import pytest
from scripted_llm import ScriptedLLM

from frspec_cpp import LLM, AsyncLLM, Grammar, texts
from frspec_cpp.async_llm import QueueFull
from frspec_cpp.texts import TextRequest

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

COMPLETIONS = "/v1/completions"
JSON = {"content-type": "application/json"}
LONG = {"prompt": "x", "ignore_eos": True, "max_tokens": 400}


def request(fields: dict[str, Any]) -> bytes:
    """A request for a text, as it goes over the wire."""
    body = json.dumps(fields).encode()
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def wait_until(happened: Callable[[], bool]) -> None:
    """Waits for something that must come; gives up after some minutes."""
    ends = time.monotonic() + 300
    while not happened():
        assert time.monotonic() < ends
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "body"),
        (b"{", 400, "no valid JSON"),
        (b"[]", 400, "expected a JSON object"),
        (b'{"prompt": NaN}', 400, "NaN"),
        (b'{"prompt": "x", "temperature": 1e999}', 400, "1e999"),
        (b'{"prompt": ' + b"9" * 5000 + b"}", 400, ""),
        (b'{"prompt": "\xff"}', 400, "no valid JSON"),
        (b'{"prompt": "x", "a": ' + b"[" * 70 + b"]" * 70 + b"}", 400, "nested"),
        (b'{"prompt": "x", "a": ' + b"[" * 200_000, 400, ""),
        (b'{"prompt": "' + b"x" * 4_200_000 + b'"}', 413, "4194304"),
    ],
)
def test_bodies(server: Any, body: bytes, status: int, said: str) -> None:
    answer = server.client.post(COMPLETIONS, content=body, headers=JSON)
    assert answer.status_code == status, answer.text
    assert said in answer.json()["error"]["message"]


def test_a_body_is_counted_while_it_comes(server: Any) -> None:
    """Sent in chunks, it says nothing of its length before."""

    def chunks() -> Any:
        for _ in range(100):
            yield b"x" * 100_000

    answer = server.client.post(COMPLETIONS, content=chunks(), headers=JSON)
    assert answer.status_code == 413
    assert server.client.get("/health").status_code == 200


def test_half_a_body(serving: Any) -> None:
    with serving(body_timeout=0.1) as served, socket.create_connection(("127.0.0.1", served.client.base_url.port)) as s:
        s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        s.sendall(b'Content-Length: 100\r\n\r\n{"prompt":')
        assert b" 408 " in s.recv(4096)


HALF = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 90000\r\n\r\n{"


@contextmanager
def dripping(client: socket.socket) -> Iterator[None]:
    """Sends a blank every now and then, until the connection is closed."""
    stop = threading.Event()

    def drip() -> None:
        with suppress(OSError):
            while not stop.wait(0.02):
                client.sendall(b" ")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def all_of(client: socket.socket) -> bytes:
    """What is sent until the connection is closed."""
    client.settimeout(300)
    found = b""
    with suppress(ConnectionResetError):  # what has come in meanwhile nobody reads
        while data := client.recv(4096):
            found += data
    return found


@pytest.mark.parametrize(("keys", "status"), [((), b" 408 "), (("k",), b" 401 ")])
def test_a_body_that_drips(serving: Any, keys: tuple[str, ...], status: bytes) -> None:
    """There is one deadline for all of it, not one for each piece; for what is refused, too."""
    with (
        serving(body_timeout=0.3, keys=keys) as served,
        socket.create_connection(("127.0.0.1", served.client.base_url.port)) as client,
    ):
        client.sendall(HALF)
        with dripping(client):
            assert status in all_of(client)


def test_nobody_keeps_others_out_without_a_key(serving: Any) -> None:
    """Requests that are refused take no place of those that are answered."""
    with serving(keys=("k",), max_requests=1) as served:
        port = served.client.base_url.port
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
        for client in clients:
            client.sendall(HALF)
        wait_until(lambda: len(served.server.server_state.tasks) == 5)  # all of them are being refused
        headers = {"x-api-key": "k"}
        answer = served.client.post(COMPLETIONS, json={"prompt": "x", "max_tokens": 1}, headers=headers)
        assert answer.status_code == 200
        assert served.client.get("/health").status_code == 200
        for client in clients:
            client.close()


def test_refused_bodies_that_are_not_read(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where many are read already, the answer comes at once, and the connection ends."""
    monkeypatch.setattr("frspec_cpp.server.guard._MOST_READ_OUT", 0)
    with (
        serving(keys=("k",), body_timeout=600.0) as served,
        socket.create_connection(("127.0.0.1", served.client.base_url.port)) as client,
    ):
        client.sendall(HALF)
        answer = all_of(client)
    assert b" 401 " in answer
    assert b"connection: close" in answer


def test_other_content_types(server: Any) -> None:
    """What a page of another origin may send without asking first."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        answer = server.client.post(COMPLETIONS, content=b'{"prompt": "x"}', headers={"content-type": kind})
        assert answer.status_code == 415
        assert "application/json" in answer.json()["error"]["message"]


def test_paths_and_methods(server: Any) -> None:
    assert server.client.get("/nowhere").status_code == 404
    assert server.client.get(COMPLETIONS).status_code == 405
    assert server.client.get("/nowhere").json()["error"]["type"] == "not_found_error"
    assert server.client.get("/v1/models/none").json()["error"]["code"] == "model_not_found"


def test_heads(server: Any) -> None:
    """What a balancer asks: the same without a body."""
    for path in ("/health", "/v1/health", "/v1/models", "/metrics", "/props", "/"):
        asked, told = server.client.get(path), server.client.head(path)
        assert (told.status_code, told.content) == (asked.status_code, b"")
        assert told.headers["content-type"] == asked.headers["content-type"]
    server.service.state = "loading"
    assert server.client.head("/health").status_code == 503
    server.service.state = "ready"


def test_keys(serving: Any) -> None:
    with serving(keys=("first", "sécond")) as served:
        for headers in ({}, {"authorization": "Bearer none"}, {"authorization": "Basic first"}, {"x-api-key": ""}):
            answer = served.client.post(COMPLETIONS, json={"prompt": "x"}, headers=headers)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
            assert answer.headers["www-authenticate"] == "Bearer"
        for headers in ({"authorization": "Bearer first"}, {"x-api-key": "first"}):
            answer = served.client.post(COMPLETIONS, json={"prompt": "x", "max_tokens": 1}, headers=headers)
            assert answer.status_code == 200
        for path in ("/v1/models", "/metrics", "/props", "/slots", "/openapi.json", "/nowhere"):
            assert served.client.get(path).status_code == 401
        assert served.client.get("/slots", headers={"x-api-key": "first"}).status_code == 501
        for path in ("/health", "/v1/health", "/"):
            assert served.client.get(path).status_code == 200
    with serving(keys=("first",), slots=True) as served:
        assert served.client.get("/slots", headers={"x-api-key": "first"}).json()[0]["is_processing"] is False


def test_other_origins(serving: Any, server: Any) -> None:
    asks = {"origin": "http://a.example", "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in server.client.get("/health", headers=asks).headers
    with serving(cors_origins=("http://a.example",), keys=("k",)) as served:
        answer = served.client.options(COMPLETIONS, headers=asks)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "http://a.example"
        assert "access-control-allow-credentials" not in answer.headers
        refused = served.client.get("/v1/models", headers={"origin": "http://a.example"})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "http://a.example"
        other = served.client.options(COMPLETIONS, headers={**asks, "origin": "http://b.example"})
        assert "access-control-allow-origin" not in other.headers


def test_the_queue_is_full(serving: Any, llm: LLM) -> None:
    with serving(max_queue=2) as served, ThreadPoolExecutor(3) as threads:
        with llm._lock:  # nothing is written meanwhile
            asked = []
            for number in range(3):  # one is begun, two wait
                asked.append(threads.submit(served.post, COMPLETIONS, prompt="x", max_tokens=2, seed=number))
                wait_until(lambda n=number: len(served.service.engine.waiting()) == min(n, 2))
                wait_until(lambda: bool(served.service.engine.running()))
            answer = served.post(COMPLETIONS, prompt="x")
            assert answer.status_code == 429
            assert answer.json()["error"]["code"] == "queue_full"
            assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert [one.result().status_code for one in asked] == [200, 200, 200]
        rejected = 'frspec_requests_rejected_total{model_name="demo",code="429"} 1'
        assert rejected in served.client.get("/metrics").text


def test_a_client_tries_again(serving: Any, llm: LLM) -> None:
    openai = pytest.importorskip("openai")
    with (
        serving(max_queue=1) as served,
        ThreadPoolExecutor(2) as threads,
        openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=5) as client,
    ):
        with llm._lock:
            asked = [threads.submit(served.post, COMPLETIONS, prompt="x", max_tokens=2) for _ in range(2)]
            wait_until(lambda: bool(served.service.engine.running()) and bool(served.service.engine.waiting()))
            client_asks = ThreadPoolExecutor(1)
            asks = {"model": "demo", "prompt": "x", "max_tokens": 2, "temperature": 0}
            answer = client_asks.submit(client.completions.create, **asks)
            wait_until(lambda: 'code="429"' in served.client.get("/metrics").text)
        assert [one.result().status_code for one in asked] == [200, 200]
        assert answer.result().usage.completion_tokens > 0
        client_asks.shutdown()


def test_a_turn_that_does_not_come(serving: Any, llm: LLM) -> None:
    with serving() as served, ThreadPoolExecutor(1) as threads:
        with llm._lock:
            first = threads.submit(served.post, COMPLETIONS, prompt="x", max_tokens=2)
            wait_until(lambda: bool(served.service.engine.running()))
            for more in ({}, {"stream": True}):
                answer = served.post(COMPLETIONS, prompt="x", timeout=0.02, **more)
                assert answer.status_code == 408
                assert answer.json()["error"]["code"] == "queue_timeout"
        assert first.result().status_code == 200


def test_priorities(serving: Any, llm: LLM) -> None:
    with serving() as served, ThreadPoolExecutor(4) as threads:
        with llm._lock:
            asked = []
            for number, priority in enumerate((5, 9, 0)):
                asked.append(threads.submit(served.post, COMPLETIONS, prompt="x", max_tokens=1, priority=priority))
                wait_until(lambda: bool(served.service.engine.running()))
                wait_until(lambda n=number: len(served.service.engine.waiting()) == n)
            assert [ticket.request.priority for ticket in served.service.engine.waiting()] == [9, 0]
        assert [one.result().status_code for one in asked] == [200] * 3


def test_what_may_wait(serving: Any, llm: LLM) -> None:
    """OpenAI's flex, unless a priority says otherwise."""
    ways: list[dict[str, Any]] = [{}, {"service_tier": "flex"}, {"service_tier": "flex", "priority": 2}]
    ways += [{"service_tier": "auto"}, {"service_tier": "priority"}]
    with serving() as served, ThreadPoolExecutor(5) as threads:
        with llm._lock:
            asked = []
            for number, way in enumerate(ways):
                asked.append(threads.submit(served.post, COMPLETIONS, prompt="x", max_tokens=1, **way))
                wait_until(lambda: bool(served.service.engine.running()))
                wait_until(lambda n=number: len(served.service.engine.waiting()) == n)
            assert [ticket.request.priority for ticket in served.service.engine.waiting()] == [9, 2, 0, 0]
        assert [one.result().status_code for one in asked] == [200] * 5


def test_a_client_that_leaves_in_a_stream(run_server: Any, server: Any, llm: LLM) -> None:
    engine = ScriptedLLM(llm, "Hm", stalls=True)
    with run_server(engine) as served:
        with served.client.stream("POST", COMPLETIONS, json={**LONG, "stream": True}) as answer:
            assert next(answer.iter_lines()).startswith("data: ")
        wait_until(lambda: engine.cancelled == 1)
        with socket.create_connection(("127.0.0.1", served.client.base_url.port)) as client:
            client.sendall(request(LONG))
            wait_until(lambda: engine.begun == 2)
        wait_until(lambda: engine.cancelled == 2)
        assert 'finished_reason="abort"} 2' in served.client.get("/metrics").text
    with server.client.stream("POST", COMPLETIONS, json={**LONG, "stream": True}) as answer:
        next(answer.iter_lines())
    wait_until(lambda: not server.service.engine.running())


def test_clients_that_leave_before_their_turn(serving: Any, llm: LLM) -> None:
    with serving() as served:
        port = served.client.base_url.port
        with llm._lock:
            clients = []
            for number in range(4):
                client = socket.create_connection(("127.0.0.1", port))
                client.sendall(request({**LONG, "stream": number % 2 == 0}))
                clients.append(client)
            wait_until(lambda: len(served.service.engine.waiting()) == 3)
            for client in clients:
                client.close()
            wait_until(lambda: len(served.service.engine.waiting()) == 0)
        wait_until(lambda: not served.service.engine.running())
        assert served.post(COMPLETIONS, prompt="x", max_tokens=1).status_code == 200


def test_a_client_that_reads_nothing(run_server: Any, llm: LLM) -> None:
    """It is given up, and its text with it."""
    engine = ScriptedLLM(llm, "x" * 1_000_000, stalls=True)
    with run_server(engine, write_timeout=0.1, ping=0.05, send_buffer=4096) as served, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        client.connect(("127.0.0.1", served.client.base_url.port))
        client.sendall(request({**LONG, "stream": True}))
        wait_until(lambda: engine.cancelled == 1)


def test_idle_connections_keep_nobody_out(server: Any) -> None:
    port = server.client.base_url.port
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(300)]
    assert server.client.get("/health").status_code == 200
    for connection in idle:
        connection.close()


def test_a_header_that_does_not_come(run_server: Any, llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sends none, or one that drips, is not waited for; texts take as long as they like."""
    monkeypatch.setattr("frspec_cpp.server.serving._HEADER_SECONDS", 1.0)
    with run_server(ScriptedLLM(llm, "Hm", stalls=True), ping=0.1) as served:
        address = ("127.0.0.1", served.client.base_url.port)
        with socket.create_connection(address) as silent:
            assert all_of(silent) == b""
        with socket.create_connection(address) as slow:
            slow.sendall(b"GET /health HTTP/1.1\r\nX: ")
            with dripping(slow):
                assert all_of(slow) == b""
        with socket.create_connection(address) as second:  # uvicorn waits for the first byte only
            second.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            second.settimeout(300)
            while not answer.endswith(b"}") and (data := second.recv(4096)):
                answer += data
            assert answer.endswith(b"}")
            second.sendall(b"GET")
            assert all_of(second) == b""
        begin = time.monotonic()
        with served.client.stream("POST", COMPLETIONS, json={**LONG, "stream": True}) as answer:
            for _ in answer.iter_lines():
                if time.monotonic() > begin + 2.0:
                    break
            else:
                raise AssertionError("a stream ended")


def test_the_longest_idle_connection_makes_room(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frspec_cpp.server.serving._MOST_WAITING", 3)
    with serving() as served:
        address = ("127.0.0.1", served.client.base_url.port)
        clients = []
        for number in range(5):
            clients.append(socket.create_connection(address))
            wait_until(lambda n=number: len(served.server.server_state.connections) == min(n + 1, 3))
        assert [all_of(client) for client in clients[:2]] == [b"", b""]
        assert served.client.get("/health").status_code == 200
        clients[-1].sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 " in clients[-1].recv(4096)
        for client in clients:
            client.close()


def test_a_pass_that_fails(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server says that it is failing, until a pass succeeds, or nobody has tried for a while."""

    def fail(_: Any) -> None:
        raise RuntimeError("the device is lost")

    monkeypatch.setattr("frspec_cpp.async_llm._FAILING_SECONDS", 3600.0)
    with serving() as served:
        assert served.client.get("/health").status_code == 200
        with monkeypatch.context() as patch:
            patch.setattr(texts, "_core", SimpleNamespace(Generation=SimpleNamespace(step_together=fail)))
            for number in range(3):
                assert served.client.get("/health").status_code == 200, number  # one may fail by its own fault
                assert served.post(COMPLETIONS, prompt="x", max_tokens=1).status_code == 500
        answer = served.client.get("/health")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "failing")
        assert "RuntimeError" in answer.json()["error"]["message"]
        assert "lost" not in answer.json()["error"]["message"]
        assert served.post(COMPLETIONS, prompt="x", top_p=7).status_code == 400
        assert served.client.get("/health").status_code == 503
        with monkeypatch.context() as patch:
            patch.setattr("frspec_cpp.async_llm._FAILING_SECONDS", 0.0)
            assert served.client.get("/health").status_code == 200
        assert served.post(COMPLETIONS, prompt="x", max_tokens=1).status_code == 200
        assert served.client.get("/health").status_code == 200


def test_a_thread_that_has_died(serving: Any, llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as served:
        with monkeypatch.context() as patch:
            patch.setattr(llm._texts, "_works", True)
            patch.setattr("frspec_cpp.async_llm._writes", lambda: False)
            assert served.client.get("/health").json()["error"]["code"] == "failing"
        assert served.client.get("/health").status_code == 200


def test_what_tells_nothing_of_the_engine(llm: LLM) -> None:
    engine = AsyncLLM(llm)
    request = TextRequest(prompt=[1], max_tokens=1, options={})
    engine._see(request, ValueError("top_p"))
    engine._see(TextRequest(prompt=[1], max_tokens=1, options={"grammar": Grammar("gbnf", "x")}), RuntimeError("it"))
    assert engine.failure is None
    for _ in range(3):
        assert engine.failure is None
        engine._see(request, RuntimeError("it"))
    assert str(engine.failure) == "it"


def test_a_full_queue_is_told_of_by_other_processes() -> None:
    error = pickle.loads(pickle.dumps(QueueFull("found 3 texts", 7)))
    assert (type(error), str(error), error.retry_after) == (QueueFull, "found 3 texts", 7)


def test_too_many_requests_at_once(serving: Any, llm: LLM) -> None:
    with serving(max_requests=2) as served, ThreadPoolExecutor(2) as threads:
        with llm._lock:
            asked = [threads.submit(served.post, COMPLETIONS, prompt="x", max_tokens=1) for _ in range(2)]
            wait_until(lambda: len(served.service.engine.waiting()) == 1 and bool(served.service.engine.running()))
            answer = served.client.get("/v1/models")
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "too_many_requests"
            assert served.client.get("/health").status_code == 200  # it tells whether texts can be written
        assert [one.result().status_code for one in asked] == [200, 200]


def test_pings(run_server: Any, llm: LLM) -> None:
    """A stream in which nothing happens says so now and then."""
    with (
        run_server(ScriptedLLM(llm, "Hm", stalls=True), ping=0.01) as served,
        served.client.stream("POST", COMPLETIONS, json={**LONG, "stream": True}) as answer,
    ):
        lines = [line for line, _ in zip(answer.iter_lines(), range(8), strict=False) if line]
    assert lines[0].startswith("data: ")
    assert lines[1:] == [": ping"] * len(lines[1:]) != []


def test_several_threads_at_once(server: Any, llm: LLM) -> None:
    """The LLM's own callers and the server's take turns."""
    expected = llm.generate("def f(", 20, temperature=0.8, seed=1).text
    texts: list[str] = []
    thread = threading.Thread(
        target=lambda: texts.extend(llm.generate("def f(", 20, temperature=0.8, seed=1).text for _ in range(3))
    )
    thread.start()
    for _ in range(3):
        answer = server.post(COMPLETIONS, prompt="def f(", max_tokens=20, seed=1).json()
        assert answer["choices"][0]["text"] == expected
    thread.join()
    assert texts == [expected] * 3
