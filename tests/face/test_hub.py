"""Models by name, from a small hub on the loopback."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_hub import Repository, SmallHub

from frspec_cpp import LLM
from frspec_cpp.hub import choose, find_model, parts_of

constants = pytest.importorskip("huggingface_hub.constants")
file_download = pytest.importorskip("huggingface_hub.file_download")
Runner = Callable[..., subprocess.CompletedProcess[bytes]]

SPLIT = [f"big/M-Q8_0-{part:05}-of-00003.gguf" for part in (1, 2, 3)]
FILES = [
    "M-F16.gguf",
    "M-IQ4_K_M.gguf",
    "M.q4_k_m.gguf",
    "README.md",
    "M-Q4_K_M.imatrix",
    "mmproj-M-Q4_K_M.gguf",
    *SPLIT,
]


@pytest.fixture
def hub(demo_target: Path, demo_drafter: Path) -> Iterator[SmallHub]:
    """A hub with the demo pair and some files that are none."""
    target, drafter = demo_target.read_bytes(), demo_drafter.read_bytes()
    repositories = {
        "demo/target-GGUF": Repository(
            {"README.md": b"#", "target-Q8_0.gguf": b"no model", "target-q4_k_m.gguf": target}
        ),
        "demo/drafter": Repository({"eagle2-F16.gguf": drafter, "target-Q4_K_M.gguf": target}),
        "some/split": Repository({path: bytes([i]) * 100_000 for i, path in enumerate(FILES)}),
        "my/private": Repository({"M-Q2_K.gguf": b"mine"}, token="secret"),
        "some/gated": Repository({"M.gguf": b"accept"}, gated=True),
        "some/checkpoint": Repository({"model.safetensors": b""}),
    }
    with SmallHub(repositories) as server:
        yield server


@pytest.fixture
def cache(hub: SmallHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's settings of this process, and of those it starts."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HUB_CACHE", str(folder))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    for module in (constants, file_download):  # old versions keep a copy
        url = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", url, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return folder


# ---- which file is meant


@pytest.mark.parametrize(
    ("quant", "pattern", "expected"),
    [
        (None, None, "M.q4_k_m.gguf"),
        ("Q8_0", None, SPLIT[0]),
        ("q8_0", None, SPLIT[0]),
        ("f16", None, "M-F16.gguf"),
        ("iq4_k_m", None, "M-IQ4_K_M.gguf"),
        ("Q4_0", None, None),
        ("Q4_K", None, None),
        ("Q8_0", "*F16*", "M-F16.gguf"),
        (None, "big/*", SPLIT[0]),
        (None, SPLIT[1], SPLIT[0]),
        (None, "mmproj*", "mmproj-M-Q4_K_M.gguf"),
        (None, "README.md", None),
        (None, "*.bin", None),
    ],
)
def test_choosing(quant: str | None, pattern: str | None, expected: str | None) -> None:
    assert choose(FILES, quant, pattern) == expected
    assert choose(FILES[::-1], quant, pattern) == expected


def test_choosing_without_the_usual_quantization() -> None:
    files = ["z-Q2_K.gguf", "b/x-Q6_K-00001-of-00002.gguf", "b/x-Q6_K-00002-of-00002.gguf", "eagle3-Q4_K_M.gguf"]
    assert choose(files, None, None) == "b/x-Q6_K-00001-of-00002.gguf"
    assert choose(files, None, None, is_drafter=True) == "eagle3-Q4_K_M.gguf"
    assert choose(files[:1], None, None, is_drafter=True) == "z-Q2_K.gguf"
    assert choose([], None, None) is None
    folders = ["BF16/m-00001-of-00002.gguf", "Q8_0/m-00001-of-00002.gguf"]  # it may be the folder's name alone
    assert [choose(folders, quant, None) for quant in ("q8_0", "BF16", "Q4_0")] == [folders[1], folders[0], None]
    with pytest.raises(ValueError, match=r"found 'M\*', which is M-F16.gguf, M-IQ4_K_M.gguf, .* expected one of them"):
        choose(FILES, None, "M*")


def test_parts() -> None:
    assert parts_of(SPLIT[0]) == SPLIT
    assert parts_of("a-00001-of-2.gguf") == ["a-00001-of-2.gguf"]


# ---- fetching


def test_a_model_is_fetched_once(hub: SmallHub, cache: Path) -> None:
    path = find_model("some/split:Q8_0")
    assert path == cache / "models--some--split" / "snapshots" / ("1" * 40) / SPLIT[0]
    data = [(path.parent / Path(part).name).read_bytes() for part in SPLIT]
    assert data == [hub.repositories["some/split"].files[part] for part in SPLIT]
    assert [name for name, _ in hub.downloads()] == SPLIT
    assert find_model("some/split", "*Q8_0*") == path
    assert len(hub.downloads()) == 3


def test_all_parts_are_of_one_commit(hub: SmallHub, cache: Path) -> None:
    find_model("some/split:Q8_0")
    asked = [path.split("/")[4] for method, path, _ in hub.requests if method == "GET" and "/resolve/" in path]
    assert asked == ["main", "1" * 40, "1" * 40]


def test_a_broken_download_goes_on(hub: SmallHub, cache: Path, demo_target: Path) -> None:
    hub.breaks_after = 15_000_000
    try:
        path = find_model("demo/target-GGUF")
    except ConnectionError as error:  # as long as the package does not try again by itself
        assert "target-q4_k_m.gguf: could not be downloaded" in str(error)  # noqa: PT017
        path = find_model("demo/target-GGUF")
    assert path.read_bytes() == demo_target.read_bytes()
    starts = [start for _, start in hub.downloads()]
    assert starts[0] == 0
    assert 0 < starts[-1] <= 15_000_000  # the package writes large pieces


def test_a_folder_of_ones_own(hub: SmallHub, cache: Path, tmp_path: Path) -> None:
    path = find_model("some/split:Q8_0", local_dir=tmp_path / "models")
    assert path == tmp_path / "models" / SPLIT[0]
    assert all((tmp_path / "models" / part).is_file() for part in SPLIT)
    assert find_model("some/split:Q8_0", local_dir=tmp_path / "models", local_files_only=True) == path
    assert not cache.exists()


def test_tokens(hub: SmallHub, cache: Path) -> None:
    assert find_model("my/private", token="secret").read_bytes() == b"mine"
    with pytest.raises(FileNotFoundError, match=r"my/private: found no such model on http://127.*HF_TOKEN"):
        find_model("my/private", token="wrong")
    with pytest.raises(PermissionError, match=r"some/gated: .*accepted the terms at http://127.*/some/gated"):
        find_model("some/gated")


def test_what_is_not_there(hub: SmallHub, cache: Path) -> None:
    for name, filename, error, message in [
        ("no/model", None, FileNotFoundError, "no/model: found no such model"),
        ("some/split:Q5_K_M", None, ValueError, "found no file of Q5_K_M, expected one of: M-F16.gguf, M-IQ"),
        ("some/split", "*Q5*", ValueError, r"some/split: found no file \*Q5\*, expected one of: M-F16.gguf"),
        ("some/checkpoint", None, ValueError, "found no GGUF file, expected one of: none .frspec-convert"),
        ("some/split:", None, ValueError, "no quantization behind the colon"),
        ("split", None, ValueError, "split: expected the name of a model on the hub, USER/REPO"),
        ("a/b/c", None, ValueError, "a/b/c: expected the name"),
        ("some/-.-", None, ValueError, "some/-.-"),
    ]:  # fmt: skip
        with pytest.raises(error, match=message):
            find_model(name, filename)
    with pytest.raises(FileNotFoundError, match="some/split: found no revision 'v9'"):
        find_model("some/split", revision="v9")
    del hub.repositories["some/split"].files[SPLIT[1]]
    with pytest.raises(FileNotFoundError, match=f"found no {SPLIT[1]} in the repository, expected all parts"):
        find_model("some/split:Q8_0")
    assert hub.downloads() == []


# ---- without a connection


@pytest.mark.parametrize("offline", [True, False])
def test_without_a_connection(hub: SmallHub, cache: Path, monkeypatch: pytest.MonkeyPatch, offline: bool) -> None:
    path = find_model("some/split")
    find_model("my/private", token="secret")
    find_model("some/split:Q8_0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    asked = len(hub.requests)
    why = r"offline" if offline else r"the hub cannot be reached"
    if offline:
        assert find_model("some/split") == path
    else:
        with pytest.warns(UserWarning, match=rf"some/split: {why}.*M.q4_k_m.gguf of the cache is taken"):
            assert find_model("some/split") == path
    with pytest.raises(FileNotFoundError, match=rf"{why}.*expected a file of F16 in the cache, found .*M.q4_k_m.gguf"):
        find_model("some/split:F16")
    with pytest.raises(FileNotFoundError, match=rf"{why}.*{cache}, found there: my/private: M-Q2_K.gguf, some/split: "):
        find_model("demo/target-GGUF")
    (path.parent / SPLIT[2]).unlink()
    with pytest.raises(FileNotFoundError, match=f"{why}.*found no {SPLIT[2]} in the cache, expected all parts"):
        find_model("some/split:Q8_0")
    assert len(hub.requests) == asked


def test_only_local_files(hub: SmallHub, cache: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"some/split: the hub is not asked .offline.*found there: none"):
        find_model("some/split", local_files_only=True)
    assert hub.requests == []


# ---- the faces


def test_llm(hub: SmallHub, cache: Path, demo_target: Path, llm: LLM) -> None:
    expected = llm.generate("def add(a, b):", 12).tokens
    by_name = LLM.from_pretrained("demo/target-GGUF", "*q4_k_m*", drafter="demo/drafter", n_ctx=128, head="full")
    assert by_name.has_drafter
    assert by_name.n_ctx == 128
    assert by_name.generate("def add(a, b):", 12, draft=True).tokens == expected
    plain = LLM.from_pretrained("demo/target-GGUF", drafter=demo_target, n_ctx=128)
    assert plain.has_drafter
    with pytest.raises(ValueError, match="drafter_filename: found no drafter"):
        LLM.from_pretrained("demo/target-GGUF", drafter_filename="*.gguf")


def test_the_package_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"huggingface_hub.*pip install 'frspec_cpp\[hub\]'"):
        LLM.from_pretrained("demo/target-GGUF")


def test_the_binary(run: Runner, hub: SmallHub, cache: Path, llm: LLM) -> None:
    expected = llm.generate("def add(a, b):", 12).text.encode()
    arguments = ("-hf", "demo/target-GGUF", "-hfd", "demo/drafter", "-p", "def add(a, b):", "-n", "12", "--json")
    result = run("generate", *arguments)
    assert result.returncode == 0, result.stderr
    assert result.stderr == b""
    fetched = len(hub.requests)
    offline = run("generate", "--hf-repo=demo/target-GGUF:Q4_K_M", "-p", "def add(a, b):", "-n", "12", "--offline")
    assert (offline.returncode, offline.stdout) == (0, expected)
    assert len(hub.requests) == fetched
    tokens = run("tokenize", "-hf", "demo/target-GGUF", "-hff", "*_k_m.gguf", "-p", "def")
    assert tokens.stdout == run("tokenize", "-p", "def").stdout


def test_errors_of_the_binary(run: Runner, hub: SmallHub, cache: Path) -> None:
    for arguments, parts in [
        (("-hf", "some/split:Q1"), ("some/split: found no file of Q1, expected one of", "M-F16.gguf")),
        (("-hf", "demo/drafter", "--offline"), ("demo/drafter", "offline", str(cache))),
        (("-hf", "a/b", "-m", "c.gguf"), ("-m, --model", "-hf, --hf-repo", "one of them")),
        (("-hfd", "a/b", "-d", "c.gguf"), ("--drafter", "--hf-repo-draft", "one of them")),
        (("-hff", "a.gguf"), ("--hf-file", "--hf-repo", "both")),
    ]:
        result = run("generate", "-p", "x", *arguments)
        message = result.stderr.decode()
        assert (result.returncode, result.stdout) == (1, b""), arguments
        assert message.startswith("frspec: error: ")
        assert message.count("\n") == 1, message
        assert all(part in message for part in parts), message
    # The token goes on; what comes is no GGUF file.
    result = run("generate", "-p", "x", "-hf", "my/private", "-hft", "secret")
    assert b"M-Q2_K.gguf" in result.stderr
    assert b"is not a GGUF file" in result.stderr


def test_the_binary_without_python(binary: str, tmp_path: Path) -> None:
    """A binary alone says what it lacks."""
    alone = tmp_path / "frspec"
    shutil.copy(binary, alone)
    result = subprocess.run(
        [alone, "generate", "-hf", "a/b", "-p", "x"],
        capture_output=True,
        timeout=60,
        check=False,
        env={"PATH": "/none"},
    )
    assert result.returncode == 1
    assert b"found no frspec-download beside" in result.stderr
    assert b"pip install 'frspec_cpp[hub]'" in result.stderr


def test_the_tool(hub: SmallHub, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from frspec_cpp.tools.download import main

    assert main(["some/split:F16"]) == 0
    printed: Any = capsys.readouterr()
    assert Path(printed.out.strip()).name == "M-F16.gguf"
    assert main(["some/split:Q1"]) == 1
    assert capsys.readouterr().err.startswith("frspec-download: error: some/split: found no file of Q1")
