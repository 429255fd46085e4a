"""The emulated CUDA device itself: what it computes, which broken kernels it finds, and command lists."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from frspec_cpp import _testing

Words = npt.NDArray[np.uint32]
POISON = 0xFBFBFBFB


def run(name: str, words: npt.NDArray[Any] | list[int]) -> Words:
    return _testing.cuda_self_test(name, np.asarray(words, dtype=np.uint32))


def bits(values: npt.NDArray[Any]) -> Words:
    return np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)


# --- What it computes ---


def test_shuffles() -> None:
    random = np.random.default_rng(0)
    values = random.integers(0, 2**32, 32, dtype=np.uint32)
    source = random.integers(0, 32, 32, dtype=np.uint32)
    found = run("shuffles", np.concatenate([values, source])).reshape(3, 32)
    np.testing.assert_array_equal(found[0], values[source])
    np.testing.assert_array_equal(found[1], values[np.arange(32) ^ 5])
    np.testing.assert_array_equal(found[2], values[source] ^ source)
    # Only the lowest five bits of a source count.
    np.testing.assert_array_equal(run("shuffles", np.concatenate([values, source + 64])), found.reshape(-1))


@pytest.mark.parametrize("pattern", [0, 1, 0x80000001, 0xFFFFFFFF, 0x12345678])
def test_ballots(pattern: int) -> None:
    found = run("ballots", [pattern >> lane & 1 for lane in range(32)])
    assert found.tolist() == [pattern] * 32


def tree_sum(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A warp's sum, in its order: pairs 16 apart, 8 apart, ..."""
    while len(values) > 1:
        half = len(values) // 2
        values = values[:half] + values[half:]
    return values


def test_reductions() -> None:
    values = np.random.default_rng(1).standard_normal(256).astype(np.float32)
    warps = [tree_sum(values[w : w + 32])[0] for w in range(0, 256, 32)]
    total = warps[0]
    for other in warps[1:]:
        total = np.float32(total + other)
    found = run("reduces", bits(values)).view(np.float32).reshape(2, 256)
    assert set(found[0].tolist()) == {float(total)}
    assert set(found[1].tolist()) == {float(values.max())}
    found = run("warp_reduces", bits(values[:64])).view(np.float32)
    assert found.tolist() == [float(warps[0])] * 32 + [float(warps[1])] * 32


def test_the_last_block_is_one() -> None:
    for _ in range(5):
        found = run("last_blocks", np.arange(1, 8))
        assert found[:3].tolist() == [28, 1, 0]


@pytest.mark.parametrize("count", [2, 3, 64, 67, 1000])
def test_shared_memory(count: int) -> None:
    words = np.arange(count, dtype=np.uint32)
    np.testing.assert_array_equal(run("pieces", words), words[::-1])


@pytest.mark.parametrize("type_", ["f16", "bf16"])
def test_products(type_: str) -> None:
    random = np.random.default_rng(2)
    for trial in range(20):
        a, b, c = (random.standard_normal(shape).astype(np.float32) for shape in ((16, 16), (16, 8), (16, 8)))
        if trial % 2 == 0:  # sums that are exact
            a, b, c = np.round(4 * a), np.round(4 * b), np.round(4 * c)
        if type_ == "f16":
            a16, b16 = a.astype(np.float16), b.astype(np.float16)
            a, b = a16.astype(np.float32), b16.astype(np.float32)
            halves = np.concatenate([a16.reshape(-1), b16.reshape(-1)]).view(np.uint32)
        else:
            a, b = ((bits(x) & 0xFFFF0000).view(np.float32) for x in (a, b))
            halves = (np.concatenate([bits(a), bits(b)], axis=None) >> 16).astype(np.uint16).view(np.uint32)
        found = run(f"mma_{type_}", np.concatenate([halves, bits(c).reshape(-1)])).view(np.float32).reshape(16, 8)
        exact = c.astype(np.float64)
        for k in range(16):  # one after the other, rounded in the end
            exact = exact + np.outer(a[:, k].astype(np.float64), b[k].astype(np.float64))
        np.testing.assert_array_equal(found, exact.astype(np.float32))


def test_all_halves() -> None:
    halves = np.arange(65536, dtype=np.uint32)
    expected = halves.astype(np.uint16).view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(run("halves_to_floats", halves).view(np.float32), expected)
    signs = np.signbit(run("halves_to_floats", halves).view(np.float32))
    np.testing.assert_array_equal(signs, np.signbit(expected))
    found = run("floats_to_halves", bits(expected))
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(found[number], halves[number])
    assert np.isnan(found.astype(np.uint16).view(np.float16)[~number]).all()


def same_halves(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    """Bit for bit, but for the bits of what is no number."""
    found, expected = found.astype(np.uint16), np.asarray(expected, dtype=np.float16).view(np.uint16)
    numbers = ~np.isnan(expected.view(np.float16))
    np.testing.assert_array_equal(found[numbers], expected[numbers])
    assert np.isnan(found.view(np.float16)[~numbers]).all()


@pytest.mark.filterwarnings("ignore:overflow")
def test_rounding_to_halves() -> None:
    """All points in the middle between two halves, their neighbours, and random numbers."""
    finite = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    middles = ((finite[:-1] + finite[1:]) / 2).astype(np.float32)
    around = np.concatenate([middles, np.nextafter(middles, np.float32(0)), np.nextafter(middles, np.float32(np.inf))])
    edges = np.array([65504, 65519.99, 65520, 65536, 1e30, np.inf, 2**-25, 2**-24, 1e-40, 0], dtype=np.float32)
    random = np.random.default_rng(3).integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    values = np.concatenate([around, -around, edges, -edges, random[~np.isnan(random)]])
    same_halves(run("floats_to_halves", bits(values)), values.astype(np.float16))
    assert np.isnan(run("floats_to_halves", [0x7F800001, 0xFFFFFFFF]).astype(np.uint16).view(np.float16)).all()


def test_rounding_to_bf16() -> None:
    random = np.random.default_rng(4).integers(0, 2**32, 100_000, dtype=np.uint32)
    random = np.concatenate([random, random & 0xFFFF0000, random & 0xFFFF0000 | 0x8000])
    values = random[~np.isnan(random.view(np.float32))]
    even = values.astype(np.uint64) + 0x7FFF + (values >> 16 & 1)
    np.testing.assert_array_equal(run("floats_to_bf16", values), (even >> 16).astype(np.uint32))
    assert (run("floats_to_bf16", [0x7F800001, 0xFFFFFFFF]) & 0x7FFF > 0x7F80).all()


def pairs(a: npt.NDArray[np.float16], b: npt.NDArray[np.float16], c: npt.NDArray[np.float16]) -> npt.NDArray[np.uint16]:
    """(3, n): a b + c, a - b, a b, as bits."""
    words = np.concatenate([x.view(np.uint32) for x in (a, b, c)])
    return run("pairs", words).view(np.uint16).reshape(3, -1)


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid")
def test_differences_and_products_of_halves() -> None:
    every = np.arange(65536, dtype=np.uint16).view(np.float16)
    random = np.random.default_rng(5)
    for _ in range(12):
        other = random.permutation(every)
        _, differences, products = pairs(every, other, other)
        same_halves(differences, every - other)
        same_halves(products, every * other)


def nearest_half(x: Fraction) -> np.float16:
    guess = np.float16(float(x))
    near = [np.nextafter(guess, np.float16(-np.inf)), guess, np.nextafter(guess, np.float16(np.inf))]
    finite = [h for h in near if np.isfinite(h)]
    # The nearest one; of two, the one whose last bit is 0.
    return min(finite, key=lambda h: (abs(Fraction(float(h)) - x), int(np.float16(h).view(np.uint16)) & 1))


def test_fused_products_of_halves() -> None:
    random = np.random.default_rng(6)
    count = 20_000
    scale = np.exp2(random.integers(-14, 6, (3, count)).astype(np.float64))
    a, b, c = (random.standard_normal((3, count)) * scale).astype(np.float16)
    # Just below the middle of two halves, where a rounding to 24 bits on the way would give the middle itself.
    a[:2], b[:2], c[:2] = 1 + 2.0**-7, (1 - 2.0**-7) * 2.0**-11, 1 + 2.0**-10
    # The same with 60 bits between the first and the last.
    a[2:4], b[2:4], c[2:4] = 2.0**-24, -(2.0**-24), 1
    a[4:6], b[4:6], c[4:6] = 2.0**-20, -(2.0**-20), 2.0**-14 + 2.0**-24
    found = pairs(a, b, c)[0]
    for i in range(count):
        exact = Fraction(float(a[i])) * Fraction(float(b[i])) + Fraction(float(c[i]))
        if abs(exact) < 65504 and exact != 0:
            assert found[i] == nearest_half(exact).view(np.uint16), (a[i], b[i], c[i])
    assert found[0] == np.float16(1 + 2.0**-10).view(np.uint16)
    big = np.array([65504, -65504, np.inf, 0, -0.0, np.nan], dtype=np.float16)
    fused = pairs(big, np.full(6, 2, np.float16), np.zeros(6, np.float16))[0].view(np.float16)
    np.testing.assert_array_equal(fused, np.array([np.inf, -np.inf, np.inf, 0, 0, np.nan], dtype=np.float16))


def test_asynchronous_copies() -> None:
    words = np.arange(128 * 6, dtype=np.uint32)
    np.testing.assert_array_equal(run("asynchronous_copies", words), words.reshape(6, 128)[:, ::-1].reshape(-1))


def test_stacks_are_aligned() -> None:
    assert run("aligned_objects", [7] * 16).tolist() == [7] * 64


# --- Which broken kernels it finds ---

BROKEN = {
    "read_behind": "touched 0x[0-9a-f]+, outside of a buffer of 4096 bytes",
    "read_in_front": "touched 0x[0-9a-f]+, outside of a buffer of 4096 bytes",
    "read_far": "no memory of the device",
    "read_nothing": "touched (0|0x[0-9a-f]+), which is no memory of the device",
    "write_behind": "touched 0x[0-9a-f]+, outside of a buffer of 4096 bytes",
    "write_in_front": "touched 0x[0-9a-f]+, outside of a buffer of 4096 bytes",
    "take_too_much": "takes 256 bytes of shared memory, but the launch stated 128",
    "take_differently": "takes other pieces of shared memory",
    "miss_the_barrier": "waits for its block, of which some threads have ended",
    "end_early": "waits for its block, of which some threads have ended",
    "miss_the_warp": "waits for its warp, of which some threads have ended",
    "mix_collectives": "in another operation than the lanes before it",
    "mix_barriers": "in another barrier than the threads before it",
    "never_wait": "copies that nobody waited for",
    "copy_crookedly": "not a multiple of 16",
    "copy_elsewhere": "no piece of its shared memory",
    "load_crookedly": "touches 16 bytes at once at .* not a multiple",
    "load_tile_crookedly": "touches 16 bytes at once at .* not a multiple",
    "throws": "throws: what it says",
    "no_threads": "found a launch of 1 x 1 x 1 blocks of 0 threads",
    "half_a_warp": "blocks of 48 threads",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_kernels_are_found(name: str) -> None:
    for _ in range(3):
        with pytest.raises(RuntimeError, match=f"kernel {name}.*{BROKEN[name]}"):
            run(name, np.zeros(1024))
    assert run("ballots", [0] * 32).tolist() == [0] * 32  # and nothing is broken for good


@pytest.mark.parametrize("words", [1, 15, 33, 1000])
def test_writes_next_to_a_buffer(words: int) -> None:
    """A few bytes behind one, or in front, where a page does not end."""
    with pytest.raises(RuntimeError, match=f"kernel write_behind: wrote behind a buffer of {4 * words} bytes"):
        run("write_behind", np.zeros(words))
    with pytest.raises(RuntimeError, match=f"kernel write_in_front: wrote in front of a buffer of {4 * words} bytes"):
        run("write_in_front", np.zeros(words))


@pytest.mark.parametrize("at", [8, 15, 100, 1000, 10_000, 2**18, -1, -17, -200, -2000, -(2**18)])
def test_writes_outside_of_shared_memory(at: int) -> None:
    kernel = "kernel write_outside_of_pieces"
    with pytest.raises(RuntimeError, match=f"{kernel}.*(wrote outside of its shared memory|no memory of the device)"):
        run("write_outside_of_pieces", [at % 2**32])


def test_what_nobody_wrote_is_poison() -> None:
    assert run("read_unwritten", [0]).tolist() == [POISON] * 32


def test_copies_arrive_when_they_are_waited_for() -> None:
    assert run("read_early", np.arange(128)).tolist() == [POISON] * 32


def test_races_depend_on_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    words = np.arange(256)
    for seed in range(8):
        monkeypatch.setenv("FRSPEC_CUDA_EMULATION_SEED", str(seed))
        found[seed] = run("race", words).reshape(2, 256)
        np.testing.assert_array_equal(run("race", words).reshape(2, 256), found[seed])
    for half in range(2):  # between warps, and between the lanes of one
        assert len({found[seed][half].tobytes() for seed in found}) > 1
    assert any(POISON in results[0] for results in found.values())


def test_the_host_may_not_touch_device_memory() -> None:
    code = (
        "import numpy; from frspec_cpp import _testing; "
        "_testing.cuda_self_test('touch_device', numpy.zeros(8, numpy.uint32))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == -signal.SIGSEGV


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="self test: found 'nothing'"):
        run("nothing", [0])


@pytest.mark.threads
def test_threads_with_devices_of_their_own() -> None:
    """Right and wrong kernels at once: each thread gets its own results and errors."""

    def work(number: int) -> int:
        words = np.arange(128 * 4, dtype=np.uint32) + number
        for i in range(150):
            found = run("asynchronous_copies", words)
            np.testing.assert_array_equal(found, words.reshape(4, 128)[:, ::-1].reshape(-1))
            name = ("read_behind", "end_early", "throws")[(i + number) % 3]
            with pytest.raises(RuntimeError, match=f"kernel {name}.*{BROKEN[name]}"):
                run(name, np.zeros(1024))
        return number

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == list(range(4))


# --- Command lists ---


def lists(words: list[int]) -> tuple[list[list[int]], list[int]]:
    """After each list: commands, single launches, launched graphs, graphs made, changed values; and the cells."""
    found = run("command_lists", words).tolist()
    return [found[5 * i : 5 * i + 5] for i in range(len(words))], found[-4:]


def test_lists_become_graphs() -> None:
    counts, cells = lists([0x04030201] * 4)
    assert counts == [
        [4, 4, 0, 0, 0],  # never seen: commands one by one
        [8, 4, 1, 1, 0],  # seen again: a graph
        [12, 4, 2, 1, 0],  # launched as it is
        [16, 4, 3, 1, 0],
    ]
    assert cells == [4, 8, 12, 16]


def test_graphs_get_only_changed_values() -> None:
    counts, cells = lists([0x04030201, 0x04030202, 0x04030202, 0x05030202, 0x08070605, 0x04030201])
    assert [count[4] for count in counts] == [0, 0, 0, 1, 5, 9]
    assert counts[-1] == [24, 4, 5, 1, 9]
    assert cells == [1 + 2 + 2 + 2 + 5 + 1, 2 + 2 + 2 + 2 + 6 + 2, 3 + 3 + 3 + 3 + 7 + 3, 4 + 4 + 4 + 5 + 8 + 4]


def test_lists_of_other_kernels_are_others() -> None:
    counts, cells = lists([0x01010101, 0x01010181, 0x01010101, 0x01010181, 0x01010101])
    assert counts == [[4, 4, 0, 0, 0], [8, 8, 0, 0, 0], [12, 8, 1, 1, 0], [16, 8, 2, 2, 0], [20, 8, 3, 2, 0]]
    assert cells == [3 + 2 * 2 * 0x81, 3 + 4, 3 + 4, 3 + 4]


def test_many_kinds_of_lists() -> None:
    """Values are no kinds: the same graph serves them all."""
    random = np.random.default_rng(7)
    words = (random.integers(0, 2**32, 200, dtype=np.uint32) & 0x7F7F7F7F).tolist()
    counts, cells = lists(words)
    assert counts[-1][:4] == [800, 4, 199, 1]
    assert cells == [sum(word >> 8 * i & 0xFF for word in words) for i in range(4)]


@pytest.mark.parametrize("name", ["release_early", "fail_early"])
def test_memory_given_back_while_commands_wait(name: str) -> None:
    words = np.arange(200, dtype=np.uint32)
    np.testing.assert_array_equal(run(name, words), words)
