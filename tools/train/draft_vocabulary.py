"""Which tokens a reduced EAGLE-3 head knows: control tokens, then the most frequent ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..fingerprint import vocabulary_fingerprint
from ..ranks_file import read_ranks
from ..target import read_target
from .packing import Rows

_COUNTED_ROWS = 4096  # read at once


def check_count(count: int, target: Path, vocabulary: int, control: Sequence[int]) -> None:
    """Raises ValueError unless the control tokens and a token more fit into `count`, and it into the vocabulary."""
    if not len(control) < count <= vocabulary:
        raise ValueError(
            f"--draft-vocab: found {count}, expected more than the {len(control)} control tokens and at most "
            f"{vocabulary}, the vocabulary of {target}"
        )


def choose_draft_ids(
    count: int, ranks_file: Path | None, target: Path, control: Sequence[int], counts: np.ndarray
) -> tuple[int, ...]:
    """`count` target ids, ascending: every control token, then by rank.

    Args:
        count: rows of the head, as check_count wants it.
        ranks_file: of frspec-rank, or FR-Spec's freq_*.pt; None: by `counts`.
        target: its folder or file, whose vocabulary the ranks must speak of.
        control: ids of its control tokens.
        counts: of each token in the training text, (V).

    Raises:
        ValueError: the ranks are another vocabulary's or too few.
    """
    if ranks_file is not None:
        of_target = read_target(target)
        fingerprint = vocabulary_fingerprint(of_target.tokens)
        order = read_ranks(ranks_file).checked(ranks_file, of_target.vocabulary, fingerprint, target).tokens
    else:
        order = np.argsort(-counts, kind="stable")
    rest = order[~np.isin(order, control)]
    if len(control) + rest.size < count:
        raise ValueError(f"{ranks_file}: ranks {order.size} tokens, expected at least {count} (--draft-vocab)")
    return tuple(sorted([*control, *rest[: count - len(control)].tolist()]))


def count_rows(rows: Rows, vocabulary: int) -> np.ndarray:
    """How often each token occurs: int64, (V)."""
    counts = np.zeros(vocabulary, dtype=np.int64)
    for begin in range(0, len(rows), _COUNTED_ROWS):
        tokens = rows.tokens(slice(begin, begin + _COUNTED_ROWS))
        counts += np.bincount(tokens.reshape(-1), minlength=vocabulary)
    return counts
