"""The tensors of a mixture of experts."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from . import mxfp4
from .architectures import ExpertNames
from .mapped import Mapped
from .sizes import Sizes


def _every_second_output(raw: np.ndarray, first: int) -> np.ndarray:
    return np.asarray(raw[:, :, first::2].swapaxes(1, 2))


def _every_second_bias(raw: np.ndarray, first: int) -> np.ndarray:
    return raw[:, first::2]


def expert_tensors(sizes: Sizes, source: str, name: str, experts: ExpertNames) -> Iterator[Mapped]:
    """Those of the layer `source` in the checkpoint, `name` in GGUF, in the place of its feed-forward."""
    hidden, width, count = sizes.hidden, sizes.expert_width, sizes.experts
    router = f"{source}{experts.router}"
    yield Mapped(f"{router}.weight", f"{name}ffn_gate_inp.weight", (count, hidden))
    if experts.each is not None:
        for matrix, ours, shape in zip(
            experts.matrices, ("gate", "up", "down"), ((width, hidden), (width, hidden), (hidden, width)), strict=True
        ):
            each = [f"{source}{experts.each.format(expert=e, matrix=matrix)}" for e in range(count)]
            yield Mapped(each[0], f"{name}ffn_{ours}_exps.weight", shape, stacked=tuple(each))
        return
    yield Mapped(f"{router}.bias", f"{name}ffn_gate_inp.bias", (count,))
    # gpt-oss: the outputs of gate and up alternate.
    joined, down = f"{source}mlp.experts.gate_up_proj", f"{source}mlp.experts.down_proj"
    yield from (
        _packed_matrices(sizes, joined, down, name) if sizes.packed_experts else _matrices(sizes, joined, down, name)
    )
    for first, ours in enumerate(("gate", "up")):
        view = functools.partial(_every_second_bias, first=first)
        yield Mapped(f"{joined}_bias", f"{name}ffn_{ours}_exps.bias", (count, 2 * width), view=view)
    yield Mapped(f"{down}_bias", f"{name}ffn_down_exps.bias", (count, hidden))


def _matrices(sizes: Sizes, joined: str, down: str, name: str) -> Iterator[Mapped]:
    """Of gpt-oss in floats, where inputs come before outputs."""
    hidden, width, count = sizes.hidden, sizes.expert_width, sizes.experts
    for first, ours in enumerate(("gate", "up")):
        view = functools.partial(_every_second_output, first=first)
        yield Mapped(joined, f"{name}ffn_{ours}_exps.weight", (count, hidden, 2 * width), view=view)
    yield Mapped(down, f"{name}ffn_down_exps.weight", (count, width, hidden), view=lambda raw: raw.swapaxes(1, 2))


def _packed_matrices(sizes: Sizes, joined: str, down: str, name: str) -> Iterator[Mapped]:
    """Of gpt-oss in MXFP4, where outputs come before inputs."""
    hidden, width = sizes.hidden, sizes.expert_width
    for source, ours, rows, cols, first, step in (
        (joined, "gate", 2 * width, hidden, 0, 2),
        (joined, "up", 2 * width, hidden, 1, 2),
        (down, "down", hidden, width, 0, 1),
    ):
        encode = functools.partial(mxfp4.encoded, count=sizes.experts, rows=rows, cols=cols, first=first, step=step)
        parts = (f"{source}_blocks", f"{source}_scales")
        yield Mapped(parts[0], f"{name}ffn_{ours}_exps.weight", (), stacked=parts, encode=encode)
