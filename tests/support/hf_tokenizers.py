"""Tokenizers of Hugging Face folders, read as the converter reads them, and changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from frspec_cpp.tools.config import Config
from frspec_cpp.tools.hf_tokenizer import read_tokenizer
from frspec_cpp.tools.vocabulary import Vocabulary


def read(folder: Path, **config: Any) -> Vocabulary:
    """The tokenizer of a folder whose config.json would hold `config`."""
    file = folder / "tokenizer.json"
    size = len(json.loads(file.read_text())["model"]["vocab"]) if file.is_file() else 0
    return read_tokenizer(folder, Config({"vocab_size": size, **config}, folder / "config.json"))


def edit(path: Path, change: Any) -> None:
    """Applies `change` to the JSON object in the file at `path`."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
