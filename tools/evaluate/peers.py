"""Other engines in the same run, on the same GGUF file.

They get the same token ids and write as many tokens. They compute otherwise (another order of sums, other types), so
their texts may differ from ours. Whatever is not installed is skipped by name.
"""

from __future__ import annotations

from typing import Any

from ... import _core
from . import hf_transformers, llama_cpp, llama_server, openvino
from .engines import Engine
from .peer_rows import PeerChoice, PeerOptions, PeerRow
from .peer_texts import SAMPLING, named
from .records import Method

#: What each kind is.
KINDS = {**llama_cpp.KINDS, **llama_server.KINDS, **openvino.KINDS, **hf_transformers.KINDS}
#: Which kinds read an option that is for peers alone.
READERS = {
    "--draft-max": (*llama_server.DRAFTED, openvino.DRAFTED),
    "--llama-server": tuple(llama_server.KINDS),
    "--hf-target": tuple(hf_transformers.KINDS),
    "--hf-drafter": (hf_transformers.ASSISTED,),
}


def peer_rows(kind: str, choice: PeerChoice) -> list[PeerRow] | str:
    """The rows of a kind of peer, or why it must be skipped.

    Raises:
        ValueError: What it needs was not given, or is no such thing.
        FileNotFoundError: The given program is not there.
        RuntimeError: It is installed, and does not answer.
    """
    if kind in llama_cpp.KINDS:
        return llama_cpp.llama_cpp_rows(kind)
    if kind in llama_server.KINDS:
        return llama_server.server_rows(kind, choice)
    if kind in openvino.KINDS:
        return openvino.openvino_rows(kind, choice)
    return hf_transformers.transformers_rows(kind, choice)


def unsupported_sampling(writing: dict[str, Any]) -> str | None:
    """Why peers cannot write by these options; None: they can."""
    neutral = {"typical_p": 1.0, "repeat_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}
    for name, value in neutral.items():
        if writing.get(name, value) != value:
            return f"found {name} {writing[name]}; only {', '.join(SAMPLING)} mean the same everywhere"
    return None


def load_peer(method: Method, options: PeerOptions, tokenizer: _core.Tokenizer) -> Engine:
    """The engine of a row of `peer_rows`.

    Raises:
        RuntimeError: The package or the model cannot be loaded; the message names the method.
        MemoryError: Likewise.
    """
    with named(f"method '{method.name}': cannot be loaded"):
        if method.kind in llama_cpp.KINDS:
            return llama_cpp.LlamaCpp(method, options, tokenizer)
        if method.kind in llama_server.KINDS:
            return llama_server.LlamaServer(method, options, tokenizer)
        if method.kind in openvino.KINDS:
            return openvino.OpenVino(method, options, tokenizer)
        return hf_transformers.Transformers(method, options, tokenizer)
