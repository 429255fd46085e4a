"""A run of frspec-train for a Hugging Face folder: target, text, drafter and loop put together."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..console import note
from .draft_vocabulary import choose_draft_ids, count_rows
from .drafter_files import read_network
from .frozen_target import FrozenTarget
from .generations import generated_documents
from .initial import make_network
from .job_options import TYPES, check, check_fit, default_dtype, device_of, with_defaults
from .loop import BatchSource, Trainer
from .objective import EagleObjective, Objective, met_states
from .packing import Rows, TextTokenizer, pack
from .settings import Settings, prepare_output
from .sketch import MOMENT_TOKENS, SketchObjective

GENERATIONS = "generations.jsonl"


def train(settings: Settings) -> None:
    """Trains what the settings ask for; writes all results into `settings.output`.

    Raises:
        FileNotFoundError: an input is missing.
        ValueError: an input or option does not fit; the message names it, what was found and what was expected.
        RuntimeError: the loss is not finite.
        OSError: the output cannot be written.
        KeyboardInterrupt: the run was interrupted; its checkpoint is written.
    """
    check(settings)
    device = device_of(settings.device)
    settings = dataclasses.replace(settings, dtype=settings.dtype or default_dtype(device))
    dtype = TYPES[str(settings.dtype)]
    if settings.threads:
        torch.set_num_threads(settings.threads)
    target = FrozenTarget(settings.target, device, dtype)
    tokenizer = TextTokenizer(settings.target, target.vocabulary)
    given = read_network(settings.drafter, target) if settings.drafter is not None else None
    settings = with_defaults(settings, target, given)
    assert settings.length is not None
    assert settings.tokens_per_batch is not None
    check_fit(settings, target, tokenizer.control_ids, given)
    prepare_output(settings)
    train_rows, held_out = _rows(settings, target, tokenizer)
    per_batch = max(1, settings.tokens_per_batch // settings.length)
    batches = BatchSource(train_rows, per_batch, settings.seed, device)
    validation = BatchSource(held_out, per_batch, settings.seed, device).first_rows(settings.eval_tokens)
    steps = settings.steps or max(1, round((settings.epochs or 1.0) * batches.per_epoch))
    torch.manual_seed(settings.seed)
    objective = _objective(settings, target, tokenizer, given, train_rows, batches)
    if not settings.quiet:
        note(
            f"{len(train_rows)} rows of {settings.length} tokens, {len(held_out)} held out; {steps} steps of "
            f"{batches.per_batch} rows, {steps / batches.per_epoch:.2f} epochs; {device}, {settings.dtype}"
        )
    Trainer(settings, objective, batches, validation, steps, device).run()


def _rows(settings: Settings, target: FrozenTarget, tokenizer: TextTokenizer) -> tuple[Rows, Rows]:
    sources: list[Callable[[], Iterator[list[int]]]] = []
    if settings.generate:
        path = settings.output / GENERATIONS
        sources.append(functools.partial(generated_documents, path, settings, target, tokenizer))
    if settings.text:
        sources.append(functools.partial(_text_documents, settings, tokenizer))
    documents = itertools.chain.from_iterable(source() for source in sources)
    names = [str(file) for file in (*settings.text, *settings.generate)]
    assert settings.length is not None
    return pack(settings.output / "data", documents, settings.length, tokenizer, names)


def _text_documents(settings: Settings, tokenizer: TextTokenizer) -> Iterator[list[int]]:
    return tokenizer.documents(settings.text, settings.field, settings.text_tokens, settings.quiet)


def _objective(
    settings: Settings,
    target: FrozenTarget,
    tokenizer: TextTokenizer,
    given: Any,
    rows: Rows,
    batches: BatchSource,
) -> Objective:
    assert settings.samples is not None
    if settings.kind == "specvocab":
        assert settings.rank is not None
        first = batches.first_rows(MOMENT_TOKENS)
        own = getattr(given, "lm_head", None)
        return SketchObjective(
            given,
            target,
            target.head if own is None else own.weight.detach().to(target.dtype),
            lambda batch: met_states(given, target, batch, settings.unroll),
            settings.unroll,
            settings.decay,
            settings.samples,
            settings.rank,
            first,
        )
    network = make_network(settings, target, given, _draft_ids(settings, tokenizer, rows)).to(target.device)
    return EagleObjective(network, target, settings.unroll, settings.decay, settings.samples, settings.feature_loss)


def _draft_ids(settings: Settings, tokenizer: TextTokenizer, rows: Rows) -> tuple[int, ...]:
    if settings.draft_vocab is None:
        return ()
    counts = count_rows(rows, tokenizer.vocabulary)
    return choose_draft_ids(settings.draft_vocab, settings.ranks, settings.target, tokenizer.control_ids, counts)
