"""The run: every method on every prompt, by turns, and compared with plain decoding as it goes."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ... import _core
from .engines import Engine, Text, pieces_of, said_of, token_label
from .prompts import PromptBuilder, Question
from .records import Failure, Manifest, Prompt, Run
from .storage import Results, read_failure, read_runs, remove_failure, write_failure, write_manifest


class NotLossless(RuntimeError):
    """A method's text is not plain decoding's; `failure` tells which."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def order(seed: int, prompt: int, repeat: int, methods: Sequence[str]) -> list[str]:
    """In what order methods take their turn: another one each time, so that none always follows the same.

    For the traced texts, repeat 0, plain decoding (the first of `methods`) goes first: the others are compared with it.
    """
    first = list(methods[:1]) if repeat == 0 else []
    rest = list(methods[len(first) :])
    random.Random(f"{seed} {prompt} {repeat}").shuffle(rest)
    return first + rest


class Runner:
    """Writes the texts that `folder` still lacks.

    Args:
        folder: Of the evaluation; locked, with its ``run.json`` written.
        manifest: What it holds.
        questions: All that were asked; the manifest's prompts name them by number.
        engines: Of each method.
        builder: Makes prompts.
        tokenizer: The target's.
        limit: Tokens that a prompt may have.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        questions: Sequence[Question],
        engines: Mapping[str, Engine],
        builder: PromptBuilder,
        tokenizer: _core.Tokenizer,
        limit: int,
    ) -> None:
        self._folder = folder
        self._manifest = manifest
        self._questions = questions
        self._engines = engines
        self._builder = builder
        self._tokenizer = tokenizer
        self._limit = limit
        self._bar: Any = None
        self._exact = {method.name for method in manifest.methods if method.exact}
        self._done: set[tuple[str, int, int]] = set()
        self._plain: dict[int, Run] = {}  # the texts that all others must be, by prompt
        for run in read_runs(folder):
            self._note(run)

    @property
    def missing(self) -> int:
        """Texts that are still to be written."""
        return missing(self._manifest, self._done)

    def run(self, warmup: int, bar: Any) -> None:
        """Writes what is missing, after `warmup` texts of each method that are not kept; tells a tqdm bar of each.

        Raises:
            NotLossless: A text is not plain decoding's; the message names method, prompt and position, and so does
                ``failed.json``, until this text goes well.
        """
        self._bar = bar
        clear_failure(self._folder, self._done)
        results = Results(self._folder)
        try:
            for prompt in self._manifest.prompts:
                if prompt.name in self._manifest.left_out or not self._lacks(prompt):
                    continue
                tokens = self._tokens(prompt)
                if tokens is None:
                    continue
                for _ in range(warmup):
                    for method in self._manifest.methods:
                        self._generate(method.name, prompt, tokens, False)
                warmup = 0
                self._run_prompt(prompt, tokens, results)
        except NotLossless as error:
            with contextlib.suppress(OSError):  # a full disk must not hide the difference
                write_failure(self._folder, error.failure)
            raise
        finally:
            results.close()

    def _run_prompt(self, prompt: Prompt, tokens: list[int], results: Results) -> None:
        names = [method.name for method in self._manifest.methods]
        for repeat in range(int(self._manifest.settings["repeats"]) + 1):
            for name in order(int(self._manifest.settings["seed"]), prompt.index, repeat, names):
                if (name, prompt.index, repeat) in self._done:
                    continue
                self._bar.set_postfix_str(name, refresh=False)
                run = self._write(name, prompt, tokens, repeat)
                results.append(run)
                self._note(run)
                clear_failure(self._folder, self._done)
                self._bar.update(1)

    def _generate(self, name: str, prompt: Prompt, tokens: list[int], traced: bool) -> Text:
        """One text of a method; what goes wrong names method and prompt."""
        try:
            return self._engines[name].write(tokens, traced)
        except (ValueError, RuntimeError, MemoryError) as error:
            kind = MemoryError if isinstance(error, MemoryError) else RuntimeError
            raise kind(f"method '{name}', prompt {prompt.name}: {error}") from error

    def _write(self, name: str, prompt: Prompt, tokens: list[int], repeat: int) -> Run:
        text = self._generate(name, prompt, tokens, repeat == 0 and name in self._exact)
        if name in self._exact and prompt.index in self._plain:
            self._compare(name, prompt, repeat, text)
        return Run(
            method=name,
            prompt=prompt.index,
            repeat=repeat,
            generated=len(text.tokens),
            steps=text.steps,
            step_tokens=text.step_tokens,
            drafted_steps=text.drafted_steps,
            prefill_seconds=text.prefill_seconds,
            draft_seconds=text.draft_seconds,
            verify_seconds=text.verify_seconds,
            total_seconds=text.total_seconds,
            finish_reason=text.finish_reason,
            tokens=text.tokens if repeat == 0 else None,
            pieces=pieces_of(self._tokenizer, text.tokens) if repeat == 0 else None,
            trace=text.trace if repeat == 0 else None,
            said=said_of(self._tokenizer, text.trace) if repeat == 0 and text.trace is not None else None,
        )

    def _compare(self, name: str, prompt: Prompt, repeat: int, text: Text) -> None:
        """Raises NotLossless at the first difference from the plain text."""
        plain = self._plain[prompt.index]
        expected = plain.tokens or []
        for position in range(max(len(text.tokens), len(expected))):
            found, wanted = (tokens[position] if position < len(tokens) else None for tokens in (text.tokens, expected))
            if found != wanted:
                message = (
                    f"method '{name}' differs from plain decoding: prompt {prompt.name}, token {position} of the text "
                    f"(from 0): found {self._show(found)}, expected {self._show(wanted)}"
                )
                raise NotLossless(Failure(name, prompt.index, prompt.name, repeat, position, wanted, found, message))
        if text.finish_reason != plain.finish_reason:
            message = (
                f"method '{name}' differs from plain decoding: prompt {prompt.name}, end of the text, after "
                f"{len(expected)} tokens: found '{text.finish_reason}', expected '{plain.finish_reason}'"
            )
            raise NotLossless(Failure(name, prompt.index, prompt.name, repeat, len(expected), None, None, message))

    def _show(self, token: int | None) -> str:
        return "the end of the text" if token is None else f"{token} ({token_label(self._tokenizer, token)!r})"

    def _lacks(self, prompt: Prompt) -> bool:
        repeats = range(int(self._manifest.settings["repeats"]) + 1)
        return any((m.name, prompt.index, r) not in self._done for m in self._manifest.methods for r in repeats)

    def _note(self, run: Run) -> None:
        self._done.add((run.method, run.prompt, run.repeat))
        if run.repeat == 0 and run.method == self._manifest.methods[0].name:
            self._plain[run.prompt] = replace(run, trace=None, said=None)

    def _tokens(self, prompt: Prompt) -> list[int] | None:
        """The prompt's tokens; None, and a note in the manifest, where it is left out."""
        question = self._questions[prompt.question]
        answers = [self._plain.get(index) for index in range(prompt.index - prompt.turn + 1, prompt.index)]
        tokens: list[int] = []
        reason = "an earlier turn was left out"
        if None not in answers:
            texts = ["".join(answer.pieces or []) for answer in answers if answer is not None]
            tokens = self._builder.tokens(question.turns[: prompt.turn], texts, question.system)
            reason = unfit(len(tokens), self._limit)
        prompts = list(self._manifest.prompts)
        prompts[prompt.index] = replace(prompt, tokens=len(tokens))
        left_out = {**self._manifest.left_out, prompt.name: reason} if reason else self._manifest.left_out
        if prompts != self._manifest.prompts or reason:
            self._manifest = replace(self._manifest, prompts=prompts, left_out=left_out)
            write_manifest(self._folder, self._manifest)
        if not reason:
            return tokens
        self._bar.total -= len(self._manifest.methods) * (int(self._manifest.settings["repeats"]) + 1)
        return None


def unfit(found: int, limit: int) -> str:
    """Why a prompt of so many tokens is left out, for people; empty where it fits."""
    if not found:
        return "found no tokens, expected at least one"
    if found > limit:
        return f"found {found} tokens, expected at most {limit}, so that the text fits into the context"
    return ""


def clear_failure(folder: Path, done: set[tuple[str, int, int]]) -> None:
    """Removes ``failed.json`` where its text is `done` by now."""
    failure = read_failure(folder)
    if failure is not None and (failure.method, failure.prompt, failure.repeat) in done:
        remove_failure(folder)


def missing(manifest: Manifest, done: set[tuple[str, int, int]]) -> int:
    """Texts that a run of this manifest has still to write."""
    prompts = [prompt.index for prompt in manifest.prompts if prompt.name not in manifest.left_out]
    repeats = range(int(manifest.settings["repeats"]) + 1)
    wanted = {(method.name, prompt, repeat) for method in manifest.methods for prompt in prompts for repeat in repeats}
    return len(wanted - done)
