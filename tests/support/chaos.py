"""Random requests to a server whose insides are disturbed (FRSPEC_CHAOS): each is answered as it is alone.

Usage:
    python tests/support/chaos.py [--requests 1000] [--seed 1] [--kinds eagle3,ngram] [--fault page]
                                  [--model TARGET.gguf --drafter DRAFTER.gguf]

Needs a build with FRSPEC_TESTING=ON. Texts join and leave, lose their places and caches; clients stream, ask for
several texts, or leave in the middle. With --fault an error is made on purpose, which is to be found. Without --model
it is the demo pair's target with every kind of drafter that it has here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from chat_templates import CHATML, with_templates
from served import running
from text_options import ENDS, SAMPLERS

import frspec_cpp
from frspec_cpp import LLM, AsyncLLM, Generation, Grammar, Options, _core
from frspec_cpp.options import native_engine

FAULTS = ("page", "slot", "seed", "row")
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
CONTEXT = 1024
WORDS = ("river", "the", "snow", "def f(x):", "\n", " carries", "a b a b a b", "42", "Größe", "of", "sea.", "return")
ENOUGH = 30  # requests, of which some find a cache and some are drafted
BESIDE = 10  # requests at once
DEMO_EAGLE2 = Path(__file__).resolve().parent.parent / "data" / "demo-eagle2.gguf"


@dataclass(frozen=True)
class Kind:
    """A way of drafting.

    Attributes:
        drafter: Its name (:class:`Models`), or what LLM takes.
        options: Of the engine. Trees have a fixed shape: so a seed makes the same drafts again.
        target: Its name.
    """

    drafter: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    target: str = "demo"


KINDS = {
    "plain": Kind(),
    "eagle3": Kind("eagle3", {"head": "full", "tree": (3, 4, 12)}),
    "eagle2": Kind("eagle2", {"head": "full", "tree": (2, 3, 12)}),
    "contextual": Kind("eagle2", {"head": "contextual:256", "tree": (2, 3, 8)}),
    "ranked": Kind("eagle3", {"head": "ranked:512", "tree": (3, 2, 9), "ngram": 3}),
    "auto": Kind("eagle3"),  # trees and heads as the clock says
    "ngram": Kind(None, {"ngram": 4, "tree": (3, 2, 8)}),
    "model": Kind("demo", {"head": "full", "tree": (2, 2, 6)}),
    "tli": Kind("other", {"translate": "tli", "head": "full", "tree": (2, 2, 6)}),
    "slem": Kind("other", {"translate": "slem", "head": "full", "tree": (2, 2, 6)}),
    "hybrid": Kind(target="hybrid"),
    "mtp": Kind("mtp", {"head": "full", "tree": (2, 2, 6)}, "hybrid"),
}


class Models:
    """The files of the kinds, made when they are asked for.

    Args:
        folder: Where.
        target: Instead of the demo pair's.
    """

    def __init__(self, folder: Path, target: Path | None = None) -> None:
        self._folder = folder
        self._made: dict[str, Path] = {
            "eagle3": Path(frspec_cpp.demo_paths()[1]),
            "eagle2": DEMO_EAGLE2,
            **({} if target is None else {"demo": target}),
        }

    def __getitem__(self, name: str) -> Path:
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def drafter(self, kind: Kind) -> Path | str | None:
        """What LLM takes for it."""
        return kind.drafter if kind.drafter in (None, "mtp") else self[kind.drafter]

    def _make(self, name: str) -> Path:
        path = self._folder / f"{name}.gguf"
        if name == "demo":
            return with_templates(Path(frspec_cpp.demo_paths()[0]), path, CHATML)
        if name == "hybrid":
            from qwen35 import write_hybrid

            return write_hybrid(self._folder)
        assert name == "other"  # a model of another vocabulary
        from checkpoints import make_checkpoint
        from frspec_cpp.tools.convert import convert

        convert(make_checkpoint(self._folder / "other", "qwen2", seed=5), path, "f32", quiet=True)
        return path


@dataclass
class Asked:
    """A request, and what came of it.

    Attributes:
        path: Of the endpoint.
        body: Its fields.
        leaves: Events of the stream after which the client leaves; None: it stays.
        found: The choices, by their number: text, tokens, log-probabilities, reason.
        error: What the server refused it with.
    """

    path: str
    body: dict[str, Any]
    leaves: int | None = None
    found: dict[int, dict[str, Any]] = field(default_factory=dict)
    error: str = ""


def random_prompt(rng: random.Random, shared: list[str]) -> str:
    """Mostly short; some begin alike, some repeat themselves."""
    words = " ".join(rng.choice(WORDS) for _ in range(rng.choice([1, 3, 12, 40])))
    if rng.random() < 0.5:
        words = rng.choice(shared)[: rng.choice([40, 150, 400])] + words
    return (words * 3)[:1200] if rng.random() < 0.2 else words  # with what is before it, it fits into the context


def random_request(rng: random.Random, shared: list[str], grammars: bool) -> Asked:
    """Any of the options that do not depend on the clock."""
    chats = rng.random() < 0.3
    body: dict[str, Any] = {
        "max_tokens": rng.choice([1, 2, 8, 24, 48]),
        "seed": rng.randrange(1 << 40),
        "temperature": rng.choice([0, 0, 0.7, 1.2]),
        "return_tokens": True,
        "priority": rng.randrange(10),
    }
    if chats:
        body["messages"] = [{"role": "user", "content": random_prompt(rng, shared)}]
        if rng.random() < 0.4:
            body["messages"].insert(0, {"role": "system", "content": shared[0]})
    else:
        body["prompt"] = random_prompt(rng, shared)
    logprobs: dict[str, Any] = {"logprobs": True, "top_logprobs": 3} if chats else {"logprobs": 3}
    some: list[dict[str, Any]] = [
        {"n": 2},
        {"n": 3},
        {"ignore_eos": True},
        *SAMPLERS,
        {"logit_bias": {"7": 4.0, "11": -100.0}},
        logprobs,
        *ENDS,
        {"cache_prompt": False},
        {"cache_salt": "other"},
        {"speculative.type": "none"},
        {"speculative.n_max": rng.choice([1, 3, 60]), "speculative.p_min": rng.choice([0.0, 0.4])},
        {"speculative.n_min": 2},
        {"prediction": {"type": "content", "content": rng.choice(shared)}},
        {"timings_per_token": True},
        {"return_progress": True},
    ]
    for more in rng.sample(some, rng.randrange(6)):
        body.update(more)
    if grammars and rng.random() < 0.15:
        body.pop("ignore_eos", None)
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
        body |= rng.choice([{"json_schema": schema}, {"grammar": 'root ::= ("ab" | "river" | [0-9])+'}])
    if not chats and body["seed"] % 4 == 0:
        body |= {"echo": True, **(logprobs if body["seed"] % 8 == 0 else {})}
    leaves = None
    if rng.random() < 0.6:
        body["stream"] = True
        leaves = rng.choice([None, None, None, rng.randrange(12)])
    return Asked(CHAT if chats else COMPLETIONS, body, leaves)


def logprobs_of(choice: Mapping[str, Any]) -> list[float | None]:
    """Of the tokens, in either form."""
    told = choice.get("logprobs")
    if not told:
        return []
    return [each["logprob"] for each in told["content"]] if "content" in told else list(told["token_logprobs"])


def take(asked: Asked, choice: Mapping[str, Any]) -> None:
    """A choice, or a chunk of one."""
    known = asked.found.setdefault(choice["index"], {"text": "", "tokens": [], "logprobs": [], "reason": None})
    said = choice.get("delta") or choice.get("message") or choice
    known["text"] += said.get("text") or said.get("content") or ""
    known["tokens"] += choice.get("tokens", [])
    known["logprobs"] += logprobs_of(choice)
    known["reason"] = choice["finish_reason"] or known["reason"]


async def ask(client: httpx.AsyncClient, asked: Asked) -> None:
    """Sends a request, and takes what is answered, until the end or as long as it wants to."""
    if not asked.body.get("stream"):
        answer = await client.post(asked.path, json=asked.body)
        if answer.status_code != 200:
            asked.error = answer.text
            return
        for choice in answer.json()["choices"]:
            take(asked, choice)
        return
    async with client.stream("POST", asked.path, json=asked.body) as response:
        if response.status_code != 200:
            asked.error = (await response.aread()).decode()
            return
        events = 0
        async for line in response.aiter_lines():
            if asked.leaves is not None and events >= asked.leaves:
                return
            if not line.startswith("data: {"):
                continue
            events += 1
            told = json.loads(line[6:])
            if "error" in told:
                asked.error = line
                return
            for choice in told["choices"]:
                take(asked, choice)


async def ask_all(url: str, requests: list[Asked], rng: random.Random) -> None:
    """All of them, some at once."""
    room = asyncio.Semaphore(BESIDE)

    async def one(client: httpx.AsyncClient, asked: Asked, pause: float) -> None:
        async with room:
            await asyncio.sleep(pause)
            await ask(client, asked)

    async with httpx.AsyncClient(base_url=url, timeout=600, limits=httpx.Limits(max_connections=BESIDE)) as client:
        await asyncio.gather(*(one(client, asked, rng.choice([0.0, 0.0, 0.002])) for asked in requests))


def alone(llm: LLM, asked: Asked) -> list[Generation]:
    """The texts of a request that nobody else is beside, without drafts and without what others have left."""
    body = asked.body
    same = [
        row for row in Options.__annotations__ if row in body and row not in ("logprobs", "prediction", "logit_bias")
    ]
    options: dict[str, Any] = {name: body[name] for name in same}
    if "logit_bias" in body:
        options["logit_bias"] = {int(token): bias for token, bias in body["logit_bias"].items()}
    if body.get("logprobs"):
        options["logprobs"] = 3
    prompt = llm.chat_prompt(body["messages"]) if "messages" in body else llm.tokenize(body["prompt"])
    seed = options.pop("seed")
    return [
        llm.generate(prompt, body["max_tokens"], **{**options, "seed": seed + i, "reuse": False, "draft": "never"})
        for i in range(body.get("n", 1))
    ]


def scores(llm: LLM, ids: list[int]) -> list[float | None]:
    """The log-probabilities of a prompt; its first token has none."""
    if len(ids) == 1:
        return [None]
    given = Grammar.from_tokens(ids[1:])
    text = llm.generate(ids[:1], len(ids) - 1, grammar=given, ignore_eos=True, logprobs=0, reuse=False, draft="never")
    return [None, *(each.logprob for each in text.logprobs or [])]


def differences(llm: LLM, asked: Asked) -> Iterator[str]:
    """What is not as it is alone."""
    if asked.error:
        yield f"{asked.body}: {asked.error}"
        return
    has_left = asked.leaves is not None
    expected = alone(llm, asked)
    if not has_left and len(asked.found) != len(expected):
        yield f"{asked.body}: found {len(asked.found)} choices, expected {len(expected)}"
    for number, found in asked.found.items():
        text = expected[number]
        wanted = {
            "text": text.text,
            "tokens": text.tokens,
            "logprobs": [each.logprob for each in text.logprobs or []],
            "reason": text.finish_reason,
        }
        if asked.body.get("echo"):
            wanted["text"] = asked.body["prompt"] + text.text
            if text.logprobs is not None:
                wanted["logprobs"] = [*scores(llm, llm.tokenize(asked.body["prompt"])), *wanted["logprobs"]]
        ended = found["reason"] is not None
        for name, value in wanted.items():
            if ended or not has_left:
                equal = found[name] == value
            else:
                equal = name == "reason" or value[: len(found[name])] == found[name]  # type: ignore[index]
            if not equal:
                yield f"{asked.body}: choice {number}: {name}: found {found[name]!r}, alone {value!r}"


@contextmanager
def disturbed(seed: int, fault: str = "") -> Iterator[None]:
    """Engines that are made meanwhile are disturbed, and make the fault."""
    before = os.environ.get("FRSPEC_CHAOS")
    os.environ["FRSPEC_CHAOS"] = f"{seed},{fault}" if fault else str(seed)
    try:
        yield
    finally:
        if before is None:
            del os.environ["FRSPEC_CHAOS"]
        else:
            os.environ["FRSPEC_CHAOS"] = before


def make(target: Path, drafter: Path | str | None, options: dict[str, Any], rng: random.Random) -> LLM:
    """An engine of a random size: few places, and pages for little more than one text."""
    sizes = {
        "n_ctx": CONTEXT,
        "n_batch": rng.choice([32, 64, 200]),
        "n_parallel": rng.choice([2, 4, 6]),
        "n_threads": 1,
    }
    llm = LLM(target, drafter, **{**sizes, **options})
    llm._engine.close()
    few = native_engine({**sizes, **options})  # type: ignore[typeddict-item]
    llm._engine = _core.Engine(str(target), None if drafter is None else str(drafter), spare=0.5, **few)
    return llm


@dataclass
class Course:
    """What happened.

    Attributes:
        wrong: What was not as it is alone.
        counts: Of requests, texts that were displaced, tokens that were cached, drafted passes.
    """

    wrong: list[str]
    counts: Counter[str]

    def missing(self, drafts: bool) -> list[str]:
        """What should have happened and has not, so that nothing was tried of it."""
        wanted = ["cached", "drafted"] if drafts else ["cached"]
        return [f"found nothing {name}" for name in wanted if self.counts[name] == 0]


def run(
    target: Path, drafter: Path | str | None, options: dict[str, Any], requests: int, seed: int, fault: str = ""
) -> Course:
    """Asks a server for so many random texts, and compares."""
    rng = random.Random(seed)
    shared = [" ".join(rng.choice(WORDS) for _ in range(90)) for _ in range(3)]
    try:
        import llguidance  # noqa: F401

        grammars = True
    except ImportError:
        grammars = False
    asked = [random_request(rng, shared, grammars) for _ in range(requests)]
    with disturbed(seed, fault):
        llm = make(target, drafter, options, rng)
    with llm, running(AsyncLLM(llm, max_queue=64), max_queue=64) as served:
        asyncio.run(ask_all(served.url, asked, rng))
        metrics = served.client.get("/metrics").text
        displaced = llm.displaced
    names = {
        "prefix_cache_hits_total": "cached",
        "spec_decode_num_drafts_total": "drafted",
        "generation_tokens_total": "tokens",
    }
    counts = Counter({"requests": requests, "displaced": displaced})
    for line in metrics.splitlines():
        for name, short in names.items():
            if line.startswith(f"frspec_{name}{{"):
                counts[short] = int(float(line.split()[-1]))
    with LLM(target, n_ctx=CONTEXT, n_threads=1, n_parallel=1) as single:
        wrong = [difference for each in asked for difference in differences(single, each)]
    return Course(wrong, counts)


def main() -> int:
    """Runs all kinds; returns 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000, help="of all kinds together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", default=",".join(KINDS), help="default: %(default)s")
    parser.add_argument("--fault", choices=FAULTS, default="")
    parser.add_argument("--model", type=Path, help="instead of the demo pair's target")
    parser.add_argument("--drafter", type=Path, help="its drafter")
    options = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        models = Models(Path(folder))
        names = ["own"] if options.model else options.kinds.split(",")
        for number, name in enumerate(names):
            kind = Kind() if options.model else KINDS[name]
            target = options.model or models[kind.target]
            drafter = options.drafter if options.model else models.drafter(kind)
            count = options.requests // len(names) + (number < options.requests % len(names))
            course = run(target, drafter, kind.options, count, options.seed + number, options.fault)
            print(f"{name}: {dict(course.counts)}, {len(course.wrong)} differences", flush=True)
            for difference in course.wrong[:3]:
                print(f"  {difference}", flush=True)
            wrong += len(course.wrong)
            # Of a fault, and of a handful of requests, nothing of the kind is expected.
            if not options.fault and count >= ENOUGH:
                missing = course.missing(bool(drafter) or "ngram" in kind.options)
                print("".join(f"  {name}: {what}\n" for what in missing), end="", flush=True)
                wrong += len(missing)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
