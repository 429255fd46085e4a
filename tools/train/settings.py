"""What a training run was asked for, kept beside its checkpoints so that --resume continues the same run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from ..atomic import atomic_output
from ..config import read_json
from ..text_files import check_input

KINDS = ("eagle2", "eagle3", "specvocab")
FILE = "settings.json"
# These change when and where the work is done, not its result.
_FREE = (
    "output", "data", "disk", "device", "threads", "quiet", "resume", "save_every", "draft_with", "eval_prompts",
    "eval_new_tokens",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings:
    """The options of frspec-train; None: the default that depends on the target or on the machine.

    `length` and `tokens_per_batch` are in tokens, `samples` and `draft_vocab` in rows of the vocabulary, `disk` in GB.
    """

    kind: str
    target: Path
    output: Path
    text: tuple[Path, ...] = ()
    text_tokens: int | None = None
    field: str | None = None
    prompts: tuple[Path, ...] = ()
    template: str = "auto"
    data: Path | None = None
    disk: float = 20.0
    draft_with: Path | None = None
    prompt_weight: float = 0.0
    generate: tuple[Path, ...] = ()
    generate_tokens: int | None = None
    prompt_tokens: int = 64
    max_new_tokens: int = 256
    generate_batch: int = 32
    temperature: tuple[float, ...] | None = None
    drafter: Path | None = None
    steps: int | None = None
    epochs: float | None = None
    tokens_per_batch: int | None = None
    length: int | None = None
    lr: float | None = None
    warmup: int | None = None
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    clip: float = 0.5
    unroll: int = 3
    decay: float = 0.8
    thin: float | None = None
    feature_loss: float = 0.0
    samples: int | None = None
    draft_vocab: int | None = None
    ranks: Path | None = None
    own_head: bool = False
    rank: int | None = None
    ffn: int | None = None
    start_layer: int | None = None
    type: str = "q8_0"
    taps: tuple[int, ...] | None = None
    norm_before_fc: bool = False
    fc_norm: bool = False
    norm_output: bool = False
    eval_tokens: int = 8192
    eval_prompts: int = 16
    eval_new_tokens: int = 64
    save_every: int = 500
    seed: int = 0
    device: str = "auto"
    dtype: str | None = None
    threads: int = 0
    quiet: bool = False
    resume: bool = False

    @property
    def from_gguf(self) -> bool:
        """Whether the target is a file, and the output one, too."""
        return not self.target.is_dir()

    @property
    def folder(self) -> Path:
        """Where the run keeps what it needs to go on: the output, or a folder beside the file that it is."""
        return self.output.with_name(self.output.name + ".train") if self.from_gguf else self.output

    def recorded(self, fingerprint: str | None = None) -> dict[str, Any]:
        """What must be the same when the run is resumed, as JSON values; input files with their sizes in bytes.

        A target that has a `fingerprint` may be anywhere.
        """
        values = {
            field.name: _plain(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.name not in _FREE
        }
        if fingerprint is not None:
            values["target"] = fingerprint
        files = [*self.text, *self.prompts, *self.generate, *([self.ranks] if self.ranks is not None else [])]
        return {**values, "input_bytes": [check_input(file) for file in files]}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def prepare_output(settings: Settings, fingerprint: str | None = None) -> None:
    """Makes the run's folder and records the settings, or checks them against the recorded ones on --resume.

    Raises FileExistsError-like ValueErrors: the folder holds something and --resume is not given; there is nothing to
    resume; a setting differs from the recorded one (the message names it), or the target (by its `fingerprint`).
    """
    folder, file = settings.folder, settings.folder / FILE
    recorded = settings.recorded(fingerprint)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file, expected a folder to write to")
    if not settings.resume:
        if folder.is_dir() and any(folder.iterdir()):
            raise ValueError(f"{folder}: is not empty, expected a new folder (--resume continues the run in it)")
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_output(file) as temporary:
            temporary.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")
        return
    if not file.is_file():
        raise ValueError(f"{folder}: found no {FILE}, expected the folder of an earlier run (--resume)")
    for name, expected in read_json(file).items():
        if recorded.get(name) != expected:
            if name == "target" and fingerprint is not None:
                raise ValueError(f"{file}: the run is of another target: found {fingerprint}, expected {expected}")
            option = name.replace("_", "-")
            raise ValueError(f"{file}: found {option} {recorded.get(name)!r}, expected {expected!r} as the run began")
