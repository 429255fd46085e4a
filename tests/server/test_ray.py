"""Two replicas on this machine: a text goes on where one of them is killed. Run by `pytest -m ray`.

All of it is on the loopback. Ray's processes end with the module.
"""

from __future__ import annotations

import asyncio
import http.client
import importlib.util
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from frspec_cpp.tools.ranks_file import read_ranks

from frspec_cpp import LLM, Generation, Grammar, Tokenizer
from frspec_cpp.async_llm import QueueFull, QueueTimeout
from frspec_cpp.texts import Cancelled, Piece, Started, TextRequest, Token

# Ray is imported where it is used: it takes seconds, which a run without these tests does not have.
pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the package ray is not installed"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Ray's own
]

PROMPT = "The river carries the snow of the mountains to the sea."
# Long enough to be killed in the middle of; penalties and a stop string that is never found look at all of it.
OPTIONS: dict[str, Any] = {
    "temperature": 0.9,
    "seed": 4,
    "ignore_eos": True,
    "repeat_penalty": 1.1,
    "repeat_last_n": -1,
    "stop": ["\u0000never"],
    "logprobs": 1,
}
TOKENS = 1200


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray on two processors of this machine."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray import serve

    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=80 * 2**20,
        _node_ip_address="127.0.0.1",
        log_to_driver=False,
    )
    yield
    serve.shutdown()
    ray.shutdown()


class Deaths:
    """When replicas stop in the middle of a text, to be killed there: it does not depend on how fast they are.

    Args:
        folder: Of files that say so.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def order(self, *tokens: int) -> None:
        """Replicas stop once behind each of so many tokens of a text."""
        for count in tokens:
            (self.folder / f"{count}.stopped").unlink(missing_ok=True)
            (self.folder / f"{count}.wanted").touch()

    async def kill(self, tokens: int) -> None:
        """Kills the replica that has stopped behind so many tokens."""
        stopped = self.folder / f"{tokens}.stopped"
        for _ in range(6000):
            if stopped.exists():
                break
            await asyncio.sleep(0.01)
        os.kill(int(stopped.read_text()), signal.SIGKILL)
        stopped.unlink()


@pytest.fixture(scope="module")
def deaths(tmp_path_factory: pytest.TempPathFactory) -> Deaths:
    return Deaths(tmp_path_factory.mktemp("deaths"))


def mortal(folder: Path) -> type:
    """A replica that stops where `Deaths` wants it to. Ray sends the class along, since it is nobody's attribute."""
    from frspec_cpp.ray.replica import Replica as Immortal

    class Replica(Immortal):
        async def write(self, request: Any, timeout: float | None) -> Any:
            told = len(request.committed)
            async for event in super().write(request, timeout):
                yield event
                told += len(getattr(event, "tokens", [])) if isinstance(event, Piece) else 0
                for wanted in sorted(folder.glob("*.wanted"), key=lambda path: int(path.stem)):
                    if told > int(wanted.stem):
                        wanted.unlink()
                        written = wanted.with_suffix(".part")
                        written.write_text(str(os.getpid()))
                        written.rename(wanted.with_suffix(".stopped"))
                        await asyncio.Event().wait()

    return Replica


@pytest.fixture(scope="module")
def port(cluster: None, demo_target: Path, deaths: Deaths) -> int:
    """Two replicas of the demo target behind one address."""
    from ray import serve

    from frspec_cpp.ray import app, ingress

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found = int(free.getsockname()[1])
    serve.start(http_options={"host": "127.0.0.1", "port": found})
    arguments = {
        "model": str(demo_target),
        "replicas": 2,
        "num_cpus": 0.5,
        "options": {"n_threads": 1, "n_ctx": 2048},
        "settings": {"alias": "demo", "max_queue": 8},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ingress, "Replica", mortal(deaths.folder))
        serve.run(app(arguments), name="default", route_prefix="/")
    return found


@pytest.fixture(scope="module")
def expected(demo_target: Path) -> Generation:
    """The text of one process that nobody kills."""
    with LLM(demo_target, n_threads=1, n_ctx=2048) as llm:
        return llm.generate(PROMPT, TOKENS, **OPTIONS)


def replicas() -> Any:
    """What speaks to the deployment that writes."""
    from ray import serve

    return serve.get_deployment_handle("Replica", "default")


async def engine_of(model: Path, max_queue: int = 8) -> Any:
    """An engine of this process, as the server has one."""
    from frspec_cpp.ray.engine import RemoteModel, Replicas

    handle = replicas()
    return Replicas(handle, RemoteModel(str(model), await handle.describe.remote()), max_queue)


def post(port: int, path: str, body: dict[str, Any]) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    return connection.getresponse()


def get(port: int, path: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    return connection.getresponse()


def chunks(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    for line in response:
        if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
            yield json.loads(line[6:])


def test_who_begins_alike_goes_to_the_same_replica(port: int) -> None:
    """By the first tokens, or by a key, whatever stands there."""
    beginnings = [" ".join(f"{name} {number}" for number in range(60)) for name in "abcdefgh"]
    for second in (False, True):
        for beginning in beginnings:
            body = {"prompt": f"{beginning} and {second}", "max_tokens": 1}
            usage = json.load(post(port, "/v1/completions", body))["usage"]
            assert (usage["prompt_tokens_details"]["cached_tokens"] >= 64) == second
    for number in range(8):
        # Another beginning, behind which the text is the same: what is found is of the replica that has the key.
        body = {"prompt": beginnings[number % 2] + " so", "max_tokens": 1, "prompt_cache_key": "k", "cache_salt": "s"}
        usage = json.load(post(port, "/v1/completions", body))["usage"]
        assert (usage["prompt_tokens_details"]["cached_tokens"] >= 64) == (number >= 2)
    assert json.load(get(port, "/props"))["total_slots"] == 16
    assert len(json.load(get(port, "/slots"))) == 16


def test_a_replica_dies_in_the_middle_of_a_stream(port: int, deaths: Deaths, expected: Generation) -> None:
    body = {"model": "demo", "prompt": PROMPT, "max_tokens": TOKENS, "stream": True, "return_tokens": True, **OPTIONS}
    deaths.order(20)
    response = post(port, "/v1/completions", body)
    assert response.status == 200
    text, ids, killed, reason = "", [], False, None
    for chunk in chunks(response):
        assert "error" not in chunk, chunk
        (choice,) = chunk["choices"]
        text += choice["text"]
        ids += choice.get("tokens", [])
        reason = choice["finish_reason"] or reason
        if not killed and len(ids) > 20:
            killed = True
            asyncio.run(deaths.kill(20))
            assert len(ids) < TOKENS
    assert killed
    assert (ids, text, reason) == (expected.tokens, expected.text, "length")


def test_it_dies_again_and_again(port: int, demo_target: Path, deaths: Deaths, expected: Generation) -> None:
    """A text that loses its replica twice; what was told before is not told again, and usage counts each token once."""

    async def run() -> tuple[Generation, list[Piece]]:
        engine = await engine_of(demo_target)
        kills = [10, 60]
        deaths.order(*kills)
        text = engine.submit(PROMPT, TOKENS, **OPTIONS)
        pieces: list[Piece] = []
        async for event in text.events():
            if isinstance(event, Piece):
                pieces.append(event)
                if kills and sum(len(piece.tokens) for piece in pieces) > kills[0]:
                    await deaths.kill(kills.pop(0))
        assert isinstance(event, Generation)
        assert not kills
        assert engine.running() == []
        return event, pieces

    found, pieces = asyncio.run(run())
    assert found.tokens == expected.tokens == [token.id for piece in pieces for token in piece.tokens]
    assert found.text == expected.text
    assert found.logprobs == expected.logprobs
    assert (found.prompt_tokens, found.stats.generated_tokens) == (expected.prompt_tokens, TOKENS)


def test_it_dies_while_a_prompt_is_scored(port: int, demo_target: Path, deaths: Deaths) -> None:
    """The log-probabilities of a prompt are those of a text, which goes on elsewhere like any other."""
    asked = {"model": "demo", "prompt": PROMPT * 4, "max_tokens": 4, "echo": True, "logprobs": 1, "seed": 1}
    with LLM(demo_target, n_threads=1, n_ctx=2048) as llm:
        ids = llm.tokenize(PROMPT * 4)
        text = llm.generate(ids[:1], len(ids) - 1, grammar=Grammar.from_tokens(ids[1:]), logprobs=1)
    assert text.logprobs is not None
    deaths.order(20)
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(post, port, "/v1/completions", asked)
        asyncio.run(deaths.kill(20))
        (choice,) = json.load(answer.result())["choices"]
    found = choice["logprobs"]["token_logprobs"]
    assert found[: len(ids)] == [None, *(token.logprob for token in text.logprobs)]
    assert len(found) == len(ids) + 4


def test_cancelling(port: int, demo_target: Path) -> None:
    async def run() -> None:
        engine = await engine_of(demo_target, max_queue=1)
        text = engine.submit(PROMPT, TOKENS, ignore_eos=True)
        with pytest.raises(RuntimeError, match="found 1 texts that wait, expected at most 1"):
            engine.submit(PROMPT)
        found = None
        async for event in text.events():
            if isinstance(event, Piece):
                text.cancel()
            found = event
        assert isinstance(found, Generation)
        assert found.finish_reason == "cancelled"
        assert 0 < len(found.tokens) < TOKENS
        other = engine.submit(PROMPT)
        other.cancel()
        with pytest.raises(Cancelled):
            await other.result()

    asyncio.run(run())


def test_the_order_of_replicas() -> None:
    routing = pytest.importorskip("frspec_cpp.ray.routing")
    names = [f"replica {number}" for number in range(5)]
    keys = [str(number).encode() for number in range(400)]
    first = [routing.in_order(key, names, [0] * 5, 4)[0] for key in keys]
    assert all(60 < first.count(number) < 100 for number in range(5))
    # One that goes: only its own texts go elsewhere, to those that were their second ones.
    for key, best in zip(keys, first, strict=True):
        order = routing.in_order(key, names, [0] * 5, 4)
        assert sorted(order) == list(range(5))
        others = [name for name in names if name != names[2]]
        without = others[routing.in_order(key, others, [0] * 4, 4)[0]]
        assert without == names[best if best != 2 else order[1]]
        # Neither the order in which they are named matters, nor texts that still find a place.
        assert names[::-1][routing.in_order(key, names[::-1], [3] * 5, 4)[0]] == names[best]
        busy = [4 if number == best else 0 for number in range(5)]
        assert routing.in_order(key, names, busy, 4) == [*order[1:], best]


def test_a_replica_that_writes_for_long_is_not_idle() -> None:
    """Ray forgets after ten seconds what a replica was asked for; the router does not, until it was answered."""
    routing = pytest.importorskip("frspec_cpp.ray.routing")
    common = pytest.importorskip("ray.serve._private.common")
    deployment = common.DeploymentID("replica", "app")
    now = [0.0]
    router = routing.ByBeginning(
        deployment,
        common.DeploymentHandleSource.REPLICA,
        use_replica_queue_len_cache=True,
        get_curr_time_s=lambda: now[0],
    )
    router.initialize_state(places=2)
    replicas = [SimpleNamespace(replica_id=common.ReplicaID(f"r{number}", deployment)) for number in range(3)]
    text = TextRequest(prompt=[1, 2, 3], max_tokens=5, options={})

    def pending(number: int) -> Any:
        return SimpleNamespace(
            args=[text], routing_context=SimpleNamespace(), metadata=SimpleNamespace(internal_request_id=str(number))
        )

    async def best() -> Any:
        await asyncio.sleep(0)  # what has ended is told
        return (await router.choose_replicas(list(replicas), pending(9)))[0][0].replica_id

    async def run() -> None:
        home = await best()
        results = [Result(), Result()]
        for number, result in enumerate(results):
            router.on_send_request(home)
            router.on_request_routed(pending(number), home, result)
        assert await best() != home
        now[0] = 60.0
        assert router.replica_queue_len_cache.get(home) is None
        other = await best()
        assert other != home
        # What another replica did not take is still written by the one that did.
        router.on_request_completed(other, "0")
        assert await best() != home
        results[0].end()
        assert await best() == home
        # One that has ended before it is told of counts for nothing.
        for number in (2, 3):
            result = Result()
            result.end()
            router.on_request_completed(home, str(number))
            router.on_request_routed(pending(number), home, result)
        assert await best() == home
        results[1].end()
        router.on_request_routed(pending(4), home, Result())
        assert await best() == home

    asyncio.run(run())


class Result:
    """What Ray hands over with a request that was taken: it tells from a thread of its own when that has ended."""

    def __init__(self) -> None:
        self._ended = False
        self._told: list[Callable[[Any], None]] = []

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Calls it at the end, or now if that has been."""
        self._told.append(callback)
        if self._ended:
            self.end()

    def end(self) -> None:
        """The text has been written, or has failed."""
        self._ended = True
        while self._told:
            thread = threading.Thread(target=self._told.pop(), args=[None])
            thread.start()
            thread.join()


class Scripted:
    """Replicas without Ray: each time that a text is asked for, the next of them tells what it has to.

    Args:
        lives: What each one tells; an exception is raised, and behind all of it nothing happens any more.
    """

    def __init__(self, *lives: list[Any]) -> None:
        self._lives = list(lives)
        self.timeouts: list[float | None] = []
        self.cancelled = 0
        self.write = SimpleNamespace(remote=self._write)

    def options(self, stream: bool) -> Any:
        """As of a handle."""
        assert stream
        return self

    def _write(self, request: TextRequest, timeout: float | None) -> Any:
        self.timeouts.append(timeout)
        return Told(self, self._lives.pop(0) if self._lives else [])


class Told:
    """A stream of a replica."""

    def __init__(self, owner: Scripted, events: list[Any]) -> None:
        self._owner = owner
        self._events = list(events)

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> Any:
        if not self._events:
            await asyncio.Event().wait()
        event = self._events.pop(0)
        if isinstance(event, Exception):
            raise event
        return event

    def cancel(self) -> None:
        """As of Ray's."""
        self._owner.cancelled += 1


def scripted(model: Path, handle: Scripted, replicas: int = 1, max_queue: int = 8) -> Any:
    """An engine whose replicas are no processes."""
    engine = pytest.importorskip("frspec_cpp.ray.engine")
    from frspec_cpp.ray.replica import Description

    told = Description(
        n_ctx=64, vocab_size=100, architecture="llama", device="cpu", has_drafter=False, ngram=0, n_parallel=2
    )
    return engine.Replicas(handle, engine.RemoteModel(str(model), told, replicas), max_queue)


async def begun(engine: Any) -> Any:
    """A text that is being written."""
    text = engine.submit(PROMPT)
    events = text.events()
    assert isinstance(await anext(events), Started)
    return text, events


def test_only_what_waits_is_in_the_queue(demo_target: Path) -> None:
    """However many are written, and so many for each replica."""

    async def run() -> None:
        engine = scripted(demo_target, Scripted(*([Started(0.0)] for _ in range(10))), replicas=3, max_queue=2)
        texts = [await begun(engine) for _ in range(10)]
        assert (engine.max_queue, len(engine.running())) == (6, 10)
        waiting = [engine.submit(PROMPT) for _ in range(6)]
        with pytest.raises(QueueFull, match="found 6 texts that wait, expected at most 6"):
            engine.submit(PROMPT)
        assert [text.has_begun for text in waiting] == [False] * 6
        waiting.pop().cancel()  # nobody has asked for its events
        assert len(engine.waiting()) == 5
        engine.submit(PROMPT)
        for _, events in texts:
            await events.aclose()

    asyncio.run(run())


def test_a_text_that_no_replica_begins(demo_target: Path) -> None:
    """Where none lives, nobody but the server in front can tell; nor does one that has begun wait for ever."""
    from ray.exceptions import RayActorError

    async def run() -> None:
        handle = Scripted()
        engine = scripted(demo_target, handle)
        with pytest.raises(QueueTimeout, match=r"no replica began with the text for 0\.05 s"):
            await engine.submit(PROMPT, timeout=0.05).result()
        assert handle.cancelled == 1
        assert engine.waiting() == []
        handle = Scripted([Started(0.0), Piece([Token(5, False, "x")], "x", None), RayActorError()])
        text = scripted(demo_target, handle).submit(PROMPT, timeout=0.4)
        with pytest.raises(QueueTimeout):
            await text.result()
        assert [token.id for piece in text.pieces for token in piece.tokens] == [5]
        first, second = handle.timeouts
        assert first is not None
        assert second is not None
        assert 0 <= second < first <= 0.4  # the pause before the second one counts

    asyncio.run(run())


@pytest.mark.parametrize("losses", [8, 9])
def test_how_many_replicas_a_text_may_lose(demo_target: Path, losses: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.exceptions import RayActorError

    from frspec_cpp.ray import engine as module

    monkeypatch.setattr(module, "_PAUSE", 0.0)
    whole = module.Generation("", [], module._no_costs(0), "stop", 1, [], None, None)

    async def run() -> None:
        dead: list[list[Any]] = [[RayActorError()] for _ in range(losses)]
        text = scripted(demo_target, Scripted(*dead, [Started(0.0), whole])).submit(PROMPT)
        if losses > 8:
            with pytest.raises(RayActorError):
                await text.result()
        else:
            assert (await text.result()).finish_reason == "stop"

    asyncio.run(run())


def test_what_was_written_for_a_client_that_left_counts(demo_target: Path) -> None:
    async def run() -> None:
        engine = scripted(demo_target, Scripted([Started(0.0), Piece([Token(5, True, "x")], "x", None)]))
        seen: list[Any] = []
        engine.on_event = seen.append
        text, events = await begun(engine)
        await anext(events)
        await events.aclose()
        assert [type(event) for event in seen] == [Started, Piece, Generation]
        assert seen[-1].stats.prompt_tokens == len(text.request.prompt)
        assert seen[-1].stats.generated_tokens == 1

    asyncio.run(run())


def test_a_replica_that_cannot_write_says_so(demo_target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replica = pytest.importorskip("frspec_cpp.ray.replica").Replica(
        str(demo_target), None, 8, {"n_threads": 1, "n_ctx": 64}
    )
    asyncio.run(replica.check_health())
    monkeypatch.setattr(replica._engine.llm._texts, "_works", True)  # but there is no thread that does
    with pytest.raises(RuntimeError, match="cannot write") as error:
        asyncio.run(replica.check_health())
    assert "has died" in str(error.value.__cause__)


def test_errors_and_information(port: int) -> None:
    response = post(port, "/v1/completions", {"model": "demo", "prompt": PROMPT, "top_p": 7})
    assert (response.status, json.load(response)["error"]["type"]) == (400, "invalid_request_error")
    response = post(port, "/v1/completions", {"model": "demo", "prompt": [5] * 4000})
    assert (response.status, json.load(response)["error"]["code"]) == (400, "context_length_exceeded")
    for path, said in {
        "/v1/models": '"id":"demo"',
        "/metrics": "frspec_requests_rejected_total{",
        "/props": '"total_slots":',
        "/slots": '"is_processing":false',
    }.items():
        response = get(port, path)
        assert response.status == 200
        assert said in response.read().decode()


def test_bulk(cluster: None, demo_target: Path, tmp_path: Path) -> None:
    """Texts of a data set are those of one process; counts are those of frspec-rank."""
    import ray.data

    from frspec_cpp.ray import Generate, count_ranks

    prompts = [f"{number} rivers" for number in range(12)]
    options = {"max_tokens": 8, "temperature": 0.7, "seed": 2, "ignore_eos": True}
    rows = ray.data.from_items([{"id": number, "prompt": prompt} for number, prompt in enumerate(prompts)])
    written = rows.map_batches(
        Generate,
        fn_constructor_kwargs={"model": str(demo_target), "load": {"n_threads": 1, "n_ctx": 64}, **options},
        batch_size=4,
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=0.5,
    ).take_all()
    with LLM(demo_target, n_threads=1, n_ctx=64) as llm:
        expected = llm.generate(prompts, **options)
    assert [row["text"] for row in sorted(written, key=lambda row: row["id"])] == [text.text for text in expected]
    assert {row["text_tokens"] for row in written} == {8}
    output = tmp_path / "ranks.gguf"
    count_ranks(ray.data.from_items([{"text": p} for p in prompts]), str(demo_target), str(output), batch_size=5)
    tokenizer = Tokenizer(demo_target)
    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    for prompt in prompts:
        np.add.at(counts, tokenizer.encode(prompt, add_special=False), 1)
    ranks = read_ranks(output)
    assert ranks.tokens_counted == counts.sum()
    control = len(ranks.tokens) - np.count_nonzero(np.isin(ranks.tokens, np.flatnonzero(counts)))
    assert control > 0
    best = [int(token) for token in ranks.tokens if counts[token]]
    assert [counts[token] for token in best] == sorted(counts[counts > 0].tolist(), reverse=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({}, "model: found None"), ({"model": "m.gguf", "replica": 2}, "replica: an unknown argument")],
)
def test_refused_arguments(arguments: dict[str, Any], message: str) -> None:
    from frspec_cpp.ray import app

    with pytest.raises(ValueError, match=message):
        app(arguments)


def test_killed_replicas_come_back(port: int) -> None:
    handle = replicas()

    async def alive() -> int:
        return len({(await handle.process.remote())[0] for _ in range(20)})

    ends = time.monotonic() + 90
    while asyncio.run(alive()) < 2:
        assert time.monotonic() < ends
        time.sleep(0.5)
