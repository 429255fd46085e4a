"""A Hugging Face checkpoint folder: config.json and all tensors (safetensors or pytorch_model.bin)."""

from __future__ import annotations

import errno
import pickle
from pathlib import Path
from typing import Any

from .config import Config, read_json
from .console import require
from .safetensors_file import read_safetensors
from .source_tensor import SourceTensor


class Checkpoint:
    """`tensors` maps each name to its tensor; their data stays on disk until it is asked for."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, "no such folder, expected a Hugging Face checkpoint", str(folder))
        self.folder = folder
        config_file = folder / "config.json"
        self.config = Config(read_json(config_file), config_file)
        if "quantization_config" in self.config and not self._is_published_mxfp4():
            raise ValueError(f"{config_file}: the checkpoint is already quantized; convert the original one")
        # Of a model that reads pictures, too, only what reads text counts.
        self.text_config = self.config.merged("text_config")
        self.tensors = {_plain(name): tensor for name, tensor in _read_tensors(folder).items()}

    @property
    def architecture(self) -> str:
        """The first of config.json's `architectures`, "" where there is none."""
        names = self.config.get("architectures")
        return str(names[0]) if isinstance(names, list) and names else ""

    def _is_published_mxfp4(self) -> bool:
        method = self.config.section("quantization_config").get("quant_method")
        return self.architecture == "GptOssForCausalLM" and method == "mxfp4"


def _plain(name: str) -> str:
    """The name of a tensor as a model has it that only reads text."""
    return name.replace("language_model.", "").replace("model.mtp.", "mtp.")


def _read_tensors(folder: Path) -> dict[str, SourceTensor]:
    for stem, reader in (("model.safetensors", read_safetensors), ("pytorch_model.bin", _read_torch)):
        index = folder / f"{stem}.index.json"
        if index.is_file():
            return _read_shards(index, reader)
        if (folder / stem).is_file():
            return reader(folder / stem)
    raise FileNotFoundError(
        errno.ENOENT, "no model.safetensors, pytorch_model.bin or index of shards in this folder", str(folder)
    )


def _read_shards(index: Path, reader: Any) -> dict[str, SourceTensor]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index}: key 'weight_map': expected an object of tensor names and file names")
    shards: dict[str, dict[str, SourceTensor]] = {}
    for name, file in weight_map.items():
        # Only plain names: an index must not reach outside its folder.
        if not isinstance(file, str) or file in ("", ".", "..") or Path(file).name != file:
            raise ValueError(f"{index}: tensor '{name}': found {file!r}, expected the name of a file beside it")
        if file not in shards:
            if not (index.parent / file).is_file():
                raise FileNotFoundError(errno.ENOENT, f"missing, but {index.name} names it", str(index.parent / file))
            shards[file] = reader(index.parent / file)
        if name not in shards[file]:
            raise ValueError(f"{index.parent / file}: tensor '{name}' is missing, but {index.name} names it")
    return {name: shards[file][name] for name, file in weight_map.items()}


def _read_torch(path: Path) -> dict[str, SourceTensor]:
    torch = require("torch", f"reading {path.name} (the checkpoint has no safetensors file)", "torch")
    names = {
        torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
        torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
        torch.bool: "BOOL",
    }  # fmt: skip
    try:
        try:
            values = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # written by torch 1.5 or older: not a zip file, cannot be mapped
            values = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path}: torch cannot read this file: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict) or not all(isinstance(value, torch.Tensor) for value in values.values()):
        raise ValueError(f"{path}: expected a dictionary of tensors")
    tensors = {}
    for name, value in values.items():
        if value.dtype not in names:
            raise ValueError(f"{path}: tensor '{name}': element type {value.dtype} cannot be converted")
        if value.dtype == torch.bfloat16:
            raw = value.contiguous().view(torch.int16).numpy().view("uint16")
        else:
            raw = value.contiguous().numpy()
        tensors[str(name)] = SourceTensor(str(name), path, names[value.dtype], raw)
    return tensors
