"""The target's own continuations of prompts: what it will be asked to verify, so the best text to learn from.

Prompts are the first tokens of the texts of some files. Continuations are appended to `generations.jsonl` a batch at a
time; a run that was interrupted goes on behind the last whole batch. The random numbers of a batch depend on the seed
and the number of the batch only.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ..console import progress_bar
from ..text_files import check_input, read_texts
from .frozen_target import FrozenTarget
from .packing import TextTokenizer, text_batches
from .settings import Settings

_SHORTEST_PROMPT = 4  # tokens


def generated_documents(
    path: Path, settings: Settings, target: FrozenTarget, tokenizer: TextTokenizer
) -> Iterator[list[int]]:
    """Prompt and continuation of every generation, as one document; generates what `path` still lacks.

    The whole text is learned from, prompts too: what is learned is the target's distribution, which is as good behind
    a token of the prompt as behind one of its own, and drafting begins right behind prompts.
    """
    _generate(path, settings, target, tokenizer)
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)["tokens"]


def _generate(path: Path, settings: Settings, target: FrozenTarget, tokenizer: TextTokenizer) -> None:
    wanted, temperatures = settings.generate_tokens, settings.temperature
    assert wanted is not None
    assert temperatures is not None
    done, continued = _recover(path, settings.generate_batch)
    prompts = _prompts(settings, tokenizer)
    for _ in itertools.islice(prompts, done):
        pass
    with (
        path.open("a", encoding="utf-8") as file,
        progress_bar(wanted, "generating", settings.quiet, "tok") as bar,
    ):
        bar.update(continued)
        for number in itertools.count(done // settings.generate_batch):
            batch = list(itertools.islice(prompts, settings.generate_batch))
            if not batch or continued >= wanted:
                return
            temperature = temperatures[number % len(temperatures)]
            generator = torch.Generator(target.device).manual_seed(settings.seed * 1_000_003 + number)
            texts = continue_prompts(target, batch, settings.max_new_tokens, temperature, tokenizer.eos, generator)
            lines = []
            for prompt, continuation in zip(batch, texts, strict=True):
                record = {
                    "prompt_tokens": len(prompt),
                    "temperature": temperature,
                    "tokens": prompt + continuation,
                    "text": tokenizer.decode(prompt + continuation),
                }
                lines.append(json.dumps(record, ensure_ascii=False) + "\n")
                continued += len(continuation)
                bar.update(len(continuation))
            file.write("".join(lines))
            file.flush()


def _recover(path: Path, batch: int) -> tuple[int, int]:
    """Lines of whole batches of an earlier run, and how many tokens were continued in them; the rest is cut off."""
    if not path.is_file():
        return 0, 0
    ends, continued = [0], [0]  # behind each line: bytes, tokens
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                record = json.loads(line)
                new = len(record["tokens"]) - record["prompt_tokens"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}, line {number}: found no record of a generation: {error!r}") from error
            ends.append(ends[-1] + len(line))
            continued.append(continued[-1] + new)
    lines = (len(ends) - 1) // batch * batch
    with path.open("r+b") as file:
        file.truncate(ends[lines])
    return lines, continued[lines]


def _prompts(settings: Settings, tokenizer: TextTokenizer) -> Iterator[list[int]]:
    """The first tokens of each text, in the order of the files."""
    for file in settings.generate:
        check_input(file)
    found = False
    texts = (text for file in settings.generate for text in read_texts(file, settings.field, lambda _: None))
    # No token is longer than a few dozen characters, so the head of a text is enough.
    heads = (text[: settings.prompt_tokens * 48] for text in texts)
    for batch in text_batches(heads, 1 << 16):
        for ids in tokenizer.encode(batch):
            if len(ids) >= _SHORTEST_PROMPT:
                found = True
                yield ids[: settings.prompt_tokens]
    if not found:
        names = ", ".join(str(file) for file in settings.generate)
        raise ValueError(f"{names}: no text of at least {_SHORTEST_PROMPT} tokens to continue")


def continue_prompts(
    target: FrozenTarget,
    prompts: Sequence[Sequence[int]],
    count: int,
    temperature: float,
    eos: int | None,
    generator: Any,
) -> list[list[int]]:
    """Continues all `prompts` together by up to `count` tokens, up to and including `eos`.

    Args:
        target: the model.
        prompts: token ids, of any lengths.
        count: most tokens to add to each.
        temperature: 0 for the likeliest token, else softmax(logits / temperature).
        eos: ends a text; None: nothing does.
        generator: the torch.Generator of the random numbers.
    """
    longest = max(map(len, prompts))
    tokens = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):  # padded on the left, so that all go on at the same column
        tokens[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    tokens, mask = tokens.to(target.device), mask.to(target.device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    past, finished, result = None, torch.zeros(len(prompts), dtype=torch.bool, device=target.device), []
    with torch.no_grad():
        for _ in range(count):
            out = target.model.model(
                tokens, attention_mask=mask, position_ids=positions, past_key_values=past, use_cache=True
            )
            past = out.past_key_values
            fresh = _choose(out.last_hidden_state[:, -1] @ target.head.T, temperature, generator)
            result.append(fresh.masked_fill(finished, -1))
            if eos is not None:
                finished = finished | (fresh == eos)
                if bool(finished.all()):
                    break
            tokens, positions = fresh[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
    columns = torch.stack(result, dim=1).tolist()
    return [[token for token in row if token >= 0] for row in columns]


def _choose(logits: torch.Tensor, temperature: float, generator: Any) -> torch.Tensor:
    if temperature == 0.0:
        return logits.max(-1).indices
    # By the inverse of the distribution function: torch.multinomial draws a random number per token of the vocabulary.
    reached = torch.softmax(logits.float() / temperature, dim=-1).cumsum(-1)  # (batch, V)
    drawn = torch.rand(logits.shape[0], 1, generator=generator, device=logits.device) * reached[:, -1:]
    return torch.searchsorted(reached, drawn, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
