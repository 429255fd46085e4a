"""One evaluation from its options to its results: what is checked before anything is loaded, and what is loaded."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import frspec_cpp

from ... import _core
from ..console import cores, note, require
from ..target import OWN_DRAFTER, drafter_file
from . import manifest as facts
from . import peers
from .drafters import look_at
from .engines import Engine, Loader
from .methods import KINDS, Choice, Contender, check_names, custom, make_contenders
from .peer_rows import PeerChoice, PeerOptions, PeerRow
from .prompts import PromptBuilder, Question, choose, read_questions, turn_name
from .records import Manifest, Method, Prompt
from .runner import Runner, clear_failure, missing, unfit
from .storage import MANIFEST, check_same, locked, read_manifest, read_runs, write_manifest

PROGRAM = "frspec-eval"
_SHOWN = 2000  # characters of a prompt that are kept for the report


@dataclass(frozen=True)
class Request:
    """The options of frspec-eval; see its help.

    `engine` are keyword arguments of `frspec_cpp.LLM` that all methods share, `tree` those that all but plain decoding
    share, `writing` those of `LLM.generate`.
    """

    output: Path
    model: Path
    drafters: Sequence[Path]
    prompts: Sequence[str] = ("demo",)
    methods: Sequence[str] | None = None
    heads: Sequence[str] = ()
    custom: Sequence[str] = ()
    categories: Sequence[str] | None = None
    count: int | None = None
    template: str = "auto"
    parse_special: bool = True
    repeats: int = 3
    warmup: int = 1
    seed: int = 0
    ngram: int = 8
    ranks: Path | None = None
    sketch: Path | None = None
    hf_target: Path | None = None
    hf_drafter: Path | None = None
    peers: Sequence[str] = ()
    server: Path | None = None
    draft_max: Sequence[int] = ()
    share: bool = False
    quiet: bool = False
    engine: dict[str, Any] = field(default_factory=dict)
    tree: dict[str, int] = field(default_factory=dict)
    writing: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Plan:
    """What is run: our methods, peers, and those that are skipped, with the reason."""

    peer_choice: PeerChoice
    contenders: list[Contender]
    peers: list[PeerRow]
    skipped: dict[str, str]

    @property
    def methods(self) -> list[Method]:
        return [contender.method for contender in self.contenders] + [row.method for row in self.peers]


def evaluate(request: Request, command: Sequence[str]) -> None:
    """Writes ``run.json`` and ``results.jsonl`` into `request.output`, or goes on where an earlier run stopped.

    Raises:
        NotLossless: A text is not plain decoding's.
        ValueError: An option, a prompt file or a drafter does not fit, or the folder holds another run's results.
        FileNotFoundError: A file is not there.
    """
    tqdm = require("tqdm", "a progress bar", "frspec_cpp[eval]")
    for option, value in request.writing.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{option}: found {value}, expected a finite number")
    questions = choose(read_questions(request.prompts), request.count, request.categories)
    tokenizer = _core.Tokenizer(str(request.model))
    plan = _plan(request, tokenizer)
    for name, reason in plan.skipped.items():
        note(f"{PROGRAM}: {name} is skipped: {reason}")
    settings = _settings(request)
    device = request.engine.get("device") or _core.default_device()
    identity = facts.identity(settings, _files(request, plan), questions, plan.methods, device)
    with locked(request.output):
        found = read_manifest(request.output) if (request.output / MANIFEST).exists() else None
        if found is not None:
            check_same(request.output, found, identity)
            done = {(run.method, run.prompt, run.repeat) for run in read_runs(request.output)}
            if not missing(found, done):
                clear_failure(request.output, done)
                note(f"{PROGRAM}: {request.output}: every text is there already")
                return
        loader = Loader(
            str(request.model), {**request.engine, "progress": not request.quiet}, _writing(request), request.share
        )
        plain = loader.load(plan.contenders[0])
        # Begins a text and writes none of it: what is wrong with the options is said before anything is written.
        plain.llm.stream([0], draft=False, **_writing(request))
        builder = PromptBuilder(plain.llm, request.template, request.parse_special)
        limit = plain.llm.n_ctx - int(request.writing["max_tokens"])
        if found is None:
            prompts, left_out = _fit(questions, builder, limit)
        engines: dict[str, Engine] = {plan.contenders[0].method.name: plain}
        for contender in plan.contenders[1:]:
            engines[contender.method.name] = loader.load(contender)
        for row in plan.peers:
            options = PeerOptions(
                target=request.model,
                choice=plan.peer_choice,
                threads=int(request.engine.get("n_threads") or cores()),
                context=plain.llm.n_ctx,
                writing=_writing(request),
                gpu=device.startswith("cuda") and device != "cuda-emulated",
                drafter=row.drafter,
            )
            engines[row.method.name] = peers.load_peer(row.method, options, tokenizer)
        if found is None:
            found = Manifest(
                version=frspec_cpp.__version__,
                created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
                command=shlex.join([PROGRAM, *command]),
                machine=facts.machine(plain.llm.device),
                target=request.model.name,
                settings={**settings, "template": builder.applies_template, "context": plain.llm.n_ctx},
                identity=identity,
                methods=plan.methods,
                prompts=prompts,
                skipped=plan.skipped,
                left_out=left_out,
            )
            write_manifest(request.output, found)
        runner = Runner(request.output, found, questions, engines, builder, tokenizer, limit)
        # With disable=None there is no bar unless stderr is a terminal.
        with tqdm.tqdm(
            total=runner.missing, desc="texts", unit=" texts", leave=False, disable=request.quiet or None
        ) as bar:
            runner.run(request.warmup, bar)


def _plan(request: Request, tokenizer: _core.Tokenizer) -> _Plan:
    for option, path in (("--ranks", request.ranks), ("--sketch", request.sketch)):
        if path is not None and not path.is_file():
            raise FileNotFoundError(f"{option} {path}: found no such file")
    drafters = [drafter_file(request.model, path) for path in request.drafters]
    if len({path.resolve() for path in drafters}) < len(drafters):
        raise ValueError("-d: found a drafter twice, expected each once")
    choice = Choice(
        drafters=[look_at(path, tokenizer) for path in drafters],
        heads=request.heads,
        ranks=request.ranks,
        sketch=request.sketch,
        ngram=request.ngram,
        tree=request.tree,
    )
    asked = request.methods
    for name in asked or ():
        if name not in KINDS and name not in peers.KINDS:
            raise ValueError(f"--methods: found '{name}', expected some of {', '.join([*KINDS, *peers.KINDS])}")
    for name in request.peers:
        if name not in peers.KINDS:
            raise ValueError(f"--peers: found '{name}', expected some of {', '.join(peers.KINDS)}")
    # Given customs alone are all that is asked for.
    own = [] if asked is None and request.custom else None if asked is None else [n for n in asked if n in KINDS]
    contenders = make_contenders(own, choice) + [custom(text, choice) for text in request.custom]
    found: list[PeerRow] = []
    skipped: dict[str, str] = {}
    peer_choice = PeerChoice(choice.drafters, request.draft_max, request.server, request.hf_target, request.hf_drafter)
    kinds = list(dict.fromkeys(name for name in [*(asked or ()), *request.peers] if name in peers.KINDS))
    _check_read(request, kinds)
    for name in kinds:
        rows = peers.peer_rows(name, peer_choice)
        if isinstance(rows, str):
            skipped[name] = rows
        elif (reason := peers.unsupported_sampling(request.writing)) is not None:
            skipped[name] = reason
        else:
            found += rows
    plan = _Plan(peer_choice, contenders, found, skipped)
    check_names(plan.methods)
    return plan


def _check_read(request: Request, kinds: Sequence[str]) -> None:
    given = {
        "--draft-max": request.draft_max,
        "--llama-server": request.server,
        "--hf-target": request.hf_target,
        "--hf-drafter": request.hf_drafter,
    }
    for option, readers in peers.READERS.items():
        if given[option] and not set(readers) & set(kinds):
            raise ValueError(f"{option}: none of the methods uses it, expected some of {', '.join(readers)}")


def _settings(request: Request) -> dict[str, Any]:
    return {
        **request.writing,
        "seed": request.seed,
        "repeats": request.repeats,
        "warmup": request.warmup,
        "template": request.template,
        "parse_special": request.parse_special,
        "threads": request.engine.get("n_threads") or cores(),
        "context": request.engine.get("n_ctx") or 0,
        **{name: value for name, value in request.engine.items() if name not in ("n_threads", "n_ctx", "device")},
        "shared_engines": request.share,
    }


def _writing(request: Request) -> dict[str, Any]:
    return {**request.writing, "seed": request.seed}


def _files(request: Request, plan: _Plan) -> list[Path]:
    """Every file that decides what comes out."""
    paths: list[Path | None] = [request.model]
    for contender in plan.contenders:
        given = (contender.options.get(name) for name in ("drafter", "ranks", "sketch"))
        paths += [Path(path) for path in given if path and path != OWN_DRAFTER]
    paths += [row.drafter for row in plan.peers]
    if any(row.method.kind.startswith("transformers") for row in plan.peers):
        paths += [request.hf_target, request.hf_drafter]
    return list(dict.fromkeys(path for path in paths if path is not None))


def _fit(questions: Sequence[Question], builder: PromptBuilder, limit: int) -> tuple[list[Prompt], dict[str, str]]:
    """The prompts of the questions whose first turn fits, and the other questions with the reason."""
    prompts: list[Prompt] = []
    left_out: dict[str, str] = {}
    for number, question in enumerate(questions):
        length = len(builder.tokens(question.turns[:1], [], question.system))
        reason = unfit(length, limit)
        if reason:
            left_out[question.name] = reason
            continue
        for turn, text in enumerate(question.turns, 1):
            prompts.append(
                Prompt(
                    index=len(prompts),
                    name=turn_name(question.name, turn),
                    category=question.category,
                    tokens=length if turn == 1 else 0,
                    question=number,
                    turn=turn,
                    text=text if len(text) <= _SHOWN else "\u2026" + text[-_SHOWN:],
                )
            )
    if not prompts:
        reason = next(iter(left_out.values()))
        raise ValueError(f"--prompts: none of {len(questions)} fits: {reason}; see --ctx-size and --max-tokens")
    for name, reason in left_out.items():
        note(f"{PROGRAM}: prompt {name} is left out: {reason}")
    return prompts, left_out
