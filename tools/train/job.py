"""One run of frspec-train: target, text, drafter and loop put together."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..console import note
from .draft_vocabulary import check_count, choose_draft_ids
from .drafter_files import layer_sizes, read_network
from .frozen_target import FrozenTarget, default_taps
from .generations import generated_documents
from .initial import start_from_target
from .loop import BatchSource, Trainer
from .networks import Eagle2, Eagle3
from .objective import EagleObjective, Objective
from .packing import Rows, TextTokenizer, pack
from .sampled_softmax import ALL_ROWS_UP_TO, DEFAULT_SAMPLES
from .settings import Settings, prepare_output
from .sketch import SketchObjective

GENERATIONS = "generations.jsonl"
_MOMENT_TOKENS = 32768  # that the second moment of SpecVocab's states is taken over
_TYPES = {"bf16": torch.bfloat16, "f32": torch.float32}


def train(settings: Settings) -> None:
    """Trains what the settings ask for; writes all results into `settings.output`.

    Raises:
        FileNotFoundError: an input is missing.
        ValueError: an input or option does not fit; the message names it, what was found and what was expected.
        RuntimeError: the loss is not finite.
        OSError: the output cannot be written.
        KeyboardInterrupt: the run was interrupted; its checkpoint is written.
    """
    _check(settings)
    device = _device(settings.device)
    dtype = _TYPES[settings.dtype or default_dtype(device)]
    settings = dataclasses.replace(settings, dtype=next(name for name, t in _TYPES.items() if t == dtype))
    if settings.threads:
        torch.set_num_threads(settings.threads)
    target = FrozenTarget(settings.target, device, dtype)
    tokenizer = TextTokenizer(settings.target, target.vocabulary)
    given = read_network(settings.drafter, target) if settings.drafter is not None else None
    settings = _with_defaults(settings, target, given)
    _check_fit(settings, target, tokenizer, given)
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
    Trainer(settings, objective, batches, validation, steps).run()


def _check(settings: Settings) -> None:
    """Options that contradict each other or the kind; raises ValueError."""
    if not settings.text and not settings.generate:
        raise ValueError("found neither --text nor --generate, expected text to train on")
    if settings.steps is not None and settings.epochs is not None:
        raise ValueError("found both --steps and --epochs, expected one of them")
    if settings.kind == "specvocab" and settings.drafter is None:
        raise ValueError("specvocab: found no --drafter, expected the drafter whose states the sketch meets")
    only: dict[str, tuple[str, ...]] = {
        "eagle3": ("draft_vocab", "ranks", "own_head", "taps", "norm_before_fc", "fc_norm", "norm_output"),
        "specvocab": ("rank",),
        "eagle2": ("feature_loss",),
    }
    for kind, names in only.items():
        for name in names:
            if kind != settings.kind and getattr(settings, name):
                raise ValueError(f"--{name.replace('_', '-')}: is for {kind}, found {settings.kind}")
    if settings.norm_before_fc and settings.fc_norm:
        raise ValueError("found both --norm-before-fc and --fc-norm, expected one kind of norm before fc")
    if settings.ranks is not None and settings.draft_vocab is None:
        raise ValueError("--ranks: found no --draft-vocab, expected how many of the ranks the head keeps")
    if settings.length < settings.unroll + 2:
        raise ValueError(f"--length: found {settings.length}, expected more than --unroll ({settings.unroll}) + 1")


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device: found cuda, expected a CUDA device that this PyTorch can use (or --device cpu)")
    return torch.device(name)


def default_dtype(device: torch.device) -> str:
    """bf16 on CUDA and on processors with instructions for it, where it is several times faster; else f32."""
    if device.type == "cuda":
        return "bf16"
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return "bf16" if supported() else "f32"


def _with_defaults(settings: Settings, target: FrozenTarget, given: Any) -> Settings:
    hidden = target.sizes.hidden
    # Wider networks want smaller steps (2203.03466): 1e-4, as published for 4096, and more for narrower ones.
    usual = 5e-5 if settings.kind == "specvocab" else min(1e-3, 0.4 / hidden)
    samples = settings.samples
    if samples is None:
        samples = 0 if target.vocabulary <= ALL_ROWS_UP_TO else DEFAULT_SAMPLES
    rank, taps = settings.rank, settings.taps
    if settings.kind == "specvocab":
        rank = rank or max(1, hidden // 8)
    if settings.kind == "eagle3":
        taps = taps or (given.taps if given is not None else default_taps(target.sizes.layers))
    return dataclasses.replace(settings, lr=settings.lr or usual, samples=samples, rank=rank, taps=taps)


def _check_fit(settings: Settings, target: FrozenTarget, tokenizer: TextTokenizer, given: Any) -> None:
    """What does not fit the target or the drafter; raises ValueError before hours go into generating text."""
    layers, hidden, context = target.sizes.layers, target.sizes.hidden, target.sizes.context
    if given is not None and settings.kind not in (given.kind, "specvocab"):
        raise ValueError(f"{settings.drafter}: found an {given.kind} drafter, expected {settings.kind}")
    if settings.length > context:
        raise ValueError(f"--length: found {settings.length}, expected at most {context}, that of {target.folder}")
    if settings.rank is not None and settings.rank > hidden:
        raise ValueError(f"--rank: found {settings.rank}, expected at most {hidden}, the width of {target.folder}")
    taps = settings.taps
    if taps is not None and (list(taps) != sorted(taps) or not 0 <= taps[0] <= taps[-1] < layers):
        raise ValueError(f"--taps: found {taps}, expected ascending ids of layers below {layers}")
    if settings.draft_vocab is not None:
        check_count(settings.draft_vocab, settings.target, tokenizer)
        if settings.ranks is not None:
            _draft_ids(settings, tokenizer, None)
    if given is None:
        return
    if settings.kind == "specvocab":
        if getattr(given, "draft_ids", ()):
            raise ValueError(
                f"{settings.drafter}: found a head of {len(given.draft_ids)} rows, "
                f"expected one with a row for each of the {target.vocabulary} tokens"
            )
        return
    if settings.kind == "eagle3":
        for name, asked, there in (
            ("taps", taps, given.taps),
            (
                "norm-before-fc",
                settings.norm_before_fc or given.input_norm is not None,
                given.input_norm is not None,
            ),
            ("fc-norm", settings.fc_norm or given.fc_norm is not None, given.fc_norm is not None),
            ("norm-output", settings.norm_output or given.norm_output, given.norm_output),
        ):
            if asked != there:
                raise ValueError(f"--{name}: found {asked}, expected {there}, as {settings.drafter} was trained")


def _rows(settings: Settings, target: FrozenTarget, tokenizer: TextTokenizer) -> tuple[Rows, Rows]:
    sources: list[Callable[[], Iterator[list[int]]]] = []
    if settings.generate:
        path = settings.output / GENERATIONS
        sources.append(functools.partial(generated_documents, path, settings, target, tokenizer))
    if settings.text:
        sources.append(functools.partial(_text_documents, settings, tokenizer))
    documents = itertools.chain.from_iterable(source() for source in sources)
    names = [str(file) for file in (*settings.text, *settings.generate)]
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
        first = batches.first_rows(_MOMENT_TOKENS)
        return SketchObjective(given, target, settings.unroll, settings.decay, settings.samples, settings.rank, first)
    if settings.kind == "eagle2":
        network = given if given is not None else Eagle2(layer_sizes(target, "eagle2"))
        if given is None:
            start_from_target(network, target)
    else:
        network = _eagle3(settings, target, given, _draft_ids(settings, tokenizer, rows))
    network = network.to(target.device)
    return EagleObjective(network, target, settings.unroll, settings.decay, settings.samples, settings.feature_loss)


def _draft_ids(settings: Settings, tokenizer: TextTokenizer, rows: Rows | None) -> tuple[int, ...]:
    if settings.draft_vocab is None:
        return ()
    return choose_draft_ids(settings.draft_vocab, settings.ranks, settings.target, tokenizer, rows)


def _eagle3(settings: Settings, target: FrozenTarget, given: Any, ids: tuple[int, ...]) -> Any:
    """A fresh network, or `given` with the head that is asked for; a new head starts as rows of the target's."""
    if given is not None:
        if not ids and not settings.own_head:
            return given
        if given.lm_head is not None and ids in ((), given.draft_ids):
            return given
    assert settings.taps is not None
    network = Eagle3(
        given.sizes if given is not None else layer_sizes(target, "eagle3"),
        settings.taps,
        norm_before_fc=given.input_norm is not None if given is not None else settings.norm_before_fc,
        fc_norm=given.fc_norm is not None if given is not None else settings.fc_norm,
        norm_output=given.norm_output if given is not None else settings.norm_output,
        draft_ids=ids,
        own_head=settings.own_head,
        vocabulary=target.vocabulary,
    )
    if given is None:
        start_from_target(network, target)
    else:
        weights = {name: value for name, value in given.state_dict().items() if not name.startswith("lm_head.")}
        network.load_state_dict(weights, strict=False)
    if network.lm_head is not None:
        with torch.no_grad():
            rows = target.head[list(ids)] if ids else target.head
            network.lm_head.weight.copy_(rows)
    return network
