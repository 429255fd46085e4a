"""Data sets: texts behind their prompts, and ranks of their tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from frspec_cpp import _core
from frspec_cpp.llm import LLM

if TYPE_CHECKING:
    from ray.data import Dataset

    from frspec_cpp.tools.ranks_file import Ranks

Batch = dict[str, Any]  # a column's name, and its values: numpy arrays


class Generate:
    """Writes a text behind each prompt of a data set.

    To be given to Ray::

        ds.map_batches(Generate, fn_constructor_kwargs={"model": "target.gguf", "max_tokens": 64}, batch_size=64,
                       compute=ray.data.ActorPoolStrategy(size=2))

    Ray computes a batch anew where an actor dies: a seed gives the same texts. The order of rows is not kept.

    Args:
        model: As of :class:`frspec_cpp.LLM`, like the drafter.
        drafter: A drafter.
        prompt: The column with the prompts.
        output: The column for the texts; OUTPUT_tokens and OUTPUT_reason tell how many tokens, and why they ended.
        max_tokens: Of a text.
        load: Other options of LLM.
        options: Of the texts, as of :meth:`LLM.generate`.
    """

    def __init__(
        self,
        model: str,
        drafter: str | None = None,
        prompt: str = "prompt",
        output: str = "text",
        max_tokens: int | None = 128,
        load: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self._llm = LLM(model, drafter, **(load or {}))
        self._prompt, self._output = prompt, output
        self._max_tokens, self._options = max_tokens, options

    def __call__(self, batch: Batch) -> Batch:
        """The batch with the texts."""
        if self._prompt not in batch:
            raise ValueError(f"column '{self._prompt}': found {', '.join(batch)}, expected one with the prompts")
        prompts = [str(prompt) for prompt in batch[self._prompt]]
        texts = self._llm.generate(prompts, self._max_tokens, **self._options)
        return {
            **batch,
            self._output: np.array([text.text for text in texts], dtype=object),
            f"{self._output}_tokens": np.array([len(text.tokens) for text in texts], dtype=np.int64),
            f"{self._output}_reason": np.array([text.finish_reason for text in texts], dtype=object),
        }


class _Count:
    """Counts the tokens of a batch: one row, the count of each token."""

    def __init__(self, vocabulary: str, column: str) -> None:
        self._tokenizer = _core.Tokenizer(vocabulary)
        self._column = column

    def __call__(self, batch: Batch) -> Batch:
        counts = np.zeros(self._tokenizer.size, dtype=np.int64)
        self._tokenizer.count([str(text) for text in batch[self._column]], counts, threads=1)
        return {"counts": counts[None]}


def count_ranks(
    dataset: Dataset, vocabulary: str, output: str, column: str = "text", workers: int = 1, batch_size: int = 1024
) -> Ranks:
    """Ranks the tokens of a data set, as `frspec-rank` does with files; returns what was written.

    Args:
        dataset: A Ray data set.
        vocabulary: A GGUF file with the tokenizer, which every machine has.
        output: The ranks file to write.
        column: The texts.
        workers: Processes that count.
        batch_size: Rows that are counted at once.

    Raises:
        ValueError: There are no tokens.
    """
    import ray.data

    from frspec_cpp.tools.rank import write_counted

    tokenizer = _core.Tokenizer(vocabulary)
    counts = np.zeros(tokenizer.size, dtype=np.int64)
    counted = dataset.map_batches(
        _Count,
        fn_constructor_args=(vocabulary, column),
        batch_size=batch_size,
        compute=ray.data.ActorPoolStrategy(size=workers),
    )
    for row in counted.iter_rows():
        counts += row["counts"]
    if not counts.any():
        raise ValueError(f"column '{column}': found no tokens to count")
    return write_counted(Path(output), tokenizer, counts, f"a data set's column '{column}'")
