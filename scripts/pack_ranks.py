#!/usr/bin/env python3
"""Counts the library's own token ranks and packs them: cpp/vocab/builtin_ranks.bin, read by builtin_ranks.cpp.

Usage: pack_ranks.py -o cpp/vocab/builtin_ranks.bin --text TEXT [--text TEXT ...] VOCABULARY.gguf...

The first 32,768 tokens of each vocabulary that occur in the texts, by frequency, control tokens left out. The package
must be installed, with its extra `tools`. Vocabularies that have the same ordinary tokens count once.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from frspec_cpp.tools.rank import count_tokens

from frspec_cpp import _core

RANKED = 32768
SHORTEST_RUN = 64


def number(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the highest bit says that more follow."""
    result = bytearray()
    while value >= 0x80:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)


def pack(ids: list[int]) -> bytes:
    """Ids by rank, as runs of ascending ids."""
    packed, begin = b"", 0
    while begin < len(ids):
        end = begin + max(SHORTEST_RUN, begin // 8)
        run = sorted(ids[begin:end])
        packed += b"".join(number(there - here) for here, there in zip([0, *run], run, strict=False))
        begin = end
    return number(len(ids)) + number(len(packed)) + packed


def ranked(tokenizer: _core.Tokenizer, texts: list[Path]) -> list[int]:
    """The most frequent tokens, ties by id."""
    counts = count_tokens(tokenizer, texts)
    counts[tokenizer.control_ids()] = 0
    order = np.argsort(-counts, kind="stable")[:RANKED]
    return [int(token) for token in order if counts[token] > 0]


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--text", type=Path, action="append", required=True)
    parser.add_argument("vocabularies", type=Path, nargs="+")
    options = parser.parse_args()
    packed: dict[str, bytes] = {}
    for path in options.vocabularies:
        tokenizer = _core.Tokenizer(str(path))
        fingerprint = _core.ordinary_fingerprint(tokenizer)
        if fingerprint in packed:
            continue
        packed[fingerprint] = pack(ranked(tokenizer, options.text))
        print(f"{path.name}: {fingerprint}, {len(packed[fingerprint])} bytes")
    options.output.write_bytes(b"".join(int(key, 16).to_bytes(8, "little") + packed[key] for key in packed))


if __name__ == "__main__":
    main()
