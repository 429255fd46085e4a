"""The parts of training from a GGUF file against independent computations: states, the loss, batches, the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint
from frspec_cpp.tools.convert import convert
from frspec_cpp.tools.train.curves import read_log
from frspec_cpp.tools.train.drafter_files import layer_sizes
from frspec_cpp.tools.train.frozen_target import FrozenTarget
from frspec_cpp.tools.train.gguf_target import GgufTarget
from frspec_cpp.tools.train.initial import start_from_target
from frspec_cpp.tools.train.known_best import _CHUNK, Labels, known_best_loss
from frspec_cpp.tools.train.networks import Eagle2, Eagle3, unroll
from frspec_cpp.tools.train.state_batches import StateBatches
from frspec_cpp.tools.train.states_file import Document, StateFormat, StatesFile, to_bfloat16
from frspec_cpp.tools.train.together import Dialogue, write_together

from frspec_cpp import _core

_CPU = torch.device("cpu")
_FORMAT = StateFormat("a-target", (1, 2), 6, 4)


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny model as a folder and as a GGUF file."""
    folder = make_checkpoint(tmp_path_factory.mktemp("states") / "model", request.param, num_hidden_layers=3)
    convert(folder, folder.with_suffix(".gguf"), "f32", quiet=True)
    return folder, folder.with_suffix(".gguf")


@pytest.mark.every_device
def test_states_are_those_of_a_pass_with_logits(model: tuple[Path, Path]) -> None:
    engine = _core.Engine(str(model[1]), taps=[0, 2, 3], n_batch=20)
    tokens = np.random.default_rng(1).integers(3, 400, 50).tolist()
    taps, best, log_probs = engine.forward_states(tokens, 7)
    assert all(np.array_equal(a, b) for a, b in zip(taps, engine.forward_taps(tokens), strict=True))
    logits = engine.forward(tokens).astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert best.shape == log_probs.shape == (50, 7)
    assert np.array_equal(best, np.argsort(-logits, axis=1, kind="stable")[:, :7])
    np.testing.assert_allclose(log_probs, np.take_along_axis(expected, best.astype(np.int64), 1), atol=2e-5)
    for first in (0, 19, 20, 21, 49, 50):  # passes have 20 rows
        again, later, later_log_probs = engine.forward_states(tokens, 7, first)
        assert all(np.array_equal(a, b) for a, b in zip(again, taps, strict=True))
        assert np.array_equal(later, best[first:])
        assert np.array_equal(later_log_probs, log_probs[first:])
    with pytest.raises(ValueError, match="found first 51, expected 0 to 50"):
        engine.forward_states(tokens, 7, 51)
    for wrong in (0, 65, -1):
        with pytest.raises(ValueError, match=f"found best {wrong}"):
            engine.forward_states(tokens, wrong)


def test_a_gguf_target_is_the_folder_that_it_was_made_of(model: tuple[Path, Path]) -> None:
    folder, file = model
    theirs, ours = FrozenTarget(folder, _CPU, torch.float32), GgufTarget(file, _CPU)
    assert (ours.vocabulary, ours.sizes.layers, ours.sizes.head_dim) == (400, 3, theirs.sizes.head_dim)
    assert (ours.sizes.context, ours.sizes.kv_heads) == (theirs.sizes.context, theirs.sizes.kv_heads)
    ids = np.array([5, 0, 399, 5])
    assert torch.equal(ours.embedding_rows(ids), theirs.embedding[ids])
    assert torch.equal(ours.head_rows(ids), theirs.head_rows(ids))
    assert torch.equal(ours.final_norm(), theirs.final_norm())
    for name, value in ours.layer(1).items():
        assert torch.equal(value, theirs.layer(1)[name]), name
    assert len(ours.layer(1)) == 9
    assert GgufTarget(file, _CPU, 17).sizes.feed_forward == 17


def test_a_narrower_drafter_keeps_the_largest_neurons(model: tuple[Path, Path]) -> None:
    target = GgufTarget(model[1], _CPU)
    network = Eagle3(layer_sizes(target, "eagle3", 10), (0, 1, 2))
    start_from_target(network, target, 0)
    source = target.layer(0)
    gate, down = source["mlp.gate_proj.weight"], source["mlp.down_proj.weight"]
    size = gate.norm(dim=1) * source["mlp.up_proj.weight"].norm(dim=1) * down.norm(dim=0)
    kept = [i for i in range(len(size)) if int((size > size[i]).sum()) < 10]
    assert torch.equal(network.midlayer.mlp.gate_proj.weight, gate[kept])
    assert torch.equal(network.midlayer.mlp.down_proj.weight, down[:, kept])


def some_texts(
    model: tuple[Path, Path], kind: str, texts: int, length: int
) -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A network, random tokens (texts, length) and states for them, and the embedding of the tokens."""
    target = GgufTarget(model[1], _CPU)
    torch.manual_seed(2)
    sizes = layer_sizes(target, kind)
    network = Eagle2(sizes) if kind == "eagle2" else Eagle3(sizes, (0, 1, 2))
    tokens = torch.randint(0, 400, (texts, length))
    width = sizes.hidden * (1 if kind == "eagle2" else 3)
    states = torch.randn(texts, length, width, requires_grad=True)
    return network, tokens, states, target.embedding_rows(np.arange(400))


@pytest.mark.parametrize("kind", ["eagle2", "eagle3"])
def test_chosen_rows_are_those_of_all(model: tuple[Path, Path], kind: str) -> None:
    network, tokens, states, table = some_texts(model, kind, 3, 40)
    chosen = torch.tensor([0, 7, 39, 41, 80, 119])
    results = []
    for rows in (None, chosen):
        steps = unroll(network, lambda ids: table[ids], tokens, states, states, 3, rows)
        picked = [step.to_head if rows is not None else step.to_head.flatten(0, 1)[chosen] for step in steps]
        gradient = torch.autograd.grad(sum(x.square().sum() for x in picked), states)[0]  # type: ignore[arg-type]
        results.append([*picked, gradient])
    for mine, theirs in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["eagle2", "eagle3"])
def test_gradients_of_a_frequent_token_are_whole_in_bfloat16(model: tuple[Path, Path], kind: str) -> None:
    """A sum of thousands in bfloat16 would end at some hundred."""
    network, tokens, states, table = some_texts(model, kind, 8, 256)
    tokens = torch.where(torch.rand(8, 256) < 0.9, 7, tokens)
    gradients = []
    for is_narrow in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=is_narrow):
            steps = unroll(network, lambda ids: table[ids], tokens, states, states, 2)
        loss = sum(step.to_head.float().sum() for step in steps)
        parameters = [p for p in network.parameters() if p.requires_grad and p.ndim == 2]
        gradients.append(torch.autograd.grad(loss, parameters, allow_unused=True))  # type: ignore[arg-type]
    for exact, narrow in zip(*gradients, strict=True):
        if exact is not None and narrow is not None:
            assert float(narrow.norm() / exact.norm()) == pytest.approx(1.0, abs=0.02)


def test_positions_that_later_steps_leave_out_change_nothing_for_others(model: tuple[Path, Path]) -> None:
    network, tokens, states, table = some_texts(model, "eagle3", 3, 40)
    chosen = torch.tensor([0, 7, 39, 41, 80, 119])
    wanted = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 1, 0, 1, 1, 0], [0, 1, 0, 0, 1, 0]], dtype=torch.bool)
    results = []
    for rows in (None, wanted):
        steps = unroll(network, lambda ids: table[ids], tokens, states, states, 3, chosen, rows)
        picked = [step.to_head if rows is not None else step.to_head[wanted[j]] for j, step in enumerate(steps)]
        gradient = torch.autograd.grad(sum(x.square().sum() for x in picked), states)[0]  # type: ignore[arg-type]
        results.append([*picked, gradient])
    assert [len(x) for x in results[1][:3]] == [6, 3, 2]
    for mine, theirs in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


class Known:
    """Students and the four best of what a teacher says over 60 tokens; more positions than one chunk.

    `rare`: so many tokens are never among them.
    """

    def __init__(self, rare: int = 0) -> None:
        torch.manual_seed(4)
        self.students = torch.randn(_CHUNK + 40, 8, requires_grad=True)
        self.head = torch.randn(60, 8, requires_grad=True)
        teacher = 2 * torch.randn(_CHUNK + 40, 60)
        teacher[:, 60 - rare :] -= 9
        teacher = teacher.softmax(-1)
        self.p, self.best = teacher.topk(4)
        self.weights = torch.rand(_CHUNK + 40)

    def by_pytorch(self, kept: list[int] | None) -> list[torch.Tensor]:
        """Loss of each position, and the gradients of students and head; `kept`: the rows that the head has."""
        logits = self.students @ (self.head if kept is None else self.head[kept]).T
        logs = logits.log_softmax(-1)
        if kept is None:
            known = logs.gather(1, self.best)
            rest = 1 - known.exp().sum(1)
            losses = -(self.p * known).sum(1) - (1 - self.p.sum(1)) * rest.log()
        else:
            place = torch.full((60,), -1).index_copy(0, torch.tensor(kept), torch.arange(len(kept)))
            column = place[self.best]
            inside = (column >= 0).float()
            losses = -(self.p * inside * logs.gather(1, column.clamp(min=0))).sum(1)
        return [losses, *torch.autograd.grad((losses * self.weights).sum(), (self.students, self.head))]


@pytest.mark.parametrize("kept", [None, [1, 2, 3, 5, 8, 13, 21, 34, 40, 41, 42, 50, 59]])
def test_the_loss_is_that_of_plain_pytorch(kept: list[int] | None) -> None:
    known = Known()
    head = known.head if kept is None else known.head[kept]
    place = torch.arange(60)
    if kept is not None:
        place = torch.full((60,), len(kept)).index_copy(0, torch.tensor(kept), torch.arange(len(kept)))
    labels = Labels(place[known.best], known.p, kept is not None)
    logs = torch.zeros(len(head))
    total, losses, agreed = known_best_loss(known.students, head, logs, labels, known.weights, torch.float32)
    expected = known.by_pytorch(kept)
    torch.testing.assert_close(losses, expected[0], rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(torch.autograd.grad(total, (known.students, known.head)), expected[1:], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)
    favourite = (known.students @ head.T).max(-1).indices
    rows = torch.arange(60) if kept is None else torch.tensor(kept)
    assert torch.equal(agreed, rows[favourite] == known.best[:, 0])


def test_a_sample_teaches_what_all_rows_teach() -> None:
    """Over many samples the gradient's mean is that of all rows, where those of weight are certain."""
    known = Known(rare=20)
    expected = known.by_pytorch(None)[1]
    certain = 40
    mean = torch.zeros_like(expected)
    order = torch.bincount(known.best.flatten(), minlength=60).argsort(descending=True)
    for seed in range(60):
        rest = order[certain:][torch.randperm(20, generator=torch.Generator().manual_seed(seed))[:10]]
        ids = torch.cat([order[:certain], rest])
        place = torch.full((60,), len(ids)).index_copy(0, ids[:certain], torch.arange(certain))
        logs = torch.zeros(len(ids))
        logs[certain:] = float(np.log(2.0))
        labels = Labels(place[known.best], known.p, False)
        total, *_ = known_best_loss(known.students, known.head[ids], logs, labels, known.weights, torch.float32)
        mean += torch.autograd.grad(total, known.students)[0] / 60
    cosine = torch.nn.functional.cosine_similarity(mean.flatten(), expected.flatten(), dim=0)
    assert float(cosine) > 0.98


def some_records(file: StatesFile, count: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    best, logs = random.integers(0, 9, (count, 4)), -random.random((count, 4))
    return file.records(random.integers(0, 9, count).tolist(), best, logs, random.normal(size=(count, 6)))


def test_states_are_found_again(tmp_path: Path) -> None:
    with StatesFile(tmp_path / "data", _FORMAT) as file:
        records = [some_records(file, n, n) for n in (5, 3, 8)]
        file.add("a", [(2, records[0]), (1, records[1])])
        file.add("b", [(4, records[2])])
    with StatesFile(tmp_path / "data", _FORMAT) as file:
        group = file.find("a")
        assert group is not None
        assert group.documents == (Document(0, 0, 5, 2), Document(0, 5, 3, 1))
        assert group.new_tokens == 5
        assert file.find("c") is None
        assert np.array_equal(file.read(group.documents[1]), records[1])
        assert file.bytes == 16 * _FORMAT.record.itemsize


@pytest.mark.parametrize("torn", [b"", b'{"key": "c", "docum'])
def test_what_an_interrupted_run_left_behind_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    with StatesFile(tmp_path, _FORMAT) as file:
        file.add("a", [(1, some_records(file, 5, 0))])
    for name, more in (("states-00000.bin", b"half a record"), ("documents.jsonl", torn)):
        with (tmp_path / name).open("ab") as stream:
            stream.write(more)
    with StatesFile(tmp_path, _FORMAT) as file:
        second = some_records(file, 4, 1)
        file.add("b", [(1, second)])
    with StatesFile(tmp_path, _FORMAT) as file:
        group = file.find("b")
        assert group is not None
        assert np.array_equal(file.read(group.documents[0]), second)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("name", ["states-00000.bin", "documents.jsonl"])
def test_a_full_disk_is_told_with_the_file(tmp_path: Path, name: str) -> None:
    with StatesFile(tmp_path, _FORMAT) as file:
        (tmp_path / name).symlink_to("/dev/full")
        with pytest.raises(OSError, match=f"No space left on device: '.*{name}'"):
            file.add("a", [(1, some_records(file, 5000, 0))])
        (tmp_path / name).unlink()
        file.add("a", [(1, some_records(file, 5, 0))])
    with StatesFile(tmp_path, _FORMAT) as file:
        assert file.find("a") is not None


def test_what_could_not_be_appended_whole_is_cut_off(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with StatesFile(tmp_path, _FORMAT) as file:
        first = some_records(file, 3, 1)
        file.add("a", [(1, first)])
        resource.setrlimit(resource.RLIMIT_FSIZE, (first.nbytes + first.nbytes // 2, hard))
        try:
            with pytest.raises(OSError, match=r"states-00000\.bin"):
                file.add("b", [(1, some_records(file, 3, 2))])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (tmp_path / "states-00000.bin").stat().st_size == first.nbytes
        third = some_records(file, 2, 3)
        group = file.add("c", [(1, third)])
        assert np.array_equal(file.read(group.documents[0]), third)


def test_a_log_with_torn_lines_is_read(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"ste{"step": 2}\n{"step": 3}\n{"st')
    assert read_log(tmp_path / "log.jsonl") == [{"step": 1}, {"step": 3}]


class Answer:
    """A text of one token."""

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self.cancelled = False

    def cancel(self) -> None:
        """As of a Generation."""
        self.cancelled = True


class Answers:
    """An engine."""

    def __init__(self) -> None:
        self.begun: list[Answer] = []

    def begin(self, prompt: list[int]) -> Answer:
        """A text."""
        self.begun.append(Answer())
        return self.begun[-1]


def test_a_dialogue_that_cannot_go_on_says_why_and_ends_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(dialogue: Dialogue) -> list[int] | None:
        if dialogue is asked[1] and dialogue.turns:
            raise ValueError("no second turn")
        return None if dialogue.turns else [1]

    def step(texts: list[Answer]) -> list[list[tuple[int, bool, str]]]:
        for text in texts:
            text.finish_reason = "stop"
        return [[(1, False, "")] for _ in texts]

    monkeypatch.setattr(_core.Generation, "step_together", step)
    asked = [Dialogue(ask, {}) for _ in range(3)]
    engine = Answers()
    with pytest.raises(ValueError, match="no second turn"):
        list(write_together(engine, asked, 3, lambda tokens, seconds: None))
    assert [answer.cancelled for answer in engine.begun] == [False, True, True]


def test_several_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frspec_cpp.tools.train.states_file._SHARD_BYTES", 6 * _FORMAT.record.itemsize)
    with StatesFile(tmp_path, _FORMAT) as file:
        records = [some_records(file, 4, n) for n in range(3)]
        groups = [file.add(str(n), [(1, one)]) for n, one in enumerate(records)]
    with StatesFile(tmp_path, _FORMAT) as file:
        file.add("more", [(1, some_records(file, 2, 9))])
        assert [group.documents[0].shard for group in groups] == [0, 1, 2]
        for group, one in zip(groups, records, strict=True):
            assert np.array_equal(file.read(group.documents[0]), one)


def test_folders_that_are_no_place_for_these_states(tmp_path: Path) -> None:
    with StatesFile(tmp_path, _FORMAT) as file:
        file.add("a", [(1, some_records(file, 5, 0))])
        with pytest.raises(ValueError, match="in use by another run"):
            StatesFile(tmp_path, _FORMAT)
        with pytest.raises(ValueError, match="not finite"):
            file.records([1], np.zeros((1, 4)), np.zeros((1, 4)), np.full((1, 6), np.inf))
    for wrong, message in (
        (StateFormat("another", (1, 2), 6, 4), "another target: found target 'a-target', expected 'another'"),
        (StateFormat("a-target", (0, 2), 6, 4), r"found layers \[1, 2\], expected \[0, 2\]"),
        (StateFormat("a-target", (1, 2), 6, 5), "found best 4, expected 5"),
    ):
        with pytest.raises(ValueError, match=message):
            StatesFile(tmp_path, wrong)
    (tmp_path / "states-00000.bin").write_bytes(b"x" * 30)
    with pytest.raises(ValueError, match=r"states-00000\.bin: found 30 bytes, expected 2"):
        StatesFile(tmp_path, _FORMAT)
    (tmp_path / "documents.jsonl").write_text('{"key": 1}\n')
    with pytest.raises(ValueError, match=r"documents\.jsonl: line 1"):
        StatesFile(tmp_path, _FORMAT)


def test_bfloat16_rounds_to_the_nearest() -> None:
    values = np.array([1.0, -3.14159, 1e38, 1.00390625, 1.01171875, 0.0], dtype=np.float32)
    expected = torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(to_bfloat16(values), expected)


def test_batches_hold_every_document_once_an_epoch(tmp_path: Path) -> None:
    with StatesFile(tmp_path, _FORMAT) as file:
        lengths = [3 + (7 * n) % 20 for n in range(50)]
        groups = [file.add(str(n), [(2, some_records(file, length, n))]) for n, length in enumerate(lengths)]
        documents = [group.documents[0] for group in groups]
        batches = StateBatches(file, documents, 64, 3, 1.0, 0.0, 0, _CPU)
        epochs = [[batches[step] for step in range(batches.per_epoch)]]
        second, counted = [], 0
        while counted < sum(lengths):
            second.append(batches[batches.per_epoch + len(second)])
            counted += second[-1].count
        epochs.append(second)
        for epoch in epochs:
            assert sum(batch.count for batch in epoch) == sum(lengths)
            assert all(batch.tokens.numel() <= 64 for batch in epoch)
        assert [b.tokens.tolist() for b in epochs[0]] != [b.tokens.tolist() for b in epochs[1]]
        assert torch.equal(batches[3].states, StateBatches(file, documents, 64, 3, 1.0, 0.0, 0, _CPU)[3].states)


def test_answers_are_learned_and_prompts_as_asked(tmp_path: Path) -> None:
    with StatesFile(tmp_path, _FORMAT) as file:
        records = some_records(file, 9, 0)
        document = file.add("a", [(4, records)]).documents[0]
        answers, all_of_it = (StateBatches(file, [document], 64, 3, 1.0, w, 0, _CPU)[0] for w in (0.0, 0.25))
    # From position 3 on, the last token of the prompt: it is the first state that anything is drafted behind.
    assert answers.chosen.tolist() == [3, 4, 5, 6, 7]
    assert answers.weights.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 1, 0, 0]]
    assert all_of_it.chosen.tolist() == list(range(8))
    assert all_of_it.weights[0].tolist() == [0.25, 0.25, 1, 1, 1, 1, 1, 1]
    assert all_of_it.weights[2].tolist() == [1, 1, 1, 1, 1, 1, 0, 0]
    assert torch.equal(answers.tokens[0], torch.from_numpy(records["token"].astype(np.int64)))
    exact = torch.from_numpy(records["states"].view(np.int16)).view(torch.bfloat16).float()
    assert torch.equal(answers.states[0], exact)
    assert json.loads((tmp_path / "states.json").read_text())["layers"] == [1, 2]


def test_later_steps_have_a_drawn_share_of_the_positions(tmp_path: Path) -> None:
    with StatesFile(tmp_path, _FORMAT) as file:
        documents = [file.add(str(n), [(1, some_records(file, 202, n))]).documents[0] for n in range(4)]
        batches = StateBatches(file, documents, 1000, 3, 0.5, 0.0, 0, _CPU)
        first, again, next_epoch = batches[0].weights > 0, batches[0].weights > 0, batches[1].weights > 0
        assert torch.equal(first, again)
        assert not torch.equal(first, next_epoch)
        assert first[0].all()
        assert not (first[1:] & ~first[:-1]).any()
        shares = first.float().mean(1).tolist()
        assert shares[1:] == pytest.approx([0.5, 0.25], abs=0.07)
        assert batches.first(10**6)[0].weights.mean() > 0.98  # of a validation all
