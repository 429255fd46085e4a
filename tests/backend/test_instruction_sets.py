"""Every instruction set of the machine, side by side: what is promised about their bits, and the choice of one."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from matrices import MULTIPLIED, random_matrix, write_matrices

import frspec_cpp

pytestmark = pytest.mark.cpu_only

SETS = frspec_cpp.cpu_instruction_sets()
KNOWN = ["amx", "avx512bf16", "avx512", "avx2vnni", "avx2", "neon", "generic", "amx-emulated"]
NAMES = [*MULTIPLIED, "F32"]

_PRODUCTS = """
import sys
import numpy as np
from frspec_cpp import _testing
path, out, *names = sys.argv[1:]
x = np.load(path + ".npy")
np.savez(out, device=_testing.ops.device(), **{name: _testing.ops.matmul(path, name, x) for name in names})
"""


def in_process(code: str, isa: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Another Python, which has not chosen yet."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "FRSPEC_CPU": isa},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, np.ndarray]]:
    """By instruction set: the products of 20 random rows with a matrix of each type, and the device's name."""
    folder = tmp_path_factory.mktemp("isa")
    path = folder / "weights.gguf"
    rng = np.random.default_rng(5)
    write_matrices(path, {name: (name, random_matrix(name, 37, 768, rng)) for name in NAMES})
    np.save(f"{path}.npy", rng.standard_normal((20, 768), dtype=np.float32))
    found = {}
    for isa in SETS:
        result = in_process(_PRODUCTS, isa, str(path), str(folder / f"{isa}.npz"), *NAMES)
        assert result.returncode == 0, result.stderr
        found[isa] = dict(np.load(folder / f"{isa}.npz"))
    return found


def test_the_list_is_ordered_and_ends_generic() -> None:
    assert [name for name in KNOWN if name in SETS] == SETS
    assert "generic" in SETS


def test_the_variable_chooses(products: dict[str, dict[str, np.ndarray]]) -> None:
    for isa in SETS:
        assert str(products[isa]["device"]).startswith(f"cpu ({isa}, ")


@pytest.mark.parametrize("name", NAMES)
def test_bits_agree_where_sums_are_fused(products: dict[str, dict[str, np.ndarray]], name: str) -> None:
    """Integer products are exact, and what is added in f32 is added in one order, by fused multiply-adds.

    The generic set has no fused ones; it rounds a little differently.
    """
    fused = [isa for isa in SETS if isa != "generic"]
    for isa in fused[1:]:
        assert np.array_equal(products[isa][name], products[fused[0]][name]), isa
    close = products["generic"][name]
    assert np.abs(close - products[SETS[0]][name]).max() <= 1e-5 * np.abs(close).max()


@pytest.mark.parametrize("isa", [" ", "avx9000", "AVX2", *(name for name in KNOWN if name not in SETS)])
def test_names_that_are_unknown_or_not_of_this_machine_are_errors(isa: str) -> None:
    result = in_process("import frspec_cpp; frspec_cpp.generate('a')", isa)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        f"ValueError: environment variable FRSPEC_CPU: found '{isa}', expected one of the instruction sets of this "
        f"machine: {', '.join(SETS)}"
    )


def test_an_empty_variable_leaves_the_choice() -> None:
    result = in_process("from frspec_cpp import _testing; print(_testing.ops.device())", "")
    assert result.stdout == f"cpu ({SETS[0]}, 1 thread)\n"
