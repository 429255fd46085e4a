"""What the endpoints share: the model, its name, its metrics, and threads for templates."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

import frspec_cpp
from frspec_cpp.async_llm import AsyncLLM
from frspec_cpp.llm import LLM
from frspec_cpp.server.errors import ApiError
from frspec_cpp.server.metrics import Metrics
from frspec_cpp.server.settings import Settings

T = TypeVar("T")
State = Literal["loading", "ready", "draining"]


class Service:
    """A model that is served.

    Args:
        engine: Writes the texts; it may still have to be loaded.
        model: Its file, for names.
        settings: Of the server.
    """

    def __init__(self, engine: AsyncLLM, model: str, settings: Settings) -> None:
        self.engine = engine
        self.settings = settings
        self.metrics = Metrics()
        engine.on_event = self.metrics.see
        self.state: State = "loading"
        self.created = int(time.time())
        self.names = [name.strip() for name in settings.alias.split(",") if name.strip()] or [Path(model).stem]
        self.meta: dict[str, int] = {}  # of the model, once it is loaded
        self.path = Path(model)
        self._threads = ThreadPoolExecutor(2, "frspec-templates")

    @property
    def llm(self) -> LLM:
        """The model."""
        return self.engine.llm

    @property
    def name(self) -> str:
        """What the model is called in answers."""
        return self.names[0]

    @property
    def file_name(self) -> str:
        """Of the model's file, without its folder, which is nobody's business."""
        return self.path.name

    @property
    def file_size(self) -> int:
        """Of the model's file, in bytes; of a split one of its first part."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def fingerprint(self) -> str:
        """Of what a text depends on beside its request: model, version, instruction set."""
        device = self.llm.device.split(",")[0]
        told = f"{self.file_name} {self.file_size} {frspec_cpp.__version__} {device}"
        return "frspec-" + hashlib.sha256(told.encode(errors="replace")).hexdigest()[:12]

    def check_open(self) -> None:
        """ApiError while the model is being loaded, and when the server is about to end."""
        if self.state == "loading":
            raise ApiError(503, "the model is being loaded", None, "loading", {"retry-after": "1"})
        if self.state == "draining":
            raise ApiError(503, "the server is shutting down", None, "shutting_down", {"retry-after": "5"})

    def check_health(self) -> None:
        """ApiError where no texts are taken, or none can be written: requests are tried all the same."""
        self.check_open()
        error = self.engine.failure
        if error is not None:
            # What it says, paths perhaps, is for the log and for who asked for a text.
            raise ApiError(503, f"texts cannot be written: {type(error).__name__}", None, "failing")

    def check_model(self, name: str | None) -> None:
        """ApiError where another model is asked for."""
        if name is None or self.settings.any_model or name in self.names:
            return
        known = ", ".join(map(repr, self.names))
        raise ApiError(404, f"model: found {name[:200]!r}, expected {known}", "model", "model_not_found")

    def check_length(self, prompt: list[int]) -> None:
        """ApiError where a prompt does not leave room for a token."""
        if not prompt:
            raise ApiError(400, "prompt: found no tokens, expected at least one", "prompt", "invalid_value")
        if len(prompt) >= self.llm.n_ctx:
            raise ApiError(
                400,
                f"found a prompt of {len(prompt)} tokens, expected fewer than {self.llm.n_ctx}, the context's size",
                "prompt",
                "context_length_exceeded",
            )

    async def in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        """The result of a function that takes its time, a template for instance."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    async def drain(self) -> None:
        """Takes no more requests, lets texts end for the time of grace, then ends them."""
        self.state = "draining"
        self.engine.refuse()
        ends = time.monotonic() + self.settings.grace
        while (self.engine.waiting() or self.engine.running()) and time.monotonic() < ends:
            await asyncio.sleep(0.02)
        self.engine.cancel_all()
