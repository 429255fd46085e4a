"""What a request says of drafts, and what it is told of them: the text is the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from frspec_cpp import LLM, AsyncLLM, demo_paths

pytest.importorskip("fastapi")

COMPLETIONS = "/v1/completions"
PROMPT = "The river carries the snow of the mountains to the sea. The river"
ASKED: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 60, "seed": 3, "temperature": 0.6, "ignore_eos": True}


@pytest.fixture(scope="module", params=["auto", "fixed"])
def served(request: pytest.FixtureRequest, chat_target: Path, run_server: Any) -> Iterator[Any]:
    trees: dict[str, Any] = {"auto": {}, "fixed": {"tree": (4, 3, 16), "ngram": 4, "n_parallel": 1}}
    options = {"head": "full", "n_ctx": 512, "n_threads": 1, "n_batch": 64, **trees[request.param]}
    with LLM(chat_target, demo_paths()[1], **options) as llm, run_server(AsyncLLM(llm)) as found:
        yield found


def ask(served: Any, **fields: Any) -> dict[str, Any]:
    answer = served.post(COMPLETIONS, **{**ASKED, **fields})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_limits(served: Any) -> None:
    """No more than n_max, none where there are fewer than n_min, none that are less probable than p_min."""
    free = ask(served)
    text, timings = free["choices"][0]["text"], free["timings"]
    assert 0 < timings["draft_n_accepted"] <= timings["draft_n"]
    for most in (1, 2, 5):
        answer = ask(served, **{"speculative.n_max": most})
        assert answer["choices"][0]["text"] == text
        assert 0 < answer["timings"]["draft_n"] <= most * answer["timings"]["drafted_steps"]
    for none in ({"speculative.n_max": 0}, {"speculative.n_min": 65}, {"speculative.type": "none"}):
        answer = ask(served, **none)
        assert answer["choices"][0]["text"] == text
        assert answer["timings"]["draft_n"] == answer["timings"]["drafted_steps"] == 0


def test_probable_drafts_only(chat_target: Path) -> None:
    """In trees that grow as far as pays, which the clock says: their sizes cannot be compared."""
    options: dict[str, Any] = {"draft": "always", "temperature": 0.6, "seed": 3, "ignore_eos": True, "trace": True}
    with LLM(chat_target, demo_paths()[1], head="full", n_ctx=512, n_threads=1) as llm:
        found = {p: llm.generate(PROMPT, 60, draft_p_min=p, **options) for p in (0.0, 0.6, 1.0)}
    assert len({text.text for text in found.values()}) == 1
    assert found[0.0].stats.drafted_tokens > 0
    assert found[1.0].stats.drafted_tokens == 0
    # No two drafts for one place can be that probable.
    assert found[0.6].stats.drafted_tokens > 0
    assert all(len(step.offered) <= 1 for step in found[0.6].trace or [])


def test_a_prediction(run_server: Any, chat_target: Path) -> None:
    """What the answer is, said before, is drafted from its first token on; the wrong one changes nothing."""
    with LLM(chat_target, ngram=4, tree=(6, 1, 7), n_ctx=512, n_threads=1) as llm, run_server(AsyncLLM(llm)) as served:
        plain = ask(served)
        text = plain["choices"][0]["text"]
        assert "completion_tokens_details" not in plain["usage"]
        right = ask(served, prediction={"type": "content", "content": text})
        parts = [{"type": "text", "text": text[:50]}, {"type": "text", "text": text[50:]}]
        in_parts = ask(served, prediction={"type": "content", "content": parts})
        wrong = ask(served, prediction={"type": "content", "content": "x1 y2 z3 " * 20})
        assert {each["choices"][0]["text"] for each in (right, in_parts, wrong)} == {text}
        assert right["timings"]["draft_n_accepted"] > plain["timings"]["draft_n_accepted"]
        assert right["timings"]["steps"] < 20 < plain["timings"]["steps"]
        details = right["usage"]["completion_tokens_details"]
        assert details["accepted_prediction_tokens"] > 55
        missed = wrong["usage"]["completion_tokens_details"]
        assert missed["rejected_prediction_tokens"] > missed["accepted_prediction_tokens"]
        for form in ({"type": "x", "content": ""}, {"type": "content"}, {"type": "content", "content": [1]}):
            answer = served.post(COMPLETIONS, **ASKED, prediction=form)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prediction")
        body = json.dumps({**ASKED, "prediction": {"type": "content", "content": "\ud83d"}})
        answer = served.client.post(COMPLETIONS, content=body, headers={"content-type": "application/json"})
        assert answer.json()["error"]["param"] == "prediction"
        assert answer.json()["error"]["message"].startswith("prediction: found a lone surrogate")


def test_progress(served: Any) -> None:
    """A long prompt is told of while it is read."""
    body = {**ASKED, "prompt": " ".join(f"river {i}" for i in range(120)), "max_tokens": 2, "cache_salt": "progress"}
    for more in ({"return_progress": True}, {}):
        events = []
        with served.client.stream("POST", COMPLETIONS, json={**body, "stream": True, **more}) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    events.append(json.loads(line[6:]))
        told = [event["prompt_progress"] for event in events if "prompt_progress" in event]
        if not more:
            assert told == []
            continue
        assert len(told) > 2
        assert [each["processed"] for each in told] == sorted({each["processed"] for each in told})
        assert all(each["cache"] == 0 < each["processed"] < each["total"] for each in told)
        assert all(event["choices"][0]["text"] == "" for event in events if "prompt_progress" in event)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"draft_max": -2}, "draft_max: found -2"),
        ({"draft_min": -1}, "draft_min: found -1"),
        ({"draft_min": 2, "verify": "rejection"}, "draft_min: found 2 beside"),
        ({"draft_p_min": 1.5}, "draft_p_min: found 1.5"),
        ({"draft_p_min": float("nan")}, "draft_p_min: found"),
        ({"prediction": [10**6]}, "prediction: found token id 1000000"),
        ({"prediction": "\ud800"}, "lone surrogate"),
    ],
)
def test_wrong_options(llm: LLM, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        llm.generate("x", 2, **options)
