"""GGUF files made byte by byte: odd but good ones, split ones, and hostile ones, which are refused."""

from __future__ import annotations

import gc
import random
import re
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from frspec_cpp._core import GgufFile

U8, I8, U16, I16, U32, I32, F32, BOOL, STR, ARR, U64, I64, F64 = range(13)
FORMATS = ["<B", "<b", "<H", "<h", "<I", "<i", "<f", "<B", "", "", "<Q", "<q", "<d"]


# ---- files by hand ----


def string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def entry(key: str | bytes, kind: int, value: Any) -> bytes:
    """A metadata entry; `value` is a number, a string, or the raw bytes of an array."""
    if kind == STR:
        data = string(value)
    elif kind == ARR:
        data = value
    else:
        data = struct.pack(FORMATS[kind], value)
    return string(key) + struct.pack("<I", kind) + data


def array(kind: int, count: int, data: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + data


def tensor(name: str | bytes, shape: list[int], kind: int = 0, offset: int = 0, dims: int | None = None) -> bytes:
    head = string(name) + struct.pack("<I", len(shape) if dims is None else dims)
    return head + struct.pack(f"<{len(shape)}q", *shape) + struct.pack("<IQ", kind, offset)


def build(
    entries: list[bytes] | None = None,
    tensors: list[bytes] | None = None,
    data: bytes = b"",
    *,
    version: int = 3,
    alignment: int = 32,
    entry_count: int | None = None,
    tensor_count: int | None = None,
) -> bytes:
    entries, tensors = entries or [], tensors or []
    counts = (
        len(tensors) if tensor_count is None else tensor_count,
        len(entries) if entry_count is None else entry_count,
    )
    head = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join(entries) + b"".join(tensors)
    return head + bytes(-len(head) % alignment if data else 0) + data


def meta(*entries: bytes) -> bytes:
    return build(list(entries))


def weights(data_bytes: int, *tensors: bytes) -> bytes:
    return build(None, list(tensors), bytes(data_bytes))


def good_file() -> bytes:
    """A small file with one of everything."""
    entries = [
        entry("general.alignment", U32, 64),
        entry("s", STR, "größe"),
        entry("n", U64, 2**40),
        entry("f", F32, 0.25),
        entry("b", BOOL, 1),
        entry("tokens", ARR, array(STR, 3, string("a") + string("") + string("bc"))),
        entry("scores", ARR, array(F32, 2, struct.pack("<2f", 1, -2))),
        entry("flags", ARR, array(BOOL, 2, b"\0\1")),
        entry("nested", ARR, array(ARR, 2, array(U8, 1, b"x") + array(STR, 0))),
    ]
    tensors = [tensor("a", [4, 2]), tensor("q", [32], kind=8, offset=64)]
    return build(entries, tensors, bytes(range(64)) + bytes(34), alignment=64)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def read_all(path: Path) -> None:
    """Touches every byte that the file hands out."""
    file = GgufFile(path)
    assert len(file.metadata) >= 0
    for item in file.tensors:
        assert item.nbytes == item.data.size
        item.data.sum()


# ---- odd but good ----


NUMBERS: list[tuple[int, list[float]]] = [
    (U8, [0, 255]),
    (I8, [-128, 127]),
    (U16, [0, 65535]),
    (I16, [-32768, 3]),
    (U32, [2**32 - 1]),
    (I32, [-1, 7]),
    (U64, [2**64 - 1]),
    (I64, [-(2**63)]),
    (F32, [0.5, -4.0]),
    (F64, [0.1, 1e300]),
    (I32, []),
]


@pytest.mark.parametrize(("kind", "values"), NUMBERS)
def test_number_arrays_of_every_type(tmp_path: Path, kind: int, values: list[float]) -> None:
    raw = b"".join(struct.pack(FORMATS[kind], value) for value in values)
    # The one-letter key leaves the numbers at an odd address.
    path = write(tmp_path / "a.gguf", build([entry("k", ARR, array(kind, len(values), raw))]))
    assert GgufFile(path).metadata == {"k": values}


def test_strings_that_are_no_utf8(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", build([entry(b"k\xff", STR, b"a\xf0\x28z")]))
    assert GgufFile(path).metadata == {"k\ufffd": "a\ufffd(z"}


@pytest.mark.parametrize("kind", list(gguf.GGMLQuantizationType), ids=lambda kind: kind.name)
def test_block_layout_of_every_type(tmp_path: Path, kind: gguf.GGMLQuantizationType) -> None:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    if kind == gguf.GGMLQuantizationType.Q8_1:
        size = 36  # two halves and 32 bytes in ggml; the Python package counts the halves as floats
    path = write(tmp_path / "t.gguf", build(None, [tensor("t", [3 * block, 2], kind)], bytes(6 * size)))
    (item,) = GgufFile(path).tensors
    assert (item.type, item.shape, item.nbytes) == (kind.name, (3 * block, 2), 6 * size)
    if block > 1:
        write(path, build(None, [tensor("t", [3 * block + 1, 2], kind)], bytes(9 * size)))
        with pytest.raises(ValueError, match=f"rows of {3 * block + 1} elements, expected a multiple of {block}"):
            GgufFile(path)


def test_tensor_data_is_a_read_only_view_that_keeps_the_file_open(tmp_path: Path) -> None:
    path = write(tmp_path / "good.gguf", good_file())
    data = GgufFile(path).tensors[0].data
    path.unlink()
    gc.collect()
    assert data.dtype == np.uint8
    assert not data.flags.writeable
    assert not data.flags.owndata
    assert bytes(data) == bytes(range(32))


def test_the_hand_made_file_is_good(tmp_path: Path) -> None:
    file = GgufFile(str(write(tmp_path / "good.gguf", good_file())))
    assert file.metadata["tokens"] == ["a", "", "bc"]
    assert file.metadata["nested"] is None
    assert [(item.name, item.type, item.shape) for item in file.tensors] == [
        ("a", "F32", (4, 2)),
        ("q", "Q8_0", (32,)),
    ]


def test_no_metadata_and_no_tensors(tmp_path: Path) -> None:
    file = GgufFile(write(tmp_path / "empty.gguf", build()))
    assert file.metadata == {}
    assert file.tensors == []


# ---- split files ----


def write_parts(folder: Path, changes: dict[int, dict[str, Any]] | None = None, count: int = 3) -> Path:
    """Parts of one tensor each; `changes` replaces split.* values of a part, None taking one away."""
    for i in range(count):
        values: dict[str, Any] = {"split.no": i, "split.count": count, "split.tensors.count": count}
        values |= (changes or {}).get(i, {})
        name = values.pop("name", f"t{i}")
        kinds = {"split.no": U16, "split.count": U16, "split.tensors.count": I32}
        entries = [entry(key, kinds[key], value) for key, value in values.items() if value is not None]
        write(
            folder / f"m-{i + 1:05}-of-{count:05}.gguf",
            build(entries, [tensor(name, [i + 1])], b"\1" * 4 * (i + 1)),
        )
    return folder / f"m-00001-of-{count:05}.gguf"


def test_split_file(tmp_path: Path) -> None:
    file = GgufFile(write_parts(tmp_path))
    assert [(item.name, item.shape, bytes(item.data)) for item in file.tensors] == [
        (f"t{i}", (i + 1,), b"\1" * 4 * (i + 1)) for i in range(3)
    ]
    assert file.metadata["split.count"] == 3


def test_missing_part(tmp_path: Path) -> None:
    first = write_parts(tmp_path)
    (tmp_path / "m-00002-of-00003.gguf").unlink()
    with pytest.raises(FileNotFoundError, match=r"m-00001.*part 2 of 3 is missing: .*m-00002-of-00003\.gguf"):
        GgufFile(first)


def test_only_the_first_part_can_be_opened(tmp_path: Path) -> None:
    write_parts(tmp_path)
    with pytest.raises(ValueError, match=r"m-00002-of.*is part 2 of 3, expected the first part, m-00001-of-00003"):
        GgufFile(tmp_path / "m-00002-of-00003.gguf")


def test_first_part_under_another_name(tmp_path: Path) -> None:
    moved = write_parts(tmp_path).rename(tmp_path / "moved.gguf")
    with pytest.raises(ValueError, match=r"moved\.gguf.*split.count.* is 3, .* moved-00001-of-00003\.gguf"):
        GgufFile(moved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({1: {"split.no": 2}}, r'm-00002.*"split.no" is 2, expected 1'),
        ({2: {"split.no": None}}, r'm-00003.*"split.no" is missing, expected 2'),
        ({2: {"split.count": 4}}, r'm-00003.*"split.count" is 4, expected 3'),
        ({0: {"split.count": 4}}, r'm-00001.*"split.count" is 4, .*m-00001-of-00004'),
        ({0: {"split.count": None}}, r'named as part 1 of 3, but .*"split.count" is missing'),
        ({0: {"split.tensors.count": None}}, r'm-00001.*"split.tensors.count" is missing'),
        ({1: {"split.tensors.count": 7}}, r'm-00002.*"split.tensors.count" is 7, expected 3'),
        (
            {i: {"split.tensors.count": 4} for i in range(3)},
            r'm-00001.*"split.tensors.count" is 4, but .* hold 3',
        ),
        ({1: {"name": "t0"}}, r'm-00002.*tensor "t0" is in an earlier part'),
    ],
)
def test_inconsistent_parts(tmp_path: Path, changes: dict[int, dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GgufFile(write_parts(tmp_path, changes))


# ---- hostile files ----

HUGE = 2**60
NESTED = array(U8, 0)
for _ in range(5000):
    NESTED = array(ARR, 1, NESTED)

HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "short": (b"GG", 'begins with "GG", expected "GGUF"'),
    "other": (b"PK\3\4" + bytes(60), r'begins with "PK\x03\x04", expected "GGUF"'),
    "header cut": (b"GGUF\3\0\0\0\1", "ends inside the tensor count of the header"),
    "version 1": (build(version=1), "version 1, which is no longer read"),
    "version 4": (build(version=4), "version 4, expected 2 or 3"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "many entries": (build(entry_count=HUGE), f"declares {HUGE} metadata entries"),
    "many tensors": (build(tensor_count=HUGE), f"declares {HUGE} tensors"),
    "-1 tensors": (build(tensor_count=2**64 - 1), f"declares {2**64 - 1} tensors"),
    "one entry too few": (build([entry("k", U8, 1)], entry_count=2), "declares 2 metadata entries"),
    "tensors gone": (build([entry("k" * 99, U8, 1)], tensor_count=1), "tensor directory declares 1 tensors"),
    "long key": (
        meta(struct.pack("<Q", HUGE) + bytes(16)),
        f"the key of metadata entry 0 has a length of {HUGE}",
    ),
    "long string": (
        meta(string("k") + struct.pack("<IQ", STR, 2**64 - 1)),
        f'"k" has a length of {2**64 - 1}',
    ),
    "value type": (
        meta(string("k") + struct.pack("<IQ", 13, 0)),
        '"k": the value type is 13, expected 0 to 12',
    ),
    "element type": (meta(entry("k", ARR, array(99, 0))), "the array's element type is 99"),
    "value cut": (
        meta(string("kkkk") + struct.pack("<II", U64, 0)),
        'ends inside the value of metadata key "kkkk"',
    ),
    "many strings": (meta(entry("k", ARR, array(STR, HUGE))), f'"k" declares {HUGE} strings'),
    "many numbers": (meta(entry("k", ARR, array(F64, 2**61))), f'"k" declares {2**61} array elements'),
    "many arrays": (meta(entry("k", ARR, array(ARR, HUGE))), f'"k" declares {HUGE} arrays'),
    "deep arrays": (meta(entry("k", ARR, NESTED)), '"k" nests arrays more than 8 deep'),
    "string in array": (
        meta(entry("k", ARR, array(STR, 1, struct.pack("<Q", 9)))),
        "a string of metadata key",
    ),
    "bool": (meta(entry("k", BOOL, 2)), '"k" holds a boolean of 2, expected 0 or 1'),
    "bool in array": (meta(entry("k", ARR, array(BOOL, 2, b"\1\xff"))), '"k" holds a boolean of 255'),
    "key twice": (meta(entry("k", U8, 1), entry("k", U8, 1)), '"k" appears twice'),
    "stray bytes": (meta(entry(b"\x1b[2J\xff", BOOL, 7)), r'"\x1b[2J\xff" holds a boolean'),
    "alignment 0": (
        meta(entry("general.alignment", U32, 0)),
        '"general.alignment" is 0, expected a power of two',
    ),
    "alignment 4": (meta(entry("general.alignment", U32, 4)), "is 4, expected a power of two of at least 8"),
    "alignment 48": (meta(entry("general.alignment", U32, 48)), "is 48, expected a power of two"),
    "alignment type": (meta(entry("general.alignment", STR, "32")), "of type string, expected u32"),
    "alignment width": (meta(entry("general.alignment", U64, 32)), "of type u64, expected u32"),
    "0 dims": (weights(32, tensor("w", [1], dims=0)), '"w" has 0 dimensions, expected 1 to 4'),
    "5 dims": (weights(32, tensor("w", [1] * 5)), 'tensor "w" has 5 dimensions'),
    "many dims": (weights(32, tensor("w", [1], dims=2**32 - 1)), f"{2**32 - 1} dimensions"),
    "size 0": (weights(32, tensor("w", [4, 0])), '"w" has a size of 0 in dimension 1'),
    "size -1": (weights(32, tensor("w", [-1])), '"w" has a size of -1 in dimension 0'),
    "elements overflow": (weights(32, tensor("w", [2**32, 2**32])), '"w" has a shape whose number'),
    "bytes overflow": (weights(32, tensor("w", [2**62])), "number of bytes overflows"),
    "rows overflow": (weights(32, tensor("w", [2**31, 2**31])), "number of bytes overflows"),
    "ragged rows": (weights(99, tensor("w", [33], 8)), '"w" has rows of 33 elements, expected a multiple'),
    "tensor type": (weights(99, tensor("w", [32], 4)), '"w" has type number 4, which is unknown'),
    "offset": (weights(99, tensor("w", [1], 0, 4)), '"w" has its data at offset 4, expected a multiple'),
    "data cut": (weights(31, tensor("w", [8])), '"w" needs 32 bytes at offset 0 of the data, which has'),
    "data gone": (weights(0, tensor("w", [8])), '"w" needs 32 bytes'),
    "far offset": (weights(32, tensor("w", [1], 0, 2**64 - 32)), f'"w" needs 4 bytes at offset {2**64 - 32}'),
    "overlap": (
        weights(64, tensor("b", [8], 0, 32), tensor("a", [16])),
        'tensor "b" begins inside the data of tensor "a"',
    ),
    "same place": (weights(64, tensor("b", [8]), tensor("a", [8])), "begins inside the data of tensor"),
    "name twice": (weights(64, tensor("w", [8]), tensor("w", [8], 0, 32)), '"w" appears twice'),
    "long name": (weights(64, tensor("w" * 64, [8])), "a name of 64 bytes, expected at most 63"),
    "name past the end": (
        weights(32, struct.pack("<Q", 2**63) + bytes(24)),
        f"the name of tensor number 0 has a length of {2**63}",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(tmp_path: Path, name: str) -> None:
    data, message = HOSTILE[name]
    path = write(tmp_path / "hostile file.gguf", data)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        GgufFile(path)
    assert str(error.value).startswith(f"{path}: ")
    assert str(error.value).isprintable()


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "absent.gguf"))):
        GgufFile(tmp_path / "absent.gguf")
    with pytest.raises(ValueError, match="is a directory, expected a GGUF file"):
        GgufFile(tmp_path)
    with pytest.raises(ValueError, match="/dev/null: is not a regular file"):
        GgufFile("/dev/null")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    data = good_file()
    path = tmp_path / "cut.gguf"
    for length in range(len(data)):
        write(path, data[:length])
        with pytest.raises(ValueError, match=re.escape(f"{path}: ")):
            GgufFile(path)
    read_all(write(path, data))


@pytest.mark.parametrize("seed", range(4))
def test_corrupted_files_open_or_are_refused(tmp_path: Path, seed: int) -> None:
    """Nothing but ValueError; the extremes are tried at every byte, the rest at random."""
    good = good_file()
    rng = random.Random(seed)
    path = tmp_path / "corrupted.gguf"
    refused = 0
    for i in range(1000):
        data = bytearray(good)
        if seed == 0:
            data[i % len(good)] = (0, 255, 128, 1)[i // len(good) % 4]
        else:
            for _ in range(rng.choice((1, 1, 2, 8))):
                at, width = rng.randrange(len(good)), rng.choice((1, 1, 4, 8))
                data[at : at + width] = rng.choice((rng.randbytes(width), b"\xff" * width, bytes(width)))
        write(path, bytes(data))
        try:
            read_all(path)
        except ValueError as error:
            refused += 1
            assert str(error).startswith(f"{path}: ")  # noqa: PT017
    assert 100 < refused < 1000
