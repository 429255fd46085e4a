"""A run of frspec-train for a target in a GGUF file: its texts and states by the engine, training, a drafter in GGUF.

Phases: the target writes and is read (continuations), the drafter is trained on the states (loop), the engine measures
what it is worth. Each goes on where an earlier run of the same command left off.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import shutil
import signal
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..._core import Tokenizer
from ..atomic import append
from ..console import note
from ..convert import convert
from ..rank import rank_by_count
from ..ranks_file import Ranks, write_ranks
from ..sketch import write_sketch
from .continuations import BEST, Gathered, Gathering
from .draft_vocabulary import choose_draft_ids
from .drafter_files import read_network, write_network
from .engine_check import accepted_lengths, speeds
from .gguf_target import GgufTarget
from .initial import make_network
from .job_options import TYPES, check, check_fit, default_dtype, device_of, with_defaults
from .loop import LOG, Trainer
from .objective import Objective
from .pace import Pace
from .settings import Settings, prepare_output
from .sketch import MOMENT_TOKENS, Sketch, SketchObjective
from .state_batches import SHORTEST, StateBatches
from .state_objective import Embedding, StateObjective, met_states
from .states_file import Document, Group, StateFormat, StatesFile
from .threads import use_best_threads

DATA, RANKS = "data", "ranks.gguf"
_SPEED_PROMPTS, _SPEED_TOKENS = 8, 128


def train(settings: Settings) -> None:
    """Trains what the settings ask for; the drafter is `settings.output`, all else is in `settings.folder`.

    Raises:
        FileNotFoundError: an input is missing.
        ValueError: an input or option does not fit; the message names it, what was found and what was expected.
        RuntimeError: the loss is not finite.
        OSError: the disk is full. What was done is kept.
        KeyboardInterrupt: the run was interrupted; likewise.
    """
    check(settings)
    device = device_of(settings.device)
    settings = dataclasses.replace(settings, dtype=settings.dtype or default_dtype(device))
    target = GgufTarget(settings.target, device, settings.ffn)
    tokenizer = Tokenizer(str(settings.target))
    given = read_network(settings.drafter, target) if settings.drafter is not None else None
    settings = with_defaults(settings, target, given)
    check_fit(settings, target, tokenizer.control_ids(), given)
    if not settings.resume and settings.output.exists():
        raise ValueError(f"{settings.output}: is there already, expected a new file (--resume continues a run)")
    fingerprint = target.fingerprint(settings.quiet)
    prepare_output(settings, fingerprint)
    # A drafter without taps continues the last state.
    layers = (settings.taps if given is None else given.taps) or (target.sizes.layers,)
    wanted = StateFormat(fingerprint, tuple(layers), len(layers) * target.sizes.hidden, BEST)
    with StatesFile(settings.data or settings.folder / DATA, wanted) as file:
        _check_disk(settings, file)
        gathered = _gather(settings, target, file)
        _train(settings, target, tokenizer, given, file, gathered)
    if settings.kind != "specvocab":
        _tell_speed(settings, gathered)


def _check_disk(settings: Settings, file: StatesFile) -> None:
    """Raises OSError where the disk cannot hold what is wanted, before hours go into it."""
    size = file.format.record.itemsize
    wanted = (settings.generate_tokens or 0) if settings.prompts else 0
    wanted = min(int(settings.disk * 1e9), (wanted + (settings.text_tokens or 0)) * size) - file.bytes
    free = shutil.disk_usage(file.path).free
    if wanted > free:
        raise OSError(
            f"{file.path}: the states of a token take {size} bytes: found {free / 1e9:.3g} GB free, expected "
            f"{wanted / 1e9:.3g} GB for --generate-tokens and --text-tokens (--data names another place)"
        )


def _gather(settings: Settings, target: GgufTarget, file: StatesFile) -> Gathered:
    threads = settings.threads or use_best_threads()
    gathering = Gathering(settings, target, file, Pace(settings.folder / LOG, settings.quiet), threads)
    before = None
    with contextlib.suppress(ValueError):  # not the main thread: no signals to handle
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return gathering.run()
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
        gathering.close()


def _train(
    settings: Settings, target: GgufTarget, tokenizer: Any, given: Any, file: StatesFile, gathered: Gathered
) -> None:
    documents, held_out = _documents(gathered.train), _documents(gathered.held_out)
    if not documents or not held_out:
        raise ValueError(f"{settings.target}: found only texts that end at once, expected some to learn from")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    assert settings.thin is not None
    assert settings.tokens_per_batch is not None
    of_batch = (settings.tokens_per_batch, settings.unroll, settings.thin, settings.prompt_weight, settings.seed)
    batches, validation = (StateBatches(file, some, *of_batch, target.device) for some in (documents, held_out))
    steps = settings.steps or max(1, round((settings.epochs or 1.0) * batches.per_epoch))
    torch.manual_seed(settings.seed)
    embed = Embedding(target, np.unique(np.concatenate([file.read(d)["token"] for d in (*documents, *held_out)])))
    objective: Objective
    if settings.kind == "specvocab":
        objective = _sketch(settings, target, tokenizer, given, embed, batches)
    else:
        counts = np.zeros(target.vocabulary, dtype=np.int64)
        for document in documents:
            counts += np.bincount(file.read(document)["token"][document.prompt :], minlength=target.vocabulary)
        _write_ranks(settings, tokenizer, counts)
        objective = _eagle(settings, target, tokenizer.control_ids(), given, embed, counts, gathered.prompts)
    if not settings.quiet:
        weights = sum(p.numel() for p in objective.module.parameters()) / 1e6
        note(
            f"{len(documents)} documents of {sum(document.length for document in documents):,} tokens, {len(held_out)} "
            f"held out; {steps} steps of about {settings.tokens_per_batch} tokens, {steps / batches.per_epoch:.2f} "
            f"epochs; {weights:.1f} M weights; {target.device}, {settings.dtype}"
        )
    Trainer(settings, objective, batches, validation.first(settings.eval_tokens), steps, target.device).run()
    if not settings.output.exists():  # of a run that had ended, and whose output was moved away
        objective.write(settings.folder)


def _eagle(
    settings: Settings,
    target: GgufTarget,
    control: Sequence[int],
    given: Any,
    embed: Embedding,
    counts: np.ndarray,
    prompts: Sequence[Sequence[int]],
) -> StateObjective:
    ids: tuple[int, ...] = ()
    if settings.draft_vocab is not None:
        ids = choose_draft_ids(settings.draft_vocab, settings.ranks, settings.target, control, counts)
    network = make_network(settings, target, given, ids).to(target.device)
    assert settings.samples is not None
    return StateObjective(
        network,
        embed,
        None if getattr(network, "lm_head", None) is not None else _head(target),
        counts,
        settings.decay,
        settings.samples,
        TYPES[str(settings.dtype)],
        functools.partial(_write, settings, network, target),
        functools.partial(_check, settings, prompts),
    )


def _sketch(
    settings: Settings, target: GgufTarget, tokenizer: Any, given: Any, embed: Embedding, batches: StateBatches
) -> SketchObjective:
    own = getattr(given, "lm_head", None)

    def write(sketch: Sketch) -> None:
        down, up = (factor.detach().cpu().numpy() for factor in (sketch.W_down, sketch.W_vocab))
        write_sketch(settings.output, down, up, settings.type, tokenizer.fingerprint, "trained", [])

    assert settings.samples is not None
    assert settings.rank is not None
    return SketchObjective(
        given,
        target,
        _head(target).float() if own is None else own.weight.detach(),
        functools.partial(met_states, given, embed),
        settings.unroll,
        settings.decay,
        settings.samples,
        settings.rank,
        batches.first(MOMENT_TOKENS),
        write,
    )


def _documents(groups: Sequence[Group]) -> list[Document]:
    """Those with something to learn."""
    return [d for group in groups for d in group.documents if d.length - d.prompt >= SHORTEST and d.length > SHORTEST]


def _head(target: GgufTarget) -> torch.Tensor:
    """The target's head, float16: rows of it are looked at in every step."""
    result = torch.empty(target.vocabulary, target.sizes.hidden, dtype=torch.float16)
    for first in range(0, target.vocabulary, 1 << 14):
        ids = np.arange(first, min(first + (1 << 14), target.vocabulary))
        result[first : first + len(ids)] = target.head_rows(ids).half()
    return result.to(target.device)


def _write_ranks(settings: Settings, tokenizer: Any, counts: np.ndarray) -> None:
    """Ranks of what the target writes, which the drafter's file gets."""
    ranks = Ranks(
        tokens=rank_by_count(counts, tokenizer.control_ids()),
        vocabulary=tokenizer.size,
        fingerprint=tokenizer.fingerprint,
        counts=counts,
        tokens_counted=int(counts.sum()),
        source=f"written by {settings.target.name}",
    )
    write_ranks(settings.folder / RANKS, ranks)


def _write(settings: Settings, network: Any, target: GgufTarget) -> None:
    """The drafter as a checkpoint, which another run can start from, and as GGUF."""
    write_network(settings.folder, network, target)
    convert(
        settings.folder,
        settings.output,
        settings.type,
        settings.target,
        settings.folder / RANKS,
        quiet=True,
        name=settings.output.stem,
    )


def _check(settings: Settings, prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Accepted lengths in the engine, of the drafter that was written last."""
    assert settings.length is not None
    threads = settings.threads or torch.get_num_threads()
    some = prompts[: settings.eval_prompts]
    tokens = settings.eval_new_tokens
    found = accepted_lengths(settings.target, settings.output, some, tokens, threads, settings.length)
    return {"accepted_length": found}


def _tell_speed(settings: Settings, gathered: Gathered) -> None:
    """The drafter's worth: tokens per second beside plain decoding."""
    threads = settings.threads or use_best_threads()
    prompts = gathered.prompts[:_SPEED_PROMPTS]
    assert settings.length is not None
    tokens = min(_SPEED_TOKENS, settings.max_new_tokens)
    found = speeds(settings.target, settings.output, prompts, tokens, threads, settings.length)
    record = {"phase": "speed", **dataclasses.asdict(found)}
    append(settings.folder / LOG, (json.dumps(record) + "\n").encode())
    if not settings.quiet:
        note(
            f"{settings.output}: {found.drafted:.1f} tokens/s, plain {found.plain:.1f}: "
            f"{found.drafted / max(found.plain, 1e-9):.2f} times; accepted length {found.accepted_length:.2f}"
        )
