"""The training loop: batches, optimiser, checkpoints, log.

Everything random depends on the seed and the number of the step alone - the order of the rows, the sample of the
vocabulary - so a checkpoint is weights, optimiser and step, and a resumed run repeats an uninterrupted one to the bit
(on the CPU, with the same number of threads).
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import pickle
import signal
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ..atomic import append, atomic_output
from ..console import note, progress_bar
from .curves import draw_curves, read_log
from .objective import Batch, Objective
from .pace import in_words
from .packing import Rows
from .settings import Settings
from .threads import use_best_threads

CHECKPOINT, LOG, CURVES = "checkpoint.pt", "log.jsonl", "curves.png"
_LAST_LR = 0.05  # of the peak, where the cosine ends


class Batches(Protocol):
    """Batches by the number of the step, from 0; each says how many tokens it has."""

    def __getitem__(self, step: int) -> Any:
        """The batch of a step: the same one, whenever it is asked for."""


class BatchSource:
    """Batches of packed rows by number: each epoch goes through all rows in an order of its own."""

    def __init__(self, rows: Rows, per_batch: int, seed: int, device: torch.device) -> None:
        self._rows, self._seed, self._device = rows, seed, device
        self.per_batch = min(per_batch, len(rows))
        self.per_epoch = len(rows) // self.per_batch

    def __getitem__(self, step: int) -> Batch:
        """The batch of step `step`, from 0."""
        epoch, number = divmod(step, self.per_epoch)
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._rows))
        return self._batch(np.sort(order[number * self.per_batch : (number + 1) * self.per_batch]))

    def first_rows(self, tokens: int) -> list[Batch]:
        """The first rows in batches, about `tokens` tokens."""
        length = self._rows.tokens(slice(0, 1)).shape[1]
        count = min(len(self._rows), max(1, tokens // length))
        numbers = np.arange(count)
        return [self._batch(numbers[i : i + self.per_batch]) for i in range(0, count, self.per_batch)]

    def _batch(self, numbers: Any) -> Batch:
        tokens = torch.from_numpy(self._rows.tokens(numbers)).to(self._device)
        return Batch(tokens, torch.from_numpy(self._rows.starts(numbers)).to(self._device))


class Trainer:
    """Runs an objective over `steps` batches.

    Args:
        settings: of the run, with `lr` and `warmup` set.
        objective: what is trained.
        train: its batches.
        validation: held-out batches.
        steps: of the whole run.
        device: that it trains on.
    """

    def __init__(
        self,
        settings: Settings,
        objective: Objective,
        train: Batches,
        validation: list[Any],
        steps: int,
        device: torch.device,
    ) -> None:
        assert settings.lr is not None
        self._settings, self._objective, self._train, self._validation = settings, objective, train, validation
        self._steps, self._lr, self._folder, self._device = steps, settings.lr, settings.folder, device
        self._warmup = min(100, steps // 20) if settings.warmup is None else settings.warmup
        self._parameters = [p for p in objective.module.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=self._lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
        )
        self._log: list[dict[str, Any]] = []
        self._done = 0
        self._cpu = -time.process_time()  # seconds of all processors that the run has taken before, less this process's
        self._tokens = self._seconds = self._stepped = 0.0  # since the last validation

    def run(self) -> None:
        """Trains to the end, going on where a checkpoint left off.

        Raises:
            RuntimeError: the loss is not finite; the last checkpoint stays as it is.
            KeyboardInterrupt: after Ctrl-C or a request to terminate; a checkpoint of the last whole step is written.
            OSError: a file cannot be written; the one before it stays.
        """
        self._restore()
        stop = _StopRequest()
        with stop, progress_bar(self._steps, "training", self._settings.quiet, "step") as bar:
            bar.update(self._done)
            self._choose_threads()
            if self._done == 0:
                self._validate()
                self._save()
            while self._done < self._steps:
                self._step(bar)
                if stop.asked:
                    self._save()
                    raise KeyboardInterrupt
                if self._done % self._settings.save_every == 0 or self._done == self._steps:
                    self._validate()
                    self._save()
                    self._choose_threads()

    def _step(self, bar: Any) -> None:
        begin = time.perf_counter()
        lr = self._learning_rate(self._done)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        generator = torch.Generator().manual_seed(self._settings.seed * 1_000_003 + self._done)
        batch = self._train[self._done]
        loss = self._objective.loss(batch, generator)
        value = float(loss.total.detach())
        if not math.isfinite(value):
            raise RuntimeError(
                f"step {self._done + 1}: the loss is {value}, expected a finite number; the checkpoint of the last "
                "save is unharmed (a lower --lr, a longer --warmup or --dtype f32 may help)"
            )
        loss.total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._settings.clip)
        if not torch.isfinite(norm):
            raise ValueError(
                f"step {self._done + 1}: found a gradient that is not finite; the checkpoint of the last "
                "save is unharmed (a lower --lr, a longer --warmup or --dtype f32 may help)"
            )
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._done += 1
        seconds = time.perf_counter() - begin
        self._tokens += batch.count
        self._seconds += seconds
        self._stepped += 1
        self._record(
            {
                "step": self._done,
                "train_loss": loss.losses,
                "train_acceptance": loss.acceptance,
                "lr": lr,
                "gradient_norm": float(norm),
                "tokens_per_second": round(batch.count / seconds, 1),
            }
        )
        bar.set_postfix(loss=f"{loss.losses[0]:.3f}", first=f"{100 * loss.acceptance[0]:.1f}%", refresh=False)
        bar.update(1)

    def _learning_rate(self, step: int) -> float:
        """Linear warmup, then a cosine down to 5 %."""
        if step < self._warmup:
            return self._lr * (step + 1) / self._warmup
        done = (step - self._warmup) / max(1, self._steps - self._warmup)
        return self._lr * (_LAST_LR + (1.0 - _LAST_LR) * 0.5 * (1.0 + math.cos(math.pi * done)))

    def _choose_threads(self) -> None:
        """What else the machine does may have changed."""
        if not self._settings.threads and self._device.type == "cpu":
            use_best_threads()

    def _validate(self) -> None:
        found = self._objective.validate(self._validation)
        self._record({"step": self._done, **found, "cpu_seconds": round(self._cpu_seconds(), 1)})
        if not self._settings.quiet:
            note(f"step {self._done} of {self._steps}{self._speed()}: {_summary(found)}")
        self._tokens = self._seconds = self._stepped = 0.0

    def _speed(self) -> str:
        if not self._stepped:
            return ""
        left = self._seconds / self._stepped * (self._steps - self._done)
        return f", {self._tokens / self._seconds:,.0f} tokens/s, {in_words(left)} left"

    def _cpu_seconds(self) -> float:
        """Of all processors, for the whole run so far: a machine that is shared makes other seconds say little."""
        return self._cpu + time.process_time()

    def _record(self, record: dict[str, Any]) -> None:
        self._log.append(record)
        append(self._folder / LOG, (json.dumps(record) + "\n").encode())

    def _save(self) -> None:
        """The checkpoint last: what it was saved with is there when it is."""
        self._objective.write(self._folder)
        title = f"{self._settings.kind}, {self._settings.output.name}"
        draw_curves(self._folder / CURVES, self._log, title)
        state = {
            "step": self._done,
            "module": self._objective.module.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "cpu_seconds": self._cpu_seconds(),
        }
        with atomic_output(self._folder / CHECKPOINT) as temporary:
            # Through memory: of a full disk torch only says that a position was not expected.
            buffer = io.BytesIO()
            torch.save(state, buffer)
            temporary.write_bytes(buffer.getbuffer())

    def _restore(self) -> None:
        path = self._folder / CHECKPOINT
        log = self._folder / LOG
        if not path.is_file():
            self._cut_log(log, -1)
            self._cpu += sum(record.get("cpu_seconds", 0.0) for record in self._log)
            return
        try:
            state = torch.load(path, map_location=self._device, weights_only=True)
            self._objective.module.load_state_dict(state["module"])
            self._optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, KeyError, IndexError, ValueError, EOFError, pickle.UnpicklingError) as error:
            raise ValueError(f"{path}: not a checkpoint of this run: {str(error).splitlines()[0]}") from error
        self._done = int(state["step"])
        self._cpu += float(state.get("cpu_seconds", 0.0))
        self._cut_log(log, self._done)

    def _cut_log(self, log: Path, step: int) -> None:
        """Forgets what was logged behind a step."""
        self._log = [record for record in read_log(log) if record.get("step", -1) <= step]
        with atomic_output(log) as temporary:
            temporary.write_text("".join(json.dumps(record) + "\n" for record in self._log), encoding="utf-8")


def _summary(found: dict[str, Any]) -> str:
    """What a validation has found, in a line."""
    words = []
    for name, value in found.items():
        values = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
        words.append(f"{name} {' / '.join(f'{one:.3f}' for one in values)}")
    return ", ".join(words)


class _StopRequest:
    """Lets a step finish before Ctrl-C or SIGTERM takes effect; a second Ctrl-C does not wait."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _StopRequest:
        with contextlib.suppress(ValueError):  # not the main thread: no signals to handle
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *unused: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
