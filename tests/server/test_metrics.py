"""What the server tells of itself: metrics that Prometheus reads, places, and its page."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from frspec_cpp import LLM, AsyncLLM

pytest.importorskip("fastapi")

COMPLETIONS = "/v1/completions"
LINE = re.compile(r'(\w+)\{((?:\w+="(?:[^"\\]|\\.)*",?)*)\} (\S+)')


def read(text: str) -> dict[str, dict[str, float]]:
    """Values by name, then by the labels beside the model's name."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for line in text.splitlines():
        if not line.startswith("#"):
            match = LINE.fullmatch(line)
            assert match, line
            labels = [label for label in match[2].split(",") if not label.startswith("model_name=")]
            found[match[1]][",".join(labels)] = float(match[3])
    return found


def test_numbers(serving: Any) -> None:
    with serving(alias='a "b"\\') as served:
        answers = [served.post(COMPLETIONS, prompt="x y z", max_tokens=n, seed=n).json() for n in (1, 20, 30)]
        served.post(COMPLETIONS, prompt="x", n=0)
        while served.service.engine.running():  # for a moment behind the last answer
            time.sleep(0.001)
        answer = served.client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        found = read(answer.text)
    prompt = sum(answer["usage"]["prompt_tokens"] for answer in answers)
    written = sum(answer["usage"]["completion_tokens"] for answer in answers)
    assert found["frspec_prompt_tokens_total"][""] == prompt
    assert found["frspec_generation_tokens_total"][""] == written
    assert sum(found["frspec_request_success_total"].values()) == 3
    assert found["frspec_requests_rejected_total"] == {'code="400"': 1}
    accepted = sum(answer["timings"]["draft_n_accepted"] for answer in answers)
    assert found["frspec_spec_decode_num_accepted_tokens_total"][""] == accepted > 0
    assert sum(found["frspec_spec_decode_num_accepted_tokens_per_pos_total"].values()) == accepted
    offered = sum(answer["timings"]["draft_n"] for answer in answers)
    assert found["frspec_spec_decode_num_draft_tokens_total"][""] == offered >= accepted
    assert found["frspec_prefix_cache_queries_total"][""] == prompt
    cached = sum(answer["timings"]["cache_n"] for answer in answers)
    assert found["frspec_prefix_cache_hits_total"][""] == cached > 0
    assert found["frspec_kv_cache_usage_perc"][""] == 0  # nothing is written now
    assert found["frspec_pages_cached"][""] > 0
    drafted = sum(answer["timings"]["drafted_steps"] for answer in answers)
    assert found["frspec_spec_decode_num_drafts_total"][""] == drafted
    for name in ("e2e_request_latency_seconds", "request_queue_time_seconds", "time_to_first_token_seconds"):
        assert found[f"frspec_{name}_count"][""] == 3
        buckets = list(found[f"frspec_{name}_bucket"].values())
        assert buckets == sorted(buckets)
        assert buckets[-1] == 3
    assert found["frspec_request_generation_tokens_sum"][""] == written
    assert found["frspec_inter_token_latency_seconds_count"][""] == found["frspec_iteration_tokens_total_sum"][""]
    assert found["frspec_num_requests_running"][""] == found["frspec_num_requests_waiting"][""] == 0


#: Those that docs/serving.md lists.
GAUGES = {"num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "pages_cached"}
COUNTERS = {
    "prefix_cache_queries_total",
    "prefix_cache_hits_total",
    "num_preemptions_total",
    "prompt_tokens_total",
    "generation_tokens_total",
    "request_success_total",
    "requests_rejected_total",
    "spec_decode_num_drafts_total",
    "spec_decode_num_draft_tokens_total",
    "spec_decode_num_accepted_tokens_total",
    "spec_decode_num_accepted_tokens_per_pos_total",
}
HISTOGRAMS = {
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
    "request_prompt_tokens",
    "request_generation_tokens",
    "iteration_tokens_total",
    "step_seconds",
}


def test_every_metric_is_described_once(server: Any) -> None:
    told = server.client.get("/metrics").text
    found = re.findall(r"^# TYPE frspec_(\w+) (counter|gauge|histogram)$", told, re.MULTILINE)
    expected = {"gauge": GAUGES, "counter": COUNTERS, "histogram": HISTOGRAMS}
    assert sorted(found) == sorted((name, kind) for kind, names in expected.items() for name in names)
    docs = (Path(__file__).parents[2] / "docs/serving.md").read_text()
    assert [name for name, _ in found if not re.search(rf"`{name}[`{{]", docs)] == []


def test_texts_whose_client_left(serving: Any, llm: LLM) -> None:
    """What they cost counts as that of others does, so that the sums agree."""
    prompt = "x y z " * 20
    with serving() as served:
        body = {"prompt": prompt, "ignore_eos": True, "max_tokens": 400, "stream": True, "n": 4}
        with served.client.stream("POST", COMPLETIONS, json=body) as answer:
            for _ in zip(answer.iter_lines(), range(60), strict=False):  # drafts among them
                pass
        ends = time.monotonic() + 300
        while served.service.engine.running() or served.service.engine.waiting():
            assert time.monotonic() < ends
            time.sleep(0.01)
        found = read(served.client.get("/metrics").text)
    (accepted,) = found["frspec_spec_decode_num_accepted_tokens_total"].values()
    assert found["frspec_request_success_total"]['finished_reason="abort"'] > 0
    assert found["frspec_prompt_tokens_total"][""] >= len(llm.tokenize(prompt))
    assert found["frspec_prefix_cache_queries_total"] == found["frspec_prompt_tokens_total"]
    assert found["frspec_generation_tokens_total"][""] >= accepted > 0
    assert sum(found["frspec_spec_decode_num_accepted_tokens_per_pos_total"].values()) == accepted
    assert found["frspec_spec_decode_num_draft_tokens_total"][""] >= accepted
    assert found["frspec_spec_decode_num_drafts_total"][""] > 0


def test_large_numbers_keep_their_digits() -> None:
    """Else a rate, which is a difference, would be 0."""
    from frspec_cpp.server.metrics import Metrics

    metrics = Metrics()
    metrics.add("step_seconds", 1234567.25)
    told = metrics.text("m", {"pages_cached": 12345678}, {"num_preemptions_total": 87654321})
    found = read(told)
    assert found["frspec_step_seconds_sum"][""] == 1234567.25
    assert found["frspec_pages_cached"][""] == 12345678
    assert found["frspec_num_preemptions_total"][""] == 87654321


def test_places(serving: Any, llm: LLM) -> None:
    with serving() as served, ThreadPoolExecutor(2) as threads:
        (idle,) = served.client.get("/slots").json()
        assert idle == {"id": 0, "n_ctx": llm.n_ctx, "speculative": True, "is_processing": False, "n_waiting": 0}
        with llm._lock:
            asked = [threads.submit(served.post, COMPLETIONS, prompt="a secret", max_tokens=1) for _ in range(2)]
            while not (served.service.engine.running() and len(served.service.engine.waiting()) == 1):
                pass
            answer = served.client.get("/slots")
        assert answer.json()[0]["is_processing"] is True
        assert answer.json()[0]["n_waiting"] == 1
        assert answer.json()[0]["n_prompt_tokens"] == len(llm.tokenize("a secret"))
        assert answer.json()[0]["params"]["temperature"] == 0.8
        assert {"id_task", "pages", "cached_tokens", "accepted_length", "next_token"} <= set(answer.json()[0])
        assert "secret" not in answer.text
        assert [one.result().status_code for one in asked] == [200, 200]


def test_several_places(run_server: Any, chat_target: Path) -> None:
    """Texts that come together are written together, and each is what it is alone."""
    with LLM(chat_target, n_ctx=256, n_threads=1, n_parallel=3) as several:
        fields = [
            {"prompt": prompt, "max_tokens": 20, "seed": 4, "temperature": 0.8} for prompt in ("a", "b", "c", "d")
        ]
        alone = [several.generate(f["prompt"], 20, seed=4, temperature=0.8).text for f in fields]
        with run_server(AsyncLLM(several)) as served, ThreadPoolExecutor(4) as threads:
            with several._lock:
                asked = [threads.submit(served.post, COMPLETIONS, **one) for one in fields]
                engine = served.service.engine
                while len(engine.running()) + len(engine.waiting()) < 4:
                    pass
                slots = served.client.get("/slots").json()
            assert [place["id"] for place in slots] == [0, 1, 2]
            assert sum(place["is_processing"] for place in slots) >= 1
            found = [one.result().json()["choices"][0]["text"] for one in asked]
            assert found == alone
            assert served.client.get("/props").json()["total_slots"] == 3
            assert "frspec_num_preemptions_total{" in served.client.get("/metrics").text


def test_props(server: Any, llm: LLM) -> None:
    props = server.client.get("/props").json()
    assert props["default_generation_settings"]["n_ctx"] == llm.n_ctx
    assert props["total_slots"] == 1
    assert props["model_alias"] == "demo"
    assert props["chat_template"] == llm.tokenizer.chat_template
    assert props["bos_token"] == "<|begin_of_text|>"
    assert llm._path.rsplit("/", 1)[0] not in str(props)


def test_the_page(server: Any, serving: Any) -> None:
    """It needs nothing but its own server."""
    answer = server.client.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.search(r"https?://|//cdn|@import|<link[^>]+href=\"(?!data:)|src=", answer.text)
    assert 'innerHTML = "' in answer.text
    assert not re.search(r"innerHTML = (?!\"<summary>Thoughts</summary><pre></pre>\")", answer.text)
    with serving(page=False) as served:
        assert served.client.get("/").status_code == 404
