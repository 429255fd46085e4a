"""Ranks that adapt: counts with decay, their file, and the rows of a head that follow them."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frspec_cpp.tools.fingerprint import vocabulary_fingerprint
from frspec_cpp.tools.ranks_file import Ranks, read_ranks, write_ranks
from gguf_edit import GgufEditor
from gguf_values import metadata, tensors, types
from processes import TIMEOUT
from tiny_pair import TinyPair, make_tiny_pair

from frspec_cpp import Tokenizer, _testing

VOCAB = 400
CONTROL = [0, 1]
PRIOR_TOKENS = 2_000  # the weight of what is known in advance
HALF_LIFE = 200_000


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    return make_tiny_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def tokenizer(pair: TinyPair) -> Tokenizer:
    return Tokenizer(pair.target_gguf)


def write_list(path: Path, pair: TinyPair, order: Any, counts: Any = None) -> Path:
    """A ranks file as frspec-rank writes it."""
    tokens = GgufEditor(pair.target_gguf).entries["tokenizer.ggml.tokens"].value
    counted = None if counts is None else np.array(counts, dtype=np.int64)
    write_ranks(path, Ranks(np.array(order, dtype=np.int32), VOCAB, vocabulary_fingerprint(tokens), counted))
    return path


@pytest.fixture(scope="module")
def prior(pair: TinyPair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    order = np.random.default_rng(1).permutation(VOCAB)
    return write_list(tmp_path_factory.mktemp("prior") / "prior.gguf", pair, order)


def decayed(tokens: list[int], half_life: float, vocab: int = VOCAB) -> np.ndarray:
    """The weights by their definition: half for every `half_life` tokens that came after."""
    weights = np.zeros(vocab)
    for age, token in enumerate(reversed(tokens)):
        weights[token] += 0.5 ** (age / half_life)
    return weights


# --- Counting ---


@pytest.mark.parametrize("half_life", [1, 7, 1000])
def test_decay(half_life: int) -> None:
    rng = random.Random(half_life)
    tokens = [rng.randrange(30) for _ in range(5000)]  # with a half-life of 1 its unit grows beyond all numbers
    counts = _testing.TokenCounts(30, half_life)
    for first in range(0, len(tokens), 37):
        counts.add(tokens[first : first + 37])
    expected = decayed(tokens, half_life, 30)
    np.testing.assert_allclose(counts.weights, expected, rtol=1e-9)
    assert counts.counted == 5000
    assert counts.best(30) == sorted(range(30), key=lambda t: (-counts.weights[t], t))
    assert counts.best(3) == counts.best(30)[:3]


def test_half_of_it_is_left_after_a_half_life() -> None:
    counts = _testing.TokenCounts(3)
    counts.add([1])
    assert counts.weights.tolist() == [0, 1, 0]
    counts.add([2] * HALF_LIFE)
    assert counts.weights[1] == pytest.approx(0.5, rel=1e-9)
    assert counts.weights[2] == pytest.approx(HALF_LIFE / np.log(2) / 2, rel=1e-4)


def test_a_prior_is_scaled_to_its_weight() -> None:
    counts = _testing.TokenCounts(4, 100)
    counts.add([3] * 10)
    before = counts.weights
    counts.add_prior([0.0, 30.0, 10.0, 0.0], 80.0)
    np.testing.assert_allclose(counts.weights - before, [0, 60, 20, 0], atol=1e-12)
    counts.add([0] * 100)  # and decays as all does
    assert counts.weights[1] == pytest.approx(30)


def test_what_others_count_is_as_if_it_came_later() -> None:
    rng = random.Random(3)
    first, second = ([rng.randrange(20) for _ in range(n)] for n in (90, 160))
    one, other = _testing.TokenCounts(20, 50), _testing.TokenCounts(20, 50)
    one.add(first)
    other.add(second)
    one.add_later(other)
    np.testing.assert_allclose(one.weights, decayed(first + second, 50, 20), rtol=1e-12)
    assert one.counted == 250


# --- The file ---


def test_the_prior_of_a_list_follows_zipf(pair: TinyPair, tokenizer: Tokenizer, tmp_path: Path) -> None:
    order = np.random.default_rng(2).permutation(VOCAB)
    ranks = _testing.AdaptiveRanks(tmp_path / "a.gguf", tokenizer, write_list(tmp_path / "list.gguf", pair, order))
    listed = [token for token in order.tolist() if token not in CONTROL]
    assert ranks.best(VOCAB - len(CONTROL)) == listed
    expected = np.zeros(VOCAB)
    expected[listed] = 1 / np.arange(1, len(listed) + 1)
    np.testing.assert_allclose(ranks.weights, expected * PRIOR_TOKENS / expected.sum(), rtol=1e-9)


def test_the_prior_of_counts_is_in_proportion(pair: TinyPair, tokenizer: Tokenizer, tmp_path: Path) -> None:
    counts = np.random.default_rng(2).integers(0, 10**12, VOCAB)
    listed = write_list(tmp_path / "list.gguf", pair, np.argsort(-counts, kind="stable"), counts)
    ranks = _testing.AdaptiveRanks(tmp_path / "a.gguf", tokenizer, listed)
    np.testing.assert_allclose(ranks.weights, counts * (PRIOR_TOKENS / counts.sum()), rtol=1e-9)
    nothing = write_list(tmp_path / "zero.gguf", pair, range(VOCAB), np.zeros(VOCAB))
    assert _testing.AdaptiveRanks(tmp_path / "b.gguf", tokenizer, nothing).best(3) == [2, 3, 4]


def test_a_saved_file(tokenizer: Tokenizer, prior: Path, tmp_path: Path) -> None:
    """It is a ranks file as all tools know it, and holds what was known."""
    ranks = _testing.AdaptiveRanks(tmp_path / "a.gguf", tokenizer, prior)
    ranks.add([7, 7, 7, 9] * 3000)
    assert ranks.unsaved == 12_000
    before = ranks.weights
    ranks.save()
    assert ranks.unsaved == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.gguf.lock", "a.gguf"]
    assert metadata(tmp_path / "a.gguf") == {
        "general.architecture": "frspec_ranks",
        "frspec.ranks.vocab_size": VOCAB,
        "frspec.ranks.vocab_fingerprint": tokenizer.fingerprint,
        "frspec.ranks.tokens_counted": 12_000,
        "frspec.ranks.source": "generated texts",
        "frspec.ranks.half_life": HALF_LIFE,
        "frspec.ranks.count_unit": 2**32,
    }
    assert types(tmp_path / "a.gguf") == {"token_ranks": "I32", "token_counts": "I64"}
    found = tensors(tmp_path / "a.gguf")
    np.testing.assert_allclose(found["token_counts"] / 2**32, before, atol=2**-32)
    rest = [token for token in ranks.best(VOCAB) if token not in CONTROL]
    assert found["token_ranks"].tolist() == CONTROL + rest
    assert rest[:2] == [7, 9]
    assert read_ranks(tmp_path / "a.gguf").tokens.tolist() == CONTROL + rest
    again = _testing.AdaptiveRanks(tmp_path / "a.gguf", tokenizer)  # without a prior: it is in the file
    np.testing.assert_allclose(again.weights, ranks.weights, atol=2**-32)
    assert again.counted == 12_000
    again.save()  # nothing new: nothing is written
    assert metadata(tmp_path / "a.gguf")["frspec.ranks.tokens_counted"] == 12_000


def test_savers_merge_what_others_have_counted(tokenizer: Tokenizer, prior: Path, tmp_path: Path) -> None:
    one, other = (_testing.AdaptiveRanks(tmp_path / "a.gguf", tokenizer, prior) for _ in range(2))
    start = one.weights
    one.add([5] * 1000)
    other.add([6] * 3000)
    one.save()
    other.save()
    assert other.counted == 4000
    expected = start * 0.5 ** (4000 / HALF_LIFE) + decayed([5] * 1000 + [6] * 3000, HALF_LIFE)
    np.testing.assert_allclose(other.weights, expected, rtol=1e-6, atol=1e-8)
    one.add([8])  # and it hears of the other's with its next save
    one.save()
    assert one.counted == 4001
    assert one.weights[6] == pytest.approx(other.weights[6], rel=1e-4)


SAVER = """
import sys
from frspec_cpp import Tokenizer, _testing
path, target, token, rounds, each = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
ranks = _testing.AdaptiveRanks(path, Tokenizer(target))
print("ready", flush=True)
for _ in range(rounds):
    ranks.add([token] * each)
    ranks.save(600)
"""


def start_saver(path: Path, pair: TinyPair, token: int, rounds: int, each: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", SAVER, str(path), str(pair.target_gguf), str(token), str(rounds), str(each)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def make_saved(path: Path, tokenizer: Tokenizer, prior: Path, half_life: int = HALF_LIFE) -> None:
    """A file that holds the prior and one token, with a half-life of its own."""
    ranks = _testing.AdaptiveRanks(path, tokenizer, prior)
    ranks.add([2])
    ranks.save()
    edited = GgufEditor(path)
    edited.set("frspec.ranks.half_life", half_life)
    edited.write(path)


def test_processes_that_save_at_once_lose_nothing(
    pair: TinyPair, tokenizer: Tokenizer, prior: Path, tmp_path: Path
) -> None:
    path = tmp_path / "shared.gguf"
    make_saved(path, tokenizer, prior, half_life=10**9)  # nearly none decays: the counts can be told
    before = _testing.AdaptiveRanks(path, tokenizer).weights
    savers = [start_saver(path, pair, 10 + i, 25, 10 * (i + 1)) for i in range(4)]
    assert [process.wait(TIMEOUT) for process in savers] == [0] * 4
    after = _testing.AdaptiveRanks(path, tokenizer)
    assert after.counted == 1 + 25 * 10 * (1 + 2 + 3 + 4)
    gained = after.weights - before
    assert gained[10:14] == pytest.approx([250, 500, 750, 1000], rel=1e-3)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".shared.gguf.lock", "shared.gguf"]


def test_a_process_that_is_killed_leaves_the_file_whole(
    pair: TinyPair, tokenizer: Tokenizer, prior: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.gguf"
    make_saved(path, tokenizer, prior)
    counted = 1
    for delay in (0.0, 0.01, 0.03, 0.05, 0.08):
        before = path.stat().st_ino
        process = start_saver(path, pair, 5, 10**6, 1)
        while path.stat().st_ino == before:  # another file takes its place whenever it is saved
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait(TIMEOUT)
        ranks = _testing.AdaptiveRanks(path, tokenizer)
        assert ranks.counted >= counted
        counted = ranks.counted
    assert counted > 1
    # Its lock went with it, and what it may have left is replaced.
    (tmp_path / ".a.gguf.part").write_bytes(b"half a file")
    ranks.add([6])
    ranks.save(0)
    assert _testing.AdaptiveRanks(path, tokenizer).counted == counted + 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".a.gguf.lock", "a.gguf"]


def test_a_lock_that_is_held_for_long(tokenizer: Tokenizer, prior: Path, tmp_path: Path) -> None:
    import fcntl

    ranks = _testing.AdaptiveRanks(tmp_path / "a.gguf", tokenizer, prior)
    ranks.add([5, 6])
    with (tmp_path / ".a.gguf.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RuntimeError, match=r"a\.gguf: is being written by another process"):
            ranks.save(0.05)
        assert ranks.unsaved == 2
        assert not (tmp_path / "a.gguf").exists()
    ranks.save(0)
    assert ranks.counted == 2


def test_a_file_that_has_gone_is_written_anew(tokenizer: Tokenizer, prior: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    make_saved(path, tokenizer, prior)
    ranks = _testing.AdaptiveRanks(path, tokenizer)
    ranks.add([5] * 50)
    path.unlink()
    ranks.save()
    assert _testing.AdaptiveRanks(path, tokenizer).counted == 51


def test_a_link_is_followed(tokenizer: Tokenizer, prior: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    make_saved(tmp_path / "real" / "a.gguf", tokenizer, prior)
    (tmp_path / "link.gguf").symlink_to(tmp_path / "real" / "a.gguf")
    ranks = _testing.AdaptiveRanks(tmp_path / "link.gguf", tokenizer)
    ranks.add([5] * 9)
    ranks.save()
    assert (tmp_path / "link.gguf").is_symlink()
    assert _testing.AdaptiveRanks(tmp_path / "real" / "a.gguf", tokenizer).counted == 10


# --- Files that are refused ---


def set_key(name: str, value: Any) -> Any:
    return lambda file: file.set(name, value)


DAMAGES: dict[str, tuple[Any, str]] = {
    "another vocabulary": (
        set_key("frspec.ranks.vocab_fingerprint", "0123456789abcdef"),
        "'frspec.ranks.vocab_fingerprint': found 0123456789abcdef",
    ),
    "another size": (set_key("frspec.ranks.vocab_size", 401), "'frspec.ranks.vocab_size': found 401"),
    "no ranks": (lambda file: file.tensors.pop("token_ranks"), "'token_ranks' is missing"),
    "no counts": (lambda file: file.tensors.pop("token_counts"), "'token_counts' is missing"),
    "few counts": (
        lambda file: file.set_ints("token_counts", np.zeros(399), _i64()),
        "'token_counts': found type I64 of 1 dimensions and 399 columns, expected I64 of 1 and 400",
    ),
    "negative": (
        lambda file: file.set_ints("token_counts", [5] * 399 + [-1], _i64()),
        "'token_counts', entry 399: found -1, expected 0 or more",
    ),
    "no unit": (set_key("frspec.ranks.count_unit", 0), "'frspec.ranks.count_unit': found 0"),
    "half-life": (set_key("frspec.ranks.half_life", 0), "'frspec.ranks.half_life': found 0 tokens"),
    "long half-life": (set_key("frspec.ranks.half_life", 10**9 + 1), "expected 1 to 1000000000"),
    "clock": (set_key("frspec.ranks.tokens_counted", -1), "'frspec.ranks.tokens_counted': found -1"),
    "a corpus's": (
        lambda file: file.entries.pop("frspec.ranks.half_life"),
        "not made by adapting, and are not replaced",
    ),
}


def _i64() -> Any:
    import gguf

    return gguf.GGMLQuantizationType.I64


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_does_not_fit(tokenizer: Tokenizer, prior: Path, tmp_path: Path, damage: str) -> None:
    """It is refused when it is opened; where that comes later, when it is saved; and is never replaced."""
    change, message = DAMAGES[damage]
    make_saved(tmp_path / "a.gguf", tokenizer, prior)
    open_before = _testing.AdaptiveRanks(tmp_path / "a.gguf", tokenizer)
    open_before.add([5])
    edited = GgufEditor(tmp_path / "a.gguf")
    whole = (tmp_path / "a.gguf").read_bytes()
    change(edited)
    edited.write(tmp_path / "a.gguf")
    damaged = (tmp_path / "a.gguf").read_bytes()
    for attempt in (lambda: _testing.AdaptiveRanks(tmp_path / "a.gguf", tokenizer, prior), open_before.save):
        with pytest.raises(ValueError, match=r"a\.gguf: ") as caught:
            attempt()
        assert message in str(caught.value)
        assert (tmp_path / "a.gguf").read_bytes() == damaged
    (tmp_path / "a.gguf").write_bytes(whole)
    open_before.save()  # nothing was lost
    assert open_before.counted == 2


@pytest.mark.parametrize("content", [b"", b"no GGUF file at all", None], ids=["empty", "other", "cut"])
def test_a_damaged_file(tokenizer: Tokenizer, prior: Path, tmp_path: Path, content: bytes | None) -> None:
    make_saved(tmp_path / "a.gguf", tokenizer, prior)
    ranks = _testing.AdaptiveRanks(tmp_path / "a.gguf", tokenizer)
    ranks.add([5])
    damaged = (tmp_path / "a.gguf").read_bytes()[:-2000] if content is None else content
    (tmp_path / "a.gguf").unlink()  # not in place: another process might have it open
    (tmp_path / "a.gguf").write_bytes(damaged)
    for attempt in (lambda: _testing.AdaptiveRanks(tmp_path / "a.gguf", tokenizer, prior), ranks.save):
        with pytest.raises(ValueError, match=r"a\.gguf: "):
            attempt()
    assert (tmp_path / "a.gguf").read_bytes() == damaged
    assert ranks.unsaved == 1


def test_a_place_where_it_cannot_be(tokenizer: Tokenizer, prior: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"a\.gguf: found no folder .*absent to keep it in"):
        _testing.AdaptiveRanks(tmp_path / "absent" / "a.gguf", tokenizer, prior)
    with pytest.raises(ValueError, match="is a directory, expected the name of a ranks file"):
        _testing.AdaptiveRanks(tmp_path, tokenizer, prior)
    ranks = _testing.AdaptiveRanks(tmp_path / "a.gguf", tokenizer, prior)
    ranks.add([5])
    assert not list(tmp_path.iterdir()), "nothing is made before there is something to save"
    moved = tmp_path.with_name(tmp_path.name + "-moved")
    tmp_path.rename(moved)
    with pytest.raises(FileNotFoundError, match=r"a\.gguf: its lock, \.a\.gguf\.lock beside it, cannot be opened"):
        ranks.save()
    moved.rename(tmp_path)
    ranks.save()


def in_child_without_rights(attempt: Any) -> str:
    """What an error says that `attempt` raises in a process that is not root's."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            attempt()
            os.write(writer, b"no error")
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as pipe:
        return pipe.read()


def test_a_folder_that_may_not_be_written_to(tokenizer: Tokenizer, prior: Path, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    make_saved(folder / "a.gguf", tokenizer, prior)
    ranks = _testing.AdaptiveRanks(folder / "a.gguf", tokenizer)
    ranks.add([5])
    before = (folder / "a.gguf").read_bytes()
    (folder / ".a.gguf.lock").chmod(0o666)
    (folder / "a.gguf").chmod(0o644)
    folder.chmod(0o555)
    for parent in [tmp_path, *tmp_path.parents][:4]:
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    denied = os.strerror(errno.EACCES)
    try:
        opened = in_child_without_rights(lambda: _testing.AdaptiveRanks(folder / "a.gguf", tokenizer))
        assert opened.startswith("ValueError: ")
        assert opened.endswith(f"a.gguf: its folder cannot be written to: {denied}")
        saved = in_child_without_rights(lambda: ranks.add([6]) or ranks.save())
        assert saved.endswith(f"a.gguf: cannot be written, and is what it was: {denied}")
    finally:
        folder.chmod(0o755)
    assert (folder / "a.gguf").read_bytes() == before


# --- The rows of a head ---


def test_rows_move_towards_the_best(tokenizer: Tokenizer, prior: Path, tmp_path: Path) -> None:
    """The most valuable changes first, a bounded number at once; then there is nothing left to change."""
    ranks = _testing.AdaptiveRanks(tmp_path / "a.gguf", tokenizer, prior)
    kept = sorted(CONTROL + ranks.best(198))
    row_of_token = list(range(1000, 1000 + VOCAB))  # rows have numbers of their own
    row_of_token[399] = -1  # and some token has none
    rows = _testing.AdaptiveRows(ranks, [row_of_token[t] for t in kept if t != 399], row_of_token)
    held = dict(enumerate(t for t in kept if t != 399))
    assert rows.update() == []
    strangers = [t for t in range(2, 399) if t not in kept]
    ranks.add([token for i, token in enumerate(strangers) for _ in range(1000 + 5 * i)] + [399] * 9999)
    most = rows.most_replaced
    assert 0 < most < len(strangers) - most, "several rounds are needed"
    for _ in range(20):
        weights = ranks.weights
        inside = sorted((weights[t], t) for t in held.values() if t not in CONTROL)
        outside = sorted(((weights[t], t) for t in range(2, 399) if t not in held.values()), reverse=True)
        expected = sum(a[0] > b[0] for a, b in zip(outside[:most], inside[:most], strict=False))
        changes = rows.update()
        assert len(changes) == expected
        for (place, old_row, row), (gained, token), (lost, left) in zip(changes, outside, inside, strict=False):
            assert gained > lost
            assert (old_row, row) == (row_of_token[left], row_of_token[token])
            assert held[place] == left
            held[place] = token
        if not changes:
            break
    best = [t for t in ranks.best(VOCAB) if t not in CONTROL and t != 399][: len(held) - len(CONTROL)]
    assert set(held.values()) == {*CONTROL, *best}
    assert len(set(best) & set(strangers)) > most


def test_equal_tokens_do_not_change_places(pair: TinyPair, tokenizer: Tokenizer, tmp_path: Path) -> None:
    flat = write_list(tmp_path / "flat.gguf", pair, range(VOCAB), np.ones(VOCAB))
    ranks = _testing.AdaptiveRanks(tmp_path / "a.gguf", tokenizer, flat)
    rows = _testing.AdaptiveRows(ranks, list(range(100)), list(range(VOCAB)))
    assert rows.update() == []
    ranks.add([200])
    assert [row for _, _, row in rows.update()] == [200]
    assert rows.update() == []


def test_heads_of_several_sizes_share_rows(tokenizer: Tokenizer, prior: Path, tmp_path: Path) -> None:
    """The first places are the smaller heads: tokens rise into them by changing places with others."""
    ranks = _testing.AdaptiveRanks(tmp_path / "a.gguf", tokenizer, prior)
    order = CONTROL + ranks.best(VOCAB - len(CONTROL))
    sizes = [250, 40, 120]
    rows = _testing.AdaptiveRows(ranks, order, list(range(VOCAB)), sizes)
    held = order[:250]
    assert rows.update() == []
    rng = random.Random(5)
    ranks.add([rng.choice(order[30:330:7]) for _ in range(5000)])
    rounds = 0
    while changes := rows.update():
        rounds += 1
        assert len(changes) <= rows.most_replaced
        assert len({place for place, _, _ in changes}) == len(changes)
        for place, old_row, _ in changes:
            assert held[place] == old_row
        for place, _, row in changes:
            held[place] = row
        assert len(set(held)) == 250, "every token has one place"
    assert rounds > 1
    assert held[:2] == CONTROL
    best = [token for token in ranks.best(VOCAB) if token not in CONTROL]
    for size in sizes:
        assert set(held[2:size]) == set(best[: size - 2])
