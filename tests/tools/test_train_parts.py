"""The parts of frspec-train against independent computations: unrolled attention, losses, factors, rows."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from checkpoints import make_checkpoint
from eagle2_reference import Drafter, Rows, load_target
from eagle3_steps import Eagle3Drafter
from frspec_cpp.tools.train.drafter_files import layer_sizes, read_network, write_network
from frspec_cpp.tools.train.evaluation import AgreementCounter, compare
from frspec_cpp.tools.train.frozen_target import FrozenTarget
from frspec_cpp.tools.train.layer import _QUERY_ROWS, Cache, _attend_diagonals, _FusedDiagonals
from frspec_cpp.tools.train.networks import Eagle2, Eagle3, unroll
from frspec_cpp.tools.train.objective import by_drafter, by_teacher, valid_steps
from frspec_cpp.tools.train.packing import TextTokenizer, pack
from frspec_cpp.tools.train.sampled_softmax import draw_sample, every_row, read_teacher, soft_cross_entropy
from frspec_cpp.tools.train.sketch import factorise
from frspec_cpp.tools.train.targets import default_taps

_STEPS = 4
_TAPS = (1, 3, 5)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> FrozenTarget:
    folder = make_checkpoint(tmp_path_factory.mktemp("parts") / "target", "llama", num_hidden_layers=6)
    return FrozenTarget(folder, torch.device("cpu"), torch.float32)


def disturb(network: Any) -> Any:
    """Norms and biases that show: as initialised they do nothing."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return network


def a_text(target: FrozenTarget, length: int) -> torch.Tensor:
    return torch.randint(0, target.vocabulary, (2, length), generator=torch.Generator().manual_seed(5))


def test_unrolled_eagle2_is_drafting_step_by_step(tmp_path: Path, target: FrozenTarget) -> None:
    network = disturb(Eagle2(layer_sizes(target, "eagle2")))
    write_network(tmp_path, network, target)
    reference = Drafter(tmp_path, load_target(target.folder))
    tokens = a_text(target, _QUERY_ROWS + 20)
    states = target.states(tokens).final
    with torch.no_grad():
        steps = unroll(network, target.embed, tokens, states, None, _STEPS)
        # Rows in the first and in the second block of queries.
        for text, row in ((0, 0), (1, 9), (0, _QUERY_ROWS - 1), (1, _QUERY_ROWS + 4)):
            rows = Rows()
            for i in range(row + 1):
                rows.append(int(tokens[text, i + 1]), states[text, i], i - 1)
            for step in range(_STEPS):
                out = reference._run(rows)[-1]
                torch.testing.assert_close(steps[step].to_head[text, row], out, rtol=1e-4, atol=1e-4)
                rows.append(int(tokens[text, row + 2 + step]), out, row + step)


@pytest.mark.parametrize("options", [{}, {"fc_norm": True, "norm_output": True}, {"norm_before_fc": True}])
def test_unrolled_eagle3_is_drafting_step_by_step(
    tmp_path: Path, target: FrozenTarget, options: dict[str, bool]
) -> None:
    network = disturb(Eagle3(layer_sizes(target, "eagle3"), _TAPS, **options))
    write_network(tmp_path, network, target)
    model = load_target(target.folder)
    reference = Eagle3Drafter(tmp_path, model)
    tokens = a_text(target, _QUERY_ROWS + 20)
    taken: dict[int, torch.Tensor] = {}
    hooks = [
        model.model.layers[i].register_forward_pre_hook(lambda _, inputs, i=i: taken.update({i: inputs[0]}))
        for i in _TAPS
    ]
    with torch.no_grad():
        model(tokens)
        taps = torch.cat([taken[i] for i in _TAPS], dim=-1)
        states = target.states(tokens, _TAPS)
        torch.testing.assert_close(states.taps, taps, rtol=1e-5, atol=1e-5)
        steps = unroll(network, target.embed, tokens, states.final, states.taps, _STEPS)
        for text, row in ((0, 0), (1, 9), (0, _QUERY_ROWS - 1), (1, _QUERY_ROWS + 4)):
            expected = reference.draft(tokens[text].tolist(), taps[text], row, _STEPS)
            for step, out in enumerate(expected):
                torch.testing.assert_close(steps[step].to_head[text, row], out, rtol=1e-4, atol=1e-4)
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("kind", ["eagle2", "eagle3"])
def test_what_is_written_is_read_again(tmp_path: Path, target: FrozenTarget, kind: str) -> None:
    sizes = layer_sizes(target, kind)
    network = disturb(
        Eagle2(sizes, fc_bias=True)
        if kind == "eagle2"
        else Eagle3(sizes, _TAPS, fc_norm=True, norm_output=True, draft_ids=(0, 1, 5, 399), vocabulary=400)
    )
    write_network(tmp_path, network, target)
    again = read_network(tmp_path, target)
    assert (again.kind, again.taps) == (network.kind, network.taps)
    if kind == "eagle3":
        assert (again.draft_ids, again.norm_output) == ((0, 1, 5, 399), True)
    for name, value in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def test_default_taps() -> None:
    assert [default_taps(n) for n in (32, 28, 7)] == [(2, 16, 29), (2, 14, 25), (2, 3, 4)]
    assert default_taps(6) == (1, 3, 5)  # 2, 3, 3 would read one state twice


def test_valid_steps_stay_in_a_document() -> None:
    starts = torch.zeros(3, 12, dtype=torch.bool)
    starts[0, [0, 5]] = True
    starts[1, [2, 3, 9, 10, 11]] = True
    found = valid_steps(starts, 3)
    for step, text, row in itertools.product(range(3), range(3), range(12)):
        read = row + 1 + step  # the token that the step reads; what is learned follows it
        inside = read < 12 and not any(starts[text, i] for i in range(row + 1, min(read + 2, 12)))
        assert bool(found[step, text, row]) == inside, (step, text, row)


def test_alignment_is_undone() -> None:
    x = torch.arange(24).view(2, 12)
    assert torch.equal(by_teacher(x, 2)[:, 2:], x[:, :-2])
    assert torch.equal(by_drafter(by_teacher(x, 2), 2)[:, :-2], x[:, :-2])


class Problem:
    """Two students that have learned something, and their teacher; some of the 500 tokens are rare."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        self.states = torch.randn(300, 16) + 1.0
        self.students = (self.states + 0.4 * torch.randn(2, 300, 16)).requires_grad_()
        self.teacher_head = 0.5 * torch.randn(500, 16) - torch.linspace(0, 0.3, 500)[:, None]
        self.head = (self.teacher_head + 0.05 * torch.randn(500, 16)).requires_grad_()
        self.weights = torch.rand(2, 300)
        self.weights[1, -20:] = 0.0

    def full(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The losses over all rows by plain PyTorch, and the gradients of students and head."""
        p = (self.states @ self.teacher_head.T).softmax(-1)
        losses = torch.stack(
            [
                (F.cross_entropy(student @ self.head.T, p, reduction="none") * weights).sum()
                for student, weights in zip(self.students, self.weights, strict=True)
            ]
        )
        return losses.detach(), *torch.autograd.grad(losses.sum(), (self.students, self.head))

    def sampled(self, sample: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The same over a sample, by the trainer."""
        teacher = read_teacher(self.states, self.teacher_head, torch.ones(300))
        total, losses, _ = soft_cross_entropy(
            self.students,
            self.head[sample.ids],
            sample.log_weights,
            self.states,
            self.teacher_head[sample.ids],
            teacher.log_z,
            self.weights,
            torch.float32,
        )
        torch.testing.assert_close(total, losses.sum())
        return losses.detach(), *torch.autograd.grad(total, (self.students, self.head))


def test_the_teacher_is_exact() -> None:
    problem = Problem()
    logits = problem.states @ problem.teacher_head.T
    counts = (torch.arange(300) % 3 == 0).float()
    teacher = read_teacher(problem.states, problem.teacher_head, counts)
    torch.testing.assert_close(teacher.log_z, logits.logsumexp(-1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(teacher.mass, logits.softmax(-1)[::3].sum(0), rtol=1e-4, atol=1e-5)
    halved = read_teacher(problem.states.bfloat16(), problem.teacher_head.bfloat16(), counts)
    torch.testing.assert_close(halved.log_z, logits.logsumexp(-1), rtol=0.0, atol=0.1)


def test_a_sample_of_all_rows_is_the_full_softmax() -> None:
    problem = Problem()
    for found, expected in zip(problem.sampled(every_row(500, torch.device("cpu"))), problem.full(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_sampled_losses_and_gradients_are_right_on_average() -> None:
    problem = Problem()
    mass = read_teacher(problem.states, problem.teacher_head, torch.ones(300)).mass
    generator = torch.Generator().manual_seed(7)
    samples = [draw_sample(mass, torch.tensor([499, 499, 3]), 200, generator) for _ in range(200)]

    def errors() -> list[float]:
        """Of the mean over all samples, relative to the full losses and gradients."""
        draws = [problem.sampled(sample) for sample in samples]
        means = [torch.stack(values).mean(0) for values in zip(*draws, strict=True)]
        return [float((m - e).norm() / e.norm()) for m, e in zip(means, problem.full(), strict=True)]

    # What is left is the bias of a logarithm of a mean, which falls with the size of the sample.
    corrected = errors()
    assert max(corrected) < 0.05
    for sample in samples:
        sample.log_weights.zero_()
    assert all(wrong > 2 * right for wrong, right in zip(errors(), corrected, strict=True))


def test_a_student_that_agrees_has_no_gradient_whatever_is_sampled() -> None:
    problem = Problem()
    problem.states, problem.teacher_head = problem.students.detach()[0], problem.head.detach()
    problem.weights[1] = 0.0
    mass = read_teacher(problem.states, problem.teacher_head, torch.ones(300)).mass
    sample = draw_sample(mass, torch.tensor([3]), 60, torch.Generator().manual_seed(1))
    _, students, head = problem.sampled(sample)
    assert float(students.abs().max()) < 1e-5
    assert float(head.abs().max()) < 1e-4


def test_samples_hold_labels_and_likely_rows_and_weigh_the_others() -> None:
    mass = torch.linspace(1, 0, 1000)
    labels = torch.tensor([990, 5, 990, 700])
    sample = draw_sample(mass, labels, 100, torch.Generator().manual_seed(2))
    assert len(sample.ids) == len(set(sample.ids.tolist())) == 100
    certain = set(sample.ids[sample.log_weights == 0].tolist())
    assert certain == {*range(73), 700, 990}
    torch.testing.assert_close(float(sample.log_weights.exp().sum()), 1000.0, rtol=1e-5, atol=0.0)
    # More labels than samples: all of them are kept.
    many = draw_sample(mass, torch.arange(0, 1000, 5), 100, torch.Generator().manual_seed(2))
    assert set(range(0, 1000, 5)) <= set(many.ids.tolist())
    torch.testing.assert_close(float(many.log_weights.exp().sum()), 1000.0, rtol=1e-5, atol=0.0)


def test_factors_are_the_best_of_their_rank() -> None:
    torch.manual_seed(4)
    head = torch.randn(300, 24)
    states = torch.randn(5000, 24) @ torch.randn(24, 24)
    moment = states.T @ states / len(states)
    down, vocab = factorise(head, moment, 6)
    assert (down.shape, vocab.shape) == ((6, 24), (300, 6))
    values, vectors = torch.linalg.eigh(moment)
    root = (vectors * values.sqrt()) @ vectors.T
    error = float(((head - vocab @ down) @ root).norm())
    best = float(torch.linalg.svdvals(head @ root)[6:].norm())  # Eckart and Young
    assert error == pytest.approx(best, rel=1e-3)
    plain = torch.linalg.svd(head, full_matrices=False)
    blind = (plain.U[:, :6] * plain.S[:6]) @ plain.Vh[:6]
    assert error < float(((head - blind) @ root).norm())


def test_agreement_counts_chains() -> None:
    counter = AgreementCounter(2)
    losses = torch.tensor([[[1.0, 2.0, 3.0, 9.0]], [[4.0, 5.0, 9.0, 9.0]]])
    agrees = torch.tensor([[[True, False, True, True]], [[True, True, True, True]]])
    valid = torch.tensor([[[True, True, True, False]], [[True, True, False, False]]])
    counter.add(losses, agrees, valid)
    found = counter.result()
    assert found.loss == [2.0, 4.5]
    assert found.acceptance == [pytest.approx(2 / 3), 1.0]
    assert found.accepted_length == 2.0  # two whole chains: one accepts both drafts, one none


@pytest.mark.parametrize("reduced", [False, True])
def test_comparison_with_the_target(reduced: bool) -> None:
    problem = Problem()
    ids = torch.arange(0, 500, 3) if reduced else None
    head = problem.head.detach() if ids is None else problem.head.detach()[ids]
    losses, agrees = compare(problem.students.detach(), head, ids, problem.states, problem.teacher_head)
    p = (problem.states @ problem.teacher_head.T).softmax(-1)
    for step, student in enumerate(problem.students.detach()):
        logs = (student @ head.T).log_softmax(-1)
        expected = -((p if ids is None else p[:, ids]) * logs).sum(-1)
        torch.testing.assert_close(losses[step], expected, rtol=1e-4, atol=1e-4)
        best = logs.argmax(-1)
        assert torch.equal(agrees[step], (best if ids is None else ids[best]) == p.argmax(-1))


def test_rows_hold_all_documents(tmp_path: Path, target: FrozenTarget) -> None:
    tokenizer = TextTokenizer(target.folder, 400)
    assert (tokenizer.bos, tokenizer.eos, tokenizer.control_ids) == (0, 1, [0, 1])
    generator = np.random.default_rng(0)
    documents = [[0, *generator.integers(2, 400, size).tolist(), 1] for size in generator.integers(1, 60, 250)]
    train, held_out = pack(tmp_path, iter(documents), 32, tokenizer, ["text"])

    assert len(held_out)
    for rows, wanted in (
        (train, [d for n, d in enumerate(documents, start=1) if n % 100]),
        (held_out, [d for n, d in enumerate(documents, start=1) if n % 100 == 0]),
    ):
        tokens, starts = rows.tokens(slice(0, len(rows))), rows.starts(slice(0, len(rows)))
        # 0 is BOS, before documents and before the rest of one that was cut, and what fills up the last row.
        assert tokens[tokens != 0].tolist() == [token for document in wanted for token in document[1:]]
        np.testing.assert_array_equal(starts, tokens == 0)
        assert starts[:, 0].all()
    # A second call reads what is there.
    again, _ = pack(tmp_path, iter([]), 32, tokenizer, ["text"])
    np.testing.assert_array_equal(again.tokens(slice(0, len(again))), train.tokens(slice(0, len(train))))


def test_fused_attention_is_that_of_single_products() -> None:
    torch.manual_seed(6)
    shape, steps = (2, _QUERY_ROWS + 9, 3, 8), 3  # (B, T, heads, head_dim)

    def some() -> torch.Tensor:
        return torch.randn(shape).transpose(1, 2).requires_grad_()

    q, keys, values = some(), [some() for _ in range(steps)], [some() for _ in range(steps)]
    weights = torch.randn(q.shape)
    plain = _attend_diagonals(q * shape[3] ** -0.5, Cache(keys, values))
    fused = _FusedDiagonals.apply(q, torch.stack(keys), torch.stack(values))
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-5)
    inputs = (q, *keys, *values)
    mine, theirs = (torch.autograd.grad((out * weights).sum(), inputs) for out in (fused, plain))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
