"""How far quantized products are from exact ones, here and in llama.cpp: the same files, the same ids.

Usage:
    python bench/accuracy.py MODEL.gguf... [--types q8_0,q4_k] [--text FILE] [--tokens 512] [--folder FOLDER]
    python bench/accuracy.py MODEL.gguf... --beside [--text FILE] [--tokens 512]

Exact is a model with the same weights as F32 and keys and values as f32. Each model is measured as it is, and
quantized anew to each of the types (by llama.cpp, all matrices to that type). Prints a Markdown table: mean KL
divergence from the exact logits in nats, its ratio, how often the best token is the exact one's, and perplexity. With
--beside, nothing is made: how far the two engines are from one another, and how long their greedy texts are the same.

Needs llama-cpp-python, and room in the folder for the largest model as F32.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from against_llama_cpp import silence
from tqdm import tqdm

import frspec_cpp

TYPES = {
    "f16": llama_cpp.LLAMA_FTYPE_MOSTLY_F16,
    "bf16": llama_cpp.LLAMA_FTYPE_MOSTLY_BF16,
    "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "q4_1": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_1,
    "q5_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_0,
    "q5_1": llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_1,
    "q4_k": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_S,
    "q5_k": llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_K_S,
    "q6_k": llama_cpp.LLAMA_FTYPE_MOSTLY_Q6_K,
}
PARTS, WRITTEN = 8, 64  # greedy texts of --beside, and tokens of each


def dequantize(source: Path, target: Path) -> None:
    """Writes the same model with F32 weights."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type)
    for tensor in reader.tensors:
        writer.add_tensor_info(tensor.name, tensor.shape[::-1].tolist(), np.dtype(np.float32), 4 * tensor.n_elements)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tqdm(reader.tensors, desc=f"{source.name} as F32", leave=False):
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.write_tensor_data(values)
    writer.close()


def quantize(source: Path, target: Path, kind: str) -> None:
    """Quantizes an F32 model's matrices to one type, with llama.cpp."""
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype, options.pure, options.nthread = TYPES[kind], True, 2
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), options) != 0:
        raise RuntimeError(f"{source}: llama.cpp cannot quantize it to {kind}")


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """(n, vocab) of (n, vocab)."""
    x = logits.astype(np.float64)
    x -= x.max(1, keepdims=True)
    x -= np.log(np.exp(x).sum(1, keepdims=True))
    return x


def ours(path: Path, ids: list[int], cache_type: str = "f16") -> np.ndarray:
    """Logits (n, vocab) of this engine."""
    with frspec_cpp.LLM(path, n_ctx=len(ids) + 64, cache_type=cache_type) as llm:
        return llm.forward(ids)


def theirs(path: Path, ids: list[int]) -> np.ndarray:
    """Logits (n, vocab) of llama.cpp."""
    llm = llama_cpp.Llama(str(path), n_ctx=len(ids) + 64, n_batch=len(ids), logits_all=True, verbose=False)
    try:
        llm.eval(ids)
        return np.array(llm.scores[: len(ids)])
    finally:
        llm.close()


def read_ids(model: Path, text: Path, count: int) -> list[int]:
    """The first tokens of a text.

    Raises:
        ValueError: There are too few to compare.
    """
    with frspec_cpp.LLM(model, n_ctx=64) as llm:
        ids = llm.tokenize(text.read_text(encoding="utf-8"))[:count]
    if len(ids) < PARTS:
        raise ValueError(f"{text}: found {len(ids)} tokens with --tokens {count}, expected at least {PARTS}")
    return ids


class Distance:
    """How far some logits are from exact ones."""

    def __init__(self, exact: np.ndarray, found: np.ndarray, ids: list[int]) -> None:
        self.divergence = float((np.exp(exact) * (exact - found)).sum(1).mean())
        self.same = float((found.argmax(1) == exact.argmax(1)).mean())
        self.perplexity = float(np.exp(-found[np.arange(len(ids) - 1), ids[1:]].mean()))


def greedy_texts(path: Path, ids: list[int]) -> tuple[int, float]:
    """Writes `WRITTEN` tokens behind each of `PARTS` parts of the ids, here.

    Returns how many of them llama.cpp would write as well, each behind the same tokens; and by how much at most it
    thinks another one more likely, in nats.
    """
    same, most = 0, 0.0
    part = len(ids) // PARTS
    with frspec_cpp.LLM(path, n_ctx=part + WRITTEN) as llm:
        prompts = [ids[first : first + part] for first in range(0, PARTS * part, part)]
        texts = [llm.generate(prompt, WRITTEN, temperature=0.0, ignore_eos=True).tokens for prompt in prompts]
    for prompt, text in zip(prompts, texts, strict=True):
        scores = log_probabilities(theirs(path, [*prompt, *text])[len(prompt) - 1 : -1])
        lost = scores.max(1) - scores[np.arange(WRITTEN), text]
        same += int((lost == 0).sum())
        most = max(most, float(lost.max()))
    return same, most


def print_beside(model: Path, ids: list[int]) -> None:
    """One row of the table of --beside."""
    here, there = log_probabilities(ours(model, ids)), log_probabilities(theirs(model, ids))
    same, most = greedy_texts(model, ids)
    between = Distance(there, here, ids)
    print(
        f"| {model.stem} | {between.divergence:.5f} | {between.same:.3f} | {same} of {PARTS * WRITTEN} | {most:.3f} |",
        flush=True,
    )


def versions(model: Path, kinds: list[str], folder: Path) -> Iterator[tuple[str, Path, Path]]:
    """(name, quantized file, the same weights as F32) of a model as it is, and quantized anew."""
    exact, quantized, again = folder / "exact.gguf", folder / "quantized.gguf", folder / "again.gguf"
    dequantize(model, exact)
    yield "as it is", model, exact
    for kind in kinds:
        quantize(exact, quantized, kind)
        dequantize(quantized, again)
        yield kind, quantized, again


def main() -> int:
    """Runs the comparison; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--types", default="", help=f"formats to quantize to as well: {', '.join(TYPES)}, or 'all'")
    parser.add_argument("--text", type=Path, default=Path(__file__).parent.parent / "README.md")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--beside", action="store_true", help="compare the two engines with one another")
    parser.add_argument("--folder", type=Path, help="where files of a run lie (default: the temporary folder)")
    arguments = parser.parse_args()
    kinds = list(TYPES) if arguments.types == "all" else [kind for kind in arguments.types.split(",") if kind]
    for kind in kinds:
        if kind not in TYPES:
            parser.error(f"--types: found {kind!r}, expected some of {', '.join(TYPES)}")
    if arguments.beside and kinds:
        parser.error("--types: --beside makes no files, expected one of the two")
    silence()
    if arguments.beside:
        print("| model | KL | same best token | greedy tokens that are the same | most that another is preferred by |")
        print("|---|---|---|---|---|")
        for model in arguments.models:
            print_beside(model, read_ids(model, arguments.text, arguments.tokens))
        return 0
    print("| model | weights | KL here | KL llama.cpp | ratio | same best token | perplexity, exact |")
    print("|---|---|---|---|---|---|---|")
    for model in arguments.models:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            for name, path, exact_path in versions(model, kinds, Path(folder)):
                ids = read_ids(path, arguments.text, arguments.tokens)
                exact = log_probabilities(ours(exact_path, ids, "f32"))
                here = Distance(exact, log_probabilities(ours(path, ids)), ids)
                there = Distance(exact, log_probabilities(theirs(path, ids)), ids)
                truth = Distance(exact, exact, ids)
                print(
                    f"| {model.stem} | {name} | {here.divergence:.5f} | {there.divergence:.5f} "
                    f"| {here.divergence / there.divergence:.2f} | {here.same:.3f}, {there.same:.3f} "
                    f"| {here.perplexity:.3f}, {there.perplexity:.3f}; {truth.perplexity:.3f} |",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
