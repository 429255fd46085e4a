"""EAGLE-3 drafters: recognising their checkpoints, and their GGUF form (llama.cpp's architecture "eagle3").

The network: `fc` mixes the inputs of three of the target's layers into one state; the attention of a single Llama
layer reads that state and the embedding of the next token, each through a norm of its own; a final norm and a head,
often of a reduced vocabulary, follow. Exporters spell the layer `midlayer`, `layers.0` or `model.layers.0`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from .architectures import Architecture
from .checkpoint import Checkpoint
from .config import Config
from .gguf_output import Entry, OutputTensor, array, boolean, u32
from .mapped import Mapped, collect
from .model_tensors import layer_tensors
from .sizes import Sizes, read_sizes
from .source_tensor import SourceTensor
from .target import Target

ARCHITECTURE = "eagle3"
TAPS = 3  # layers of the target that are tapped
_NETWORK = Architecture(ARCHITECTURE, paired_rope=True)
_LAYERS = ("midlayer.", "layers.0.")  # what a checkpoint calls its layer
_ROOTS = ("", "model.")  # before that, and before other names
_LAYER_IDS = ("eagle_aux_hidden_state_layer_ids", "aux_hidden_state_layer_ids", "target_layer_ids")
_VOCABULARY = ("d2t", "t2d")


def default_layers(layers: int) -> list[int]:
    """The published choice for a target of so many layers."""
    return [2, layers // 2, layers - 3]


def telling_tensor(checkpoint: Checkpoint) -> str | None:
    """The name of a tensor that only EAGLE-3 drafters have; None where the checkpoint is no such drafter."""
    names = checkpoint.tensors
    if not any(f"{root}fc.weight" in names for root in _ROOTS):
        return None
    marks = ("midlayer.", *_VOCABULARY)
    return next(
        (n for n in names if n.removeprefix("model.").startswith(marks) or n.endswith(".hidden_norm.weight")), None
    )


@dataclasses.dataclass
class Eagle3:
    """A checkpoint as it is read for a target; raises ValueError where the two do not fit.

    `target_layers`: instead of the config's; ids as in GGUF (0: the first layer's input, which is the embedding).
    """

    checkpoint: Checkpoint
    target: Target
    target_layers: Sequence[int] | None = None

    def __post_init__(self) -> None:
        # Some exporters nest the layer's own hyper-parameters, or EAGLE's.
        self.config: Config = self.checkpoint.config.merged("transformer_layer_config")
        self.sizes: Sizes = read_sizes(self.config)
        self.remarks: list[str] = []
        if self.sizes.layers != 1:
            raise self.config.wrong("num_hidden_layers", "1: an EAGLE-3 drafter has one layer")
        if self.sizes.vocabulary != self.target.vocabulary:
            raise self.config.wrong("vocab_size", f"{self.target.vocabulary}, as {self.target.path} has")
        self._check_target_hidden_size()
        self.joined_norm = next((n for n in ("input_norm.weight", "fc_norm.weight") if self._has(n)), None)
        self.tap_norms = self._has("fc_norm.0.weight")
        if self.joined_norm is None and self._flag("norm_before_fc"):
            self.joined_norm = "input_norm.weight"  # missing: collect() will say so
        if not self.tap_norms and self._flag("fc_norm") and self.joined_norm != "fc_norm.weight":
            self.tap_norms = True
        if self.joined_norm and self.tap_norms:
            raise ValueError(
                f"{self.checkpoint.folder}: found '{self.joined_norm}' and 'fc_norm.0.weight', expected one kind of "
                "norm before fc"
            )

    def entries(self) -> list[Entry]:
        """The metadata, without the tokenizer's."""
        flag = self._flag
        # Where this key is missing, configs of vLLM's speculators mean true, others false.
        before_residual = flag("norm_before_residual", "speculators_model_type" in self.config)
        result = [
            *self.sizes.entries(ARCHITECTURE),
            array(f"{ARCHITECTURE}.target_layers", self._layers(), "INT32"),
            u32(f"{ARCHITECTURE}.target_hidden_size", self.target.hidden),
            boolean(f"{ARCHITECTURE}.norm_before_residual", before_residual),
            boolean(f"{ARCHITECTURE}.norm_before_fc", self.joined_norm is not None),
        ]
        if self.tap_norms:
            result.append(boolean(f"{ARCHITECTURE}.fc_norm", True))
            self.remarks.append("a norm for each tap (fc_norm) is unknown to llama.cpp, which will refuse the file")
        if flag("norm_output") or flag("return_hidden_post_norm"):
            result.append(boolean(f"{ARCHITECTURE}.norm_output", True))
            self.remarks.append(
                "feedback behind the final norm (norm_output) is unknown to llama.cpp, whose drafts will be worse"
            )
        return result

    def tensors(self) -> list[OutputTensor]:
        """The tensors in the order of the file."""
        ids = self._token_ids()
        wanted = list(self._wanted(ids))
        collected = collect(self.checkpoint, wanted, ignored=[self._name(name) for name in _VOCABULARY])
        tensors = {tensor.name: tensor for tensor in collected}
        self._drop_copies(tensors, ids)
        if self.tap_norms:
            parts = [tensors.pop(f"fc_norm.{tap}").weights for tap in range(TAPS)]
            joined = np.concatenate([part.floats() for part in parts if part is not None])
            tensors["enc.output_norm.weight"] = OutputTensor("enc.output_norm.weight", values=joined)
        result = list(tensors.values())
        if ids is not None and "output.weight" in tensors:
            result.append(OutputTensor("d2t", values=ids))
        return [*result, *self.sizes.rope.tensors()]

    def _has(self, name: str) -> bool:
        return self._name(name) in self.checkpoint.tensors

    def _name(self, name: str) -> str:
        """How the checkpoint spells a name: with `model.` before it, or without."""
        return next((root + name for root in _ROOTS if root + name in self.checkpoint.tensors), name)

    def _flag(self, name: str, default: bool = False) -> bool:
        section = self.config.section("eagle_config")
        return section.flag(name, default) if name in section else self.config.flag(name, default)

    def _check_target_hidden_size(self) -> None:
        config = next(
            (c for c in (self.config, self.config.section("eagle_config")) if "target_hidden_size" in c), None
        )
        if config is not None and config.integer("target_hidden_size") != self.target.hidden:
            raise config.wrong("target_hidden_size", f"{self.target.hidden}, as {self.target.path} has")

    def _layers(self) -> list[int]:
        layers, where = self.target_layers, "--target-layers"
        if layers is None:
            layers, where = self._config_layers()
        most = self.target.layers
        if layers is None:
            if most is None:
                raise ValueError(f"{self.target.path}: has no number of layers: give --target-layers")
            layers, where = default_layers(most), f"the default for {most} layers"
        numbers = all(isinstance(layer, int) and not isinstance(layer, bool) for layer in layers)
        if not numbers or len(layers) != TAPS or min(layers) < 0 or (most is not None and max(layers) > most):
            raise ValueError(
                f"{self.checkpoint.config.path}: layers of the target: found {list(layers)} ({where}), expected {TAPS} "
                f"numbers from 0 to {'the number of layers' if most is None else most}; --target-layers gives others"
            )
        if self.target_layers is None and layers[0] == 1:
            self.remarks.append(
                f"target layers {list(layers)} are taken for the layers whose inputs are tapped, as by llama.cpp and "
                "vLLM; if they were meant as layers whose outputs are tapped (SGLang takes a first id of 1 for that), "
                f"give --target-layers {','.join(str(layer + 1) for layer in layers)}"
            )
        return list(layers)

    def _config_layers(self) -> tuple[list[int] | None, str]:
        for config in (self.config, self.config.section("eagle_config")):
            for key in _LAYER_IDS:
                if key in config:
                    if not isinstance(config.get(key), list):
                        raise config.wrong(key, f"an array of {TAPS} layers")
                    return config.get(key), f"key '{key}'"
        return None, ""

    def _wanted(self, ids: np.ndarray | None) -> Iterator[Mapped]:
        hidden, vocabulary, taps = self.sizes.hidden, self.sizes.vocabulary, TAPS * self.target.hidden
        own = hidden != self.target.hidden  # the target's embedding and head have another width
        yield Mapped(self._name("fc.weight"), "fc.weight", (hidden, taps))
        if self.joined_norm:
            yield Mapped(self._name(self.joined_norm), "enc.output_norm.weight", (taps,))
        for tap in range(TAPS if self.tap_norms else 0):
            yield Mapped(self._name(f"fc_norm.{tap}.weight"), f"fc_norm.{tap}", (self.target.hidden,))
        if own or self._has("embed_tokens.weight"):
            yield Mapped(self._name("embed_tokens.weight"), "token_embd.weight", (vocabulary, hidden))
        yield from self._layer()
        yield Mapped(self._name("norm.weight"), "output_norm.weight", (hidden,))
        if own or ids is not None or self._has("lm_head.weight"):
            rows = vocabulary if ids is None else len(ids)
            yield Mapped(self._name("lm_head.weight"), "output.weight", (rows, hidden))

    def _layer(self) -> Iterator[Mapped]:
        known = [root + layer for root in _ROOTS for layer in _LAYERS]
        found = [name for name in known if f"{name}hidden_norm.weight" in self.checkpoint.tensors]
        prefix = found[0] if found else known[0]
        hidden = self.sizes.hidden
        for mapped in layer_tensors(self.sizes, 0, "", _NETWORK, qkv_bias=False, out_bias=False, mlp_bias=False):
            source = prefix + mapped.source.removeprefix("layers.0.")
            joined = mapped.name.split(".")[2] in ("attn_q", "attn_k", "attn_v")
            shape = (mapped.shape[0], 2 * hidden) if joined else mapped.shape
            yield dataclasses.replace(mapped, source=source, shape=shape)
            if mapped.name == "blk.0.attn_norm.weight":
                yield Mapped(f"{prefix}hidden_norm.weight", "blk.0.attn_norm_2.weight", (hidden,))

    def _token_ids(self) -> np.ndarray | None:
        """The token of each row of a reduced head, int64; None where row i is token i."""
        vocabulary = self.sizes.vocabulary
        head = self.checkpoint.tensors.get(self._name("lm_head.weight"))
        d2t = self.checkpoint.tensors.get(self._name("d2t"))
        if d2t is None:
            if head is not None and head.shape[0] != vocabulary:
                raise ValueError(
                    f"{self.checkpoint.folder}: tensor 'd2t' is missing: lm_head.weight has {head.shape[0]} rows, "
                    f"expected {vocabulary}, one for each token, or a tensor that names the token of each row"
                )
            self._check_t2d(np.arange(vocabulary))
            return None
        if d2t.dtype not in ("I64", "I32") or len(d2t.shape) != 1:
            raise ValueError(f"{d2t.file}: tensor 'd2t': found {d2t.dtype} {d2t.shape}, expected a vector of I64")
        if head is not None and d2t.shape != head.shape[:1]:
            raise ValueError(
                f"{d2t.file}: tensor 'd2t': found {d2t.shape[0]} entries, expected {head.shape[0]}, one for each row "
                "of lm_head.weight"
            )
        stated = self.config.integer("draft_vocab_size", d2t.shape[0])
        if stated != d2t.shape[0]:
            raise self.config.wrong("draft_vocab_size", f"{d2t.shape[0]}, the entries of tensor 'd2t'")
        ids = d2t.raw.astype(np.int64) + np.arange(d2t.shape[0], dtype=np.int64)  # stored are distances
        _check_ids(d2t, ids, vocabulary)
        self._check_t2d(ids)
        return None if np.array_equal(ids, np.arange(vocabulary)) else ids

    def _check_t2d(self, ids: np.ndarray) -> None:
        t2d = self.checkpoint.tensors.get(self._name("t2d"))
        if t2d is None:
            return
        if t2d.shape != (self.sizes.vocabulary,) or not np.array_equal(np.flatnonzero(t2d.raw), np.sort(ids)):
            raise ValueError(
                f"{t2d.file}: tensor 't2d': found {np.count_nonzero(t2d.raw)} tokens of {t2d.shape}, expected the "
                f"{len(ids)} tokens of 'd2t' among {self.sizes.vocabulary}"
            )

    def _drop_copies(self, tensors: dict[str, OutputTensor], ids: np.ndarray | None) -> None:
        """Drops an embedding and a head that are the target's."""
        if self.sizes.hidden != self.target.hidden:
            return
        for name, source, what, rows in (
            ("token_embd.weight", "embed_tokens.weight", "embedding", self.target.embedding),
            ("output.weight", "lm_head.weight", "head", self.target.head),
        ):
            own = tensors.get(name)
            if own is None or (name == "output.weight" and ids is not None):
                continue
            assert own.weights is not None
            if rows.same_as(own.weights):
                del tensors[name]
                self.remarks.append(f"{source} is the target's own {what}: the copy is dropped")
            else:
                self.remarks.append(f"{source} differs from the target's {what}: it is kept")


def _check_ids(d2t: SourceTensor, ids: np.ndarray, vocabulary: int) -> None:
    repeated = np.ones(len(ids), dtype=bool)
    repeated[np.unique(ids, return_index=True)[1]] = False
    for expected, wrong in (
        (f"ids from 0 to {vocabulary - 1}", (ids < 0) | (ids >= vocabulary)),
        ("each id once", repeated),
    ):
        if wrong.any():
            row = int(np.argmax(wrong))
            raise ValueError(
                f"{d2t.file}: tensor 'd2t', entry {row}: found offset {d2t.raw[row]}, which is id {ids[row]}, "
                f"expected {expected}"
            )
