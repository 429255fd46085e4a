"""What the target writes behind prompts, with its states: the best text to learn from, made by the engine.

A question is asked at one temperature after another, in rounds, with seeds of their own; each answer is a document,
read once more in one pass for the states. A conversation's turns are asked in order. Texts can be added as they are.
Several answers are written at once (together); what is made, and its order, is that of one after the other.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ... import _core
from ...chat import ChatPrompts
from ..console import note
from ..evaluate.prompts import PromptBuilder, Question, read_questions
from ..text_files import check_input, read_texts
from .gguf_target import GgufTarget
from .pace import Pace
from .settings import Settings
from .states_file import Group, StatesFile
from .together import PARALLEL, Dialogue, write_together

BEST = 32  # tokens of the distribution that are kept
_HELD_OUT = 20  # one question of so many is held out,
_MOST_HELD_OUT = 40  # but no more than these
_ROUNDS = 1000
_SHORTEST_TEXT = 16  # tokens


@dataclass(frozen=True)
class Job:
    """A group of documents to make: a question's turns, or a piece of a text as it is."""

    temperature: float
    round: int
    question: Question | None = None
    text: tuple[int, ...] = ()

    def key(self, settings: Settings) -> str:
        """Says how it is made: the same key is the same documents."""
        what: list[Any] = [self.text]
        if self.question is not None:
            asked = self.question
            what = [asked.system, asked.turns, self.temperature, self.round]
            what += [settings.max_new_tokens, settings.length, settings.template, settings.seed]
            what += ["prompts"] if settings.prompt_weight else []
        return hashlib.blake2b(json.dumps(what).encode(), digest_size=12).hexdigest()


@dataclass(frozen=True)
class Gathered:
    """What there is to learn from, and held out; `prompts` are those of the held-out questions' first turns."""

    train: list[Group]
    held_out: list[Group]
    prompts: list[list[int]]


class _Work(Dialogue):
    """A job, and what is there of it: its group in the file, or the answers that are being written."""

    def __init__(self, job: Job, found: Group | None, ask: Any, options: dict[str, Any]) -> None:
        super().__init__(ask, options)
        self.job, self.found = job, found

    @property
    def new_tokens(self) -> int:
        """Of the target's own so far."""
        return self.answered if self.found is None else self.found.new_tokens


class Texts:
    """Tokens of texts and chats for an engine, as PromptBuilder asks an LLM for them."""

    def __init__(self, engine: Any, path: str) -> None:
        self.tokenizer = engine.tokenizer
        self._chats = ChatPrompts(engine.tokenizer, path)

    def tokenize(self, text: str, parse_special: bool = False) -> list[int]:
        """Ids of a text, with what the vocabulary puts before it."""
        return [int(i) for i in self.tokenizer.encode(text, parse_special=parse_special)]

    def chat_prompt(self, messages: Sequence[Any]) -> list[int]:
        """Ids of the prompt that is answered."""
        return self._chats.tokens(messages)


class Gathering:
    """Makes what a run wants to learn from, as far as the file of states does not have it yet.

    Args:
        settings: of the run.
        target: that writes.
        file: of the states.
        pace: is told how fast it goes.
        threads: of the engine.
    """

    def __init__(self, settings: Settings, target: GgufTarget, file: StatesFile, pace: Pace, threads: int) -> None:
        self._settings, self._target, self._file, self._pace = settings, target, file, pace
        drafter = None if settings.draft_with is None else str(settings.draft_with)
        self._engine = _core.Engine(
            str(target.path),
            drafter,
            head="full" if drafter is None else "auto",
            ngram=8 if drafter is None else None,
            n_ctx=settings.length,
            n_parallel=PARALLEL,
            n_threads=threads,
            taps=list(file.format.layers),
        )
        texts: Any = Texts(self._engine, str(target.path))
        self._texts, self._builder = texts, PromptBuilder(texts, settings.template)
        # EAGLE-2's state is the last one, behind the final norm.
        is_last = file.format.layers == (target.sizes.layers,)
        self._norm = target.final_norm().numpy() if is_last else None

    def close(self) -> None:
        """Frees the engine."""
        self._engine.close()

    def run(self) -> Gathered:
        """All groups of the run; makes what is missing.

        Raises:
            ValueError: bad prompts, or none that fits.
            OSError: the disk is full; what there is stays, and the next run goes on.
            KeyboardInterrupt: likewise.
        """
        settings = self._settings
        questions = self._fitting(read_questions([str(path) for path in settings.prompts])) if settings.prompts else []
        held = _held_out(len(questions))
        asked = [question for i, question in enumerate(questions) if i not in held]
        prompts = [self._prompt(questions[i], [], []) for i in sorted(held)]
        held_jobs = [Job(0.0, 0, questions[i]) for i in sorted(held)]
        train: list[Group] = []
        assert settings.generate_tokens is not None
        wanted = settings.generate_tokens if questions else 0
        held_tokens = sum(len(questions[i].turns) for i in held) * settings.max_new_tokens  # at most
        total = wanted + held_tokens + (settings.text_tokens or 0)
        with self._pace.phase("states", total, "gathering", "tok") as phase:
            held_groups = [group for _, group in self._groups(held_jobs, phase)]
            made = 0
            with contextlib.closing(self._groups(self._jobs(asked), phase, wanted)) as groups:
                for _, group in groups:
                    made += group.new_tokens
                    train.append(group)
                    if made >= wanted:
                        break
            if questions and made < wanted and not self._is_full() and not settings.quiet:
                note(
                    f"{made} tokens of the target's own, where {wanted} were wanted: more prompts or temperatures help"
                )
            for number, (job, group) in enumerate(self._groups(self._text_jobs(), phase)):
                is_held = not questions and number % _HELD_OUT == _HELD_OUT - 1 and len(held_groups) < _MOST_HELD_OUT
                (held_groups if is_held else train).append(group)
                if is_held:
                    prompts.append(list(job.text[: len(job.text) // 2]))
        if self._is_full() and not settings.quiet:
            note(f"{self._file.path}: {self._file.bytes / 1e9:.1f} GB of states are as many as --disk allows")
        if not train or not held_groups:
            names = ", ".join(str(path) for path in (*settings.prompts, *settings.text))
            raise ValueError(f"{names}: found too little to train on and to hold out, expected more prompts or text")
        return Gathered(train, held_groups, prompts)

    def _is_full(self) -> bool:
        return self._file.bytes >= int(self._settings.disk * 1e9)

    def _fitting(self, questions: list[Question]) -> list[Question]:
        """Those whose first turn leaves room for an answer."""
        if not self._builder.applies_template and (chat := next((q for q in questions if q.is_chat), None)):
            raise ValueError(
                f"{chat.name}: found messages, but no chat template is used: {self._target.path} "
                + ("has none" if self._texts.tokenizer.chat_template is None else "has one (--template)")
            )
        room = self._room()
        fitting, longest = [], 0
        for question in questions:
            length = len(self._prompt(question, [], []))
            if 0 < length <= room:
                fitting.append(question)
            longest = max(longest, length)
        if not fitting:
            raise ValueError(
                f"--prompts: none of {len(questions)} prompts has 1 to {room} tokens, what --length and "
                f"--max-new-tokens leave; the longest has {longest}"
            )
        if len(fitting) < len(questions) and not self._settings.quiet:
            note(
                f"{len(questions) - len(fitting)} of {len(questions)} prompts are left out: expected 1 to {room} "
                f"tokens, the longest has {longest} (--length)"
            )
        if len(fitting) == 1:
            raise ValueError("--prompts: found one prompt, expected at least two: one is held out")
        return fitting

    def _room(self) -> int:
        settings = self._settings
        assert settings.length is not None
        return settings.length - settings.max_new_tokens

    def _prompt(self, question: Question, turns: Sequence[str], answers: Sequence[str]) -> list[int]:
        return self._builder.tokens(turns or question.turns[:1], answers, question.system)

    def _jobs(self, questions: Sequence[Question]) -> Iterator[Job]:
        """Questions in rounds: each comes at another temperature, and drawn texts come again with other seeds."""
        temperatures = self._settings.temperature or ()
        drawn = [t for t in temperatures if t > 0]
        for number in range(_ROUNDS if drawn else len(temperatures)):
            some = temperatures if number < len(temperatures) else drawn
            for i, question in enumerate(questions):
                yield Job(some[(i + number) % len(some)], number, question)

    def _text_jobs(self) -> Iterator[Job]:
        """The texts in pieces of whole rows, until there are as many tokens as wanted."""
        settings, taken = self._settings, 0
        assert settings.length is not None
        for file in settings.text:
            check_input(file)
        for file in settings.text:
            for text in read_texts(file, settings.field, lambda _: None):
                ids = self._texts.tokenize(text)
                for first in range(0, len(ids), settings.length):
                    piece = ids[first : first + settings.length]
                    if len(piece) < _SHORTEST_TEXT:
                        continue
                    if settings.text_tokens is not None and taken >= settings.text_tokens:
                        return
                    taken += len(piece)
                    yield Job(0.0, 0, text=tuple(piece))

    def _groups(
        self, jobs: Iterable[Job], phase: Any, wanted: float = math.inf
    ) -> Generator[tuple[Job, Group], None, None]:
        """The groups of jobs, in their order; those that are missing are made, as far as --disk allows.

        No more are begun than are sure to be needed for `wanted` tokens.
        """
        begun: deque[_Work] = deque()
        given = 0

        def works() -> Iterator[_Work]:
            for job in jobs:
                if given + sum(work.new_tokens for work in begun) >= wanted:
                    return
                begun.append(work := self._work(job))
                if work.found is None and self._is_full():
                    return
                yield work

        def spent(tokens: int, seconds: float) -> None:
            phase.spent("generated", tokens, seconds)

        with contextlib.closing(write_together(self._engine, works(), PARALLEL, spent)) as written:
            for work in written:
                given += begun.popleft().new_tokens
                key = work.job.key(self._settings)
                # Of two equal questions, the second is there by now.
                is_made = (group := self._file.find(key)) is None
                if group is None:
                    if self._is_full():
                        return
                    group = self._file.add(key, self._documents(work, phase))
                phase.advance(group.new_tokens, is_made)
                yield work.job, group

    def _work(self, job: Job) -> _Work:
        seed = int(job.key(self._settings)[:8], 16)
        options = {"temperature": job.temperature, "seed": seed, "max_tokens": self._settings.max_new_tokens}
        found = self._file.find(job.key(self._settings))
        return _Work(job, found, self._next_prompt, options)

    def _next_prompt(self, work: Any) -> list[int] | None:
        """The next turn's, while there are turns and there is room."""
        asked = work.job.question
        if work.found is not None or asked is None or len(work.turns) == len(asked.turns):
            return None
        answers = [self._texts.tokenizer.decode(np.array(answer, dtype=np.int32)) for _, answer in work.turns]
        prompt = self._prompt(asked, asked.turns[: len(answers) + 1], answers)
        return prompt if len(prompt) <= self._room() else None

    def _documents(self, work: _Work, phase: Any) -> list[tuple[int, np.ndarray]]:
        """For each document of a group the tokens of its prompt, and its records."""
        if work.job.question is None:
            return [(1, self._records(list(work.job.text), 1, phase))]
        return [(len(prompt), self._records(prompt + answer, len(prompt), phase)) for prompt, answer in work.turns]

    def _records(self, tokens: list[int], prompt: int, phase: Any) -> np.ndarray:
        begin = time.perf_counter()
        # What the target says inside a prompt is learned only where that is asked for.
        first = 0 if self._settings.prompt_weight else prompt - 1
        taps, best, log_probs = self._engine.forward_states(tokens, self._file.format.best, first)
        states = np.concatenate(taps, axis=1)
        if self._norm is not None:
            scale = np.sqrt(
                np.square(states, dtype=np.float64).mean(axis=1, keepdims=True) + self._target.sizes.epsilon
            )
            states = (states / scale).astype(np.float32) * self._norm
        records = self._file.records(tokens, best, log_probs, states)
        phase.spent("read", len(tokens), time.perf_counter() - begin)
        return records


def _held_out(count: int) -> set[int]:
    """Numbers of the questions that are held out, evenly spread."""
    if count == 0:
        return set()
    held = min(_MOST_HELD_OUT, max(1, count // _HELD_OUT))
    return {int((i + 0.5) * count / held) for i in range(held)}
