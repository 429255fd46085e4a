"""Records of an evaluation that never took place, for the tests of its report: plausible, and always the same."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path

from frspec_cpp.tools.evaluate.records import FORMAT, Manifest, Method, Prompt, Run

from frspec_cpp import Step

CATEGORIES = ("mt_bench", "translation", "summarization", "qa", "math_reasoning", "rag")
WORDS = (
    " the",
    " river",
    " runs",
    ",",
    " and",
    " so",
    " do",
    " we",
    ".\n",
    " It",
    " was",
    " <b>",
    " a",
    "\n\n",
    " cold",
)
FULL_ROWS = 65536


def eagle(head: str, rows: int | None, kind: str = "frspec") -> Method:
    """A method that drafts with the demo's EAGLE-2 drafter."""
    name = f"{kind} {head}" if head != "full" else kind
    return Method(name, kind, drafter="demo-eagle2.gguf", head=head, rows=rows, settings={"tree": [5, 10, 60]})


METHODS = [
    Method("plain", "plain"),
    eagle("full", FULL_ROWS, "eagle2"),
    *(eagle(f"ranked:{rows}", rows) for rows in (1024, 4096, 16384)),
    eagle("speculated:2048", 2048, "specvocab"),
    Method("ngram", "ngram", settings={"ngram": 8}),
    Method("auto", "auto", drafter="demo-eagle2.gguf", head="auto"),
    Method("llama.cpp lookup", "llama-cpp-lookup", engine="llama-cpp-python 0.3.16", exact=False),
]


def make_prompts(categories: tuple[str, ...] = CATEGORIES, each: int = 3) -> list[Prompt]:
    """`each` questions of every category; MT-Bench's have two turns."""
    prompts: list[Prompt] = []
    for number, category in enumerate(categories):
        for question in range(each):
            for turn in range(2 if category == "mt_bench" else 1):
                name = f"spec_bench.jsonl:{81 + each * number + question}" + (" turn 2" if turn else "")
                asked = each * number + question
                prompts.append(Prompt(len(prompts), name, category, 40 + 7 * question, asked, turn + 1))
    return prompts


def make_manifest(methods: list[Method], prompts: list[Prompt], repeats: int = 2) -> Manifest:
    """The manifest of a run of `methods` on `prompts`."""
    machine = {
        "cpu": "An Imaginary CPU @ 2.1 GHz",
        "cores": 2,
        "memory_gib": 23.5,
        "device": "cpu (amx)",
        "python": "3.11.2",
        "system": "Linux 6.1",
    }
    settings = {
        "max_tokens": 96,
        "temperature": 0.0,
        "seed": 0,
        "repeats": repeats,
        "ignore_eos": True,
        "template": True,
    }
    command = "frspec-eval -m demo.gguf -d demo-eagle2.gguf --prompts spec_bench.jsonl -o report/"
    skipped = {"transformers assisted": "the 'transformers' package is not installed"}
    identity = {"format": FORMAT, "target": "sha256:0"}
    created = "2025-01-02T03:04:05+00:00"
    return Manifest("0.1.0", created, command, machine, "demo.gguf", settings, identity, methods, prompts, skipped)


def make_text(random_: random.Random, count: int) -> list[int]:
    """Token ids of a text."""
    return [random_.randrange(len(WORDS)) for _ in range(count)]


def _chance(method: Method) -> float:
    """That a draft is accepted."""
    if method.kind == "plain":
        return 0.0
    if method.kind == "ngram":
        return 0.3
    return 0.72 - (0.0 if method.rows is None else 0.05 * max(0.0, 16 - method.rows.bit_length()))


def make_steps(random_: random.Random, method: Method, tokens: list[int]) -> list[Step]:
    """Steps that give `tokens`, the first of which the prompt's own pass gave."""
    steps = []
    at = 1
    chance = _chance(method)
    while at < len(tokens):
        drafts = method.kind != "plain" and (method.kind != "ngram" or random_.random() < 0.5)
        wanted = 0
        while drafts and wanted < 5 and random_.random() < chance:
            wanted += 1
        taken = tokens[at : at + wanted + 1]
        at += len(taken)
        ended = wanted == 5 or len(taken) <= wanted
        offered = [] if ended or not drafts else random_.sample(range(len(WORDS)), 3)
        small = method.rows is not None and method.rows < FULL_ROWS
        inside = None if not offered or method.kind == "ngram" else not (small and random_.random() < 0.3)
        head = 0.0 if not drafts or method.kind == "ngram" else 1e-3 * (0.2 + (method.rows or 8192) / 20000)
        transformer = 0.0 if not drafts else 1.1e-3 * random_.uniform(0.9, 1.2)
        verify = (4.1e-3 if drafts else 3.2e-3) * random_.uniform(0.95, 1.1)
        total = transformer + head + verify + 0.15e-3
        nodes = 61 if drafts else 1
        accepted = min(wanted, len(taken))
        steps.append(Step(taken, accepted, nodes, offered, inside, transformer, head, verify, total))
    return steps


def make_runs(manifest: Manifest, seed: int = 7) -> list[Run]:
    """All records of the manifest's run, interleaved as the runner does."""
    random_ = random.Random(seed)
    runs = []
    repeats = int(manifest.settings["repeats"])
    texts = [make_text(random_, int(manifest.settings["max_tokens"])) for _ in manifest.prompts]
    for repeat in range(repeats + 1):
        for prompt in manifest.prompts:
            for method in manifest.methods:
                tokens = texts[prompt.index]
                if not method.exact and prompt.index % 4 == 0:
                    tokens = [*tokens[:50], *make_text(random_, len(tokens) - 50)]
                runs.append(_run(random_, method, prompt, repeat, tokens))
    return runs


def _run(random_: random.Random, method: Method, prompt: Prompt, repeat: int, tokens: list[int]) -> Run:
    prefill = 1e-4 * prompt.tokens
    first = repeat == 0
    pieces = [WORDS[token] for token in tokens] if first else None
    ids = tokens if first else None
    if not method.exact:
        total = prefill + 4e-3 * len(tokens) * random_.uniform(0.9, 1.1)
        none = (None, None, None, None, None, None)
        return Run(method.name, prompt.index, repeat, len(tokens), *none, total, "length", ids, pieces)
    steps = make_steps(random_, method, tokens)
    said = {str(token): WORDS[token] for step in steps for token in step.offered}
    scale = 0.97 * random_.uniform(0.97, 1.03)
    return Run(
        method=method.name,
        prompt=prompt.index,
        repeat=repeat,
        generated=len(tokens),
        steps=len(steps),
        step_tokens=sum(len(step.tokens) for step in steps),
        drafted_steps=sum(step.nodes > 1 for step in steps),
        prefill_seconds=prefill,
        draft_seconds=scale * sum(step.transformer_seconds + step.head_seconds for step in steps),
        verify_seconds=scale * sum(step.verify_seconds for step in steps),
        total_seconds=prefill + scale * sum(step.total_seconds for step in steps),
        finish_reason="length",
        tokens=ids,
        pieces=pieces,
        trace=steps if first else None,
        said=said if first else None,
    )


def write_records(folder: Path, manifest: Manifest, runs: list[Run]) -> Path:
    """The two files of an evaluation in `folder`, which is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(asdict(manifest)), encoding="utf-8")
    lines = [json.dumps(asdict(run)) + "\n" for run in runs]
    (folder / "results.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def write_example(folder: Path, each: int = 3, repeats: int = 2) -> Path:
    """A whole example in `folder`, which is returned."""
    manifest = make_manifest(METHODS, make_prompts(each=each), repeats)
    return write_records(folder, manifest, make_runs(manifest))
