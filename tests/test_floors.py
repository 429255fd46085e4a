"""The floor checker (scripts/check_floors.py) on the real tree and on trees that break each rule."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "check_floors.py"


def run(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, root], capture_output=True, text=True, check=False)


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def test_real_tree_keeps_its_floors() -> None:
    done = run(ROOT)
    assert done.returncode == 0, done.stdout


def test_allowed_arrows(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "cpp/gguf/a.h": '#include <vector>\n#include "tensor/t.h"\n#include "base/error.h"\n',
            "cpp/tokenizer/a.cpp": '#include "gguf/a.h"\n#include "table.inc"\n#include "tokenizer/b.h"\n',
            "cpp/tokenizer/table.inc": "",
            "cpp/cpu/a.cpp": '#include "backend/backend.h"\n#include "cpu/kernels.inl"\n',
            "cpp/draft/a.cpp": '#include "vocab/v.h"\n',
            "cpp/engine/a.cpp": '#include "draft/d.h"\n#include "tree/t.h"\n',
            "cuda/a.cu": '#include "backend/backend.h"\n#include "device/b.cuh"\n#include "cuda/c.h"\n',
            "cuda/device/b.cuh": "",
            "python/bindings/a.cpp": '#include "engine/e.h"\n#include "common.h"\n',
            "python/bindings/common.h": "",
        },
    )
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("file", "include", "expected"),
    [
        ("cpp/base/a.h", "tensor/t.h", "base (floor 0)"),
        ("cpp/model/a.cpp", "tree/t.h", "model (floor 3)"),
        ("cpp/tensor/a.h", "gguf/g.h", "tensor (floor 1)"),
        ("cpp/draft/a.h", "engine/e.h", "draft (floor 4)"),
        ("cpp/backend/registry.cpp", "cpu/cpu_backend.h", "nobody may know"),
        ("cpp/engine/a.cpp", "cuda/c.h", "nobody may know"),
        ("cpp/engine/a.h", "vocab/draft_head.h", "a head subset never leaks"),
        ("cpp/verify/a.cpp", "vocab/token_ranks.h", "a head subset never leaks"),
        ("cpp/engine/a.cpp", "../model/m.h", "no known folder"),
        ("cpp/engine/a.cpp", "absent.h", "no known folder"),
        ("cpp/engine/a.cpp", "elsewhere/e.h", "no known folder"),
        ("cpp/attic/a.cpp", "base/error.h", "folder 'attic' has no floor"),
        ("cpp/a.cpp", "base/error.h", "folder '' has no floor"),
        ("cuda/a.cu", "model/m.h", "cuda (floor 2)"),
        ("python/bindings/a.cpp", "cpu/kernels.h", "nobody may know"),
    ],
)
def test_violation_is_reported_with_its_line(tmp_path: Path, file: str, include: str, expected: str) -> None:
    write(tmp_path, {file: f'// A note.\n#include "{include}"\n', "cpp/model/m.h": ""})
    done = run(tmp_path)
    assert done.returncode == 1
    line = 1 if "has no floor" in expected else 2
    assert f"{file}:{line}: " in done.stdout
    assert expected in done.stdout


def test_empty_tree_is_an_error(tmp_path: Path) -> None:
    assert run(tmp_path).returncode == 1


def test_a_forbidden_folder_is_not_reached_either(tmp_path: Path) -> None:
    """A drafter may know heads; who stands above it may not learn of them by its header."""
    write(
        tmp_path,
        {
            "cpp/engine/a.cpp": '#include "draft/d.h"\n',
            "cpp/draft/d.h": '#include "draft/e.h"\n',
            "cpp/draft/e.h": '#include "draft/d.h"\n#include "vocab/v.h"\n',
            "cpp/vocab/v.h": "",
        },
    )
    done = run(tmp_path)
    assert done.returncode == 1
    assert "cpp/engine/a.cpp:1: engine reaches vocab/v.h: draft/d.h -> draft/e.h -> vocab/v.h" in done.stdout
    (tmp_path / "cpp/draft/e.h").write_text("class DraftHead;\n")
    assert run(tmp_path).returncode == 0
