"""Which tokens a reduced EAGLE-3 head knows: control tokens, then the most frequent ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..fingerprint import vocabulary_fingerprint
from ..ranks_file import read_ranks
from ..target import read_target
from .packing import Rows, TextTokenizer

_COUNTED_ROWS = 4096  # read at once


def check_count(count: int, target: Path, tokenizer: TextTokenizer) -> None:
    """Raises ValueError unless the control tokens and a token more fit into `count`, and it into the vocabulary."""
    vocabulary, control = tokenizer.vocabulary, tokenizer.control_ids
    if not len(control) < count <= vocabulary:
        raise ValueError(
            f"--draft-vocab: found {count}, expected more than the {len(control)} control tokens and at most "
            f"{vocabulary}, the vocabulary of {target}"
        )


def choose_draft_ids(
    count: int, ranks_file: Path | None, target: Path, tokenizer: TextTokenizer, train: Rows | None
) -> tuple[int, ...]:
    """`count` target ids, ascending: every control token, then by rank.

    Args:
        count: rows of the head, as check_count wants it.
        ranks_file: of frspec-rank, or FR-Spec's freq_*.pt; None: ranks are counted over `train`.
        target: its folder, whose vocabulary the ranks must speak of.
        tokenizer: of the target.
        train: the packed training rows.

    Raises:
        ValueError: the ranks are another vocabulary's or too few.
    """
    vocabulary, control = tokenizer.vocabulary, tokenizer.control_ids
    if ranks_file is not None:
        of_target = read_target(target)
        fingerprint = vocabulary_fingerprint(of_target.tokens)
        order = read_ranks(ranks_file).checked(ranks_file, of_target.vocabulary, fingerprint, target).tokens
    else:
        assert train is not None
        counts = np.zeros(vocabulary, dtype=np.int64)
        for begin in range(0, len(train), _COUNTED_ROWS):
            tokens = train.tokens(slice(begin, begin + _COUNTED_ROWS))
            counts += np.bincount(tokens.reshape(-1), minlength=vocabulary)
        order = np.argsort(-counts, kind="stable")
    rest = order[~np.isin(order, control)]
    if len(control) + rest.size < count:
        raise ValueError(f"{ranks_file}: ranks {order.size} tokens, expected at least {count} (--draft-vocab)")
    return tuple(sorted([*control, *rest[: count - len(control)].tolist()]))
