"""What goes where on a device with memory of its own: the plan, the context that fits, the head on the host."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qwen35 import make_qwen35, write_hybrid
from tiny_pair import TinyPair, make_tiny_pair

from frspec_cpp import LLM

DEVICE = "cuda-emulated"
MEMORY = "FRSPEC_CUDA_EMULATION_MEMORY"
CAPACITY = 64 << 30  # of the emulated device
RESERVED = 512 << 20  # of it
PROMPTS = [[5, 6, 7], list(range(3, 60))]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    return make_tiny_pair(tmp_path_factory.mktemp("pair"))


def make(pair: TinyPair, **options: Any) -> LLM:
    options = {"drafter": pair.drafter_gguf, "head": "full", "tree_size": 12, "device": DEVICE, **options}
    return LLM(pair.target_gguf, **options)


def plan_of(llm: LLM) -> dict[str, int]:
    plan = llm.memory_plan
    assert plan is not None
    return plan


def texts(llm: LLM, **options: Any) -> list[list[int]]:
    return [llm.generate(prompt, 10, ignore_eos=True, **options).tokens for prompt in PROMPTS]


def test_the_plan_is_what_is_taken(pair: TinyPair) -> None:
    first = make(pair, n_ctx=200)
    second = make(pair, n_ctx=100)  # sees what is left
    plan, after = plan_of(first), plan_of(second)
    taken = plan["free"] - after["free"]
    parts = ("target_weights", "drafter_weights", "head_rows", "caches", "working")
    assert plan["total"] == sum(plan[part] for part in parts)
    assert plan["context"] == 200
    # The rest is scratch memory, which grows with use.
    without_scratch = plan["total"] - plan["working"]
    assert without_scratch <= taken <= plan["total"]
    assert plan["caches"] == pytest.approx(2 * after["caches"], rel=0.02)
    assert plan["target_weights"] == after["target_weights"] > 0
    del second


def test_there_is_no_plan_on_the_cpu(pair: TinyPair) -> None:
    assert make(pair, device="cpu").memory_plan is None


def test_the_context_is_what_fits(pair: TinyPair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wide = plan_of(make(pair, n_batch=16))
    held = CAPACITY - wide["free"]  # by what other tests have not given back
    wanted = held + wide["total"] - RESERVED - wide["caches"] * 3 // 8
    monkeypatch.setenv(MEMORY, str(wanted * 32 // 31))  # a 32nd is reserved
    narrow = make(pair, n_batch=16)
    assert 0 < narrow.n_ctx < wide["context"]
    plan = plan_of(narrow)
    assert plan["total"] <= plan["free"]
    assert plan["context"] == narrow.n_ctx
    with pytest.raises(MemoryError) as caught:
        make(pair, n_batch=16, n_ctx=wide["context"])
    for part in (str(pair.target_gguf), DEVICE, "expected", "target", "caches", "are missing", "head_on_host"):
        assert part in str(caught.value)


def test_a_device_without_room(pair: TinyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MEMORY, "100000")
    with pytest.raises(MemoryError, match="a smaller model"):
        make(pair)


def test_every_text_has_its_recurrent_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_hybrid(tmp_path)
    one, four = (plan_of(LLM(path, device=DEVICE, n_ctx=200, n_parallel=count)) for count in (1, 4))
    layers, window, matrices = 2, 3 * (2 + 2 + 6) * 32, 6 * 32 * 32
    assert four["working"] - one["working"] >= 3 * 4 * layers * (window + matrices)
    monkeypatch.setenv(MEMORY, "100000")
    states = f"{4 * 4 * layers * (window + matrices) / 1024:.0f} KiB"  # of floats; of copies there is no room
    with pytest.raises(
        MemoryError, match=rf"of it {states} recurrent states of 4 texts; .* fewer texts at once \(n_parallel\)"
    ):
        LLM(path, device=DEVICE, n_parallel=4)


def test_every_node_of_a_tree_has_its_rows(tmp_path: Path) -> None:
    """Each delta layer keeps a node's inputs, keys, deltas and decays until a path is committed."""

    def room_of_64_nodes(delta_layers: int) -> int:
        kinds = ["linear_attention"] * delta_layers + ["full_attention"]
        made = make_qwen35(tmp_path / str(delta_layers), layers=len(kinds), kinds=kinds)
        flags = [True] * delta_layers + [False, False]  # of attention, and of the nextn block
        path = made.write(tmp_path / f"{delta_layers}.gguf", "trunk", "nextn", attention__recurrent_layers=flags)
        options = {"drafter": "mtp", "head": "full", "device": DEVICE, "n_ctx": 200, "n_parallel": 1}
        small, large = (plan_of(LLM(path, tree=(3, 4, size), **options)) for size in (24, 88))
        return large["working"] - small["working"]

    layers, key_dim, value_dim, value_heads = 2, 2 * 32, 6 * 32, 6
    node = 4 * ((2 * key_dim + value_dim) + key_dim + value_dim + value_heads)
    assert room_of_64_nodes(1 + layers) - room_of_64_nodes(1) == 64 * layers * node


def test_memory_that_ends_in_a_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some layers' states have read the rows then; and what is kept of large trees has lost its room."""
    path, text = write_hybrid(tmp_path), PROMPTS[1]
    tree = ([5] * 30, [-1, *range(29)])
    llm, fresh = (LLM(path, device=DEVICE, n_ctx=300) for _ in range(2))
    engine = llm._engine
    expected = fresh._engine.forward_tree(text[:9], *tree), fresh._engine.forward(text)
    engine.forward(text[:2])
    held = CAPACITY - plan_of(LLM(path, device=DEVICE, n_ctx=100))["free"]
    fails = 0
    for more in (0, 1 << 15, 1 << 16):  # scratch memory that a failed pass has got stays
        monkeypatch.setenv(MEMORY, str(held + more))
        for run in (lambda: engine.forward_tree(text[:9], *tree), lambda: engine.forward(text)):
            try:
                run()
            except MemoryError:
                fails += 1
    assert fails > 1
    monkeypatch.delenv(MEMORY)
    assert np.array_equal(engine.forward_tree(text[:9], *tree), expected[0])
    assert np.array_equal(engine.forward(text), expected[1])


def test_a_head_on_the_host_has_the_same_bits(pair: TinyPair) -> None:
    tokens = PROMPTS[1]
    here, there = (make(pair, head_on_host=on_host) for on_host in (True, False))
    assert np.array_equal(here.forward(tokens), there.forward(tokens))
    assert texts(here, draft=True) == texts(there, draft=False)
    assert plan_of(here)["target_weights"] < plan_of(there)["target_weights"]


def test_the_binary_tells_what_it_will_take(pair: TinyPair) -> None:
    command = ["frspec", "generate", "-m", pair.target_gguf, "-p", "a", "-n", "2", "--json", "--device", DEVICE]
    result = subprocess.run([*command, "--head-on-host"], capture_output=True, check=True, text=True)
    assert json.loads(result.stdout)["tokens"]
    line = result.stderr.splitlines()[0]
    for part in ("memory: target ", "caches ", "working memory ", " free"):
        assert part in line
