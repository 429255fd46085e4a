"""What texts leave in the cache: for whom, and what is told of it."""

from __future__ import annotations

from typing import Any

import pytest

COMPLETIONS = "/v1/completions"
WORDS = "The river runs down from the hills, past the mill and the old bridge, and"


def cached(answer: Any) -> int:
    """Tokens of the prompt that were not read; all places of an answer say the same."""
    found = answer.json()
    details: int = found["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert found["timings"]["cache_n"] == details
    assert found["timings"]["prompt_n"] + details == found["usage"]["prompt_tokens"]
    return details


def ask(served: Any, text: str, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    body = {"prompt": text, "max_tokens": 8, "seed": 5, "temperature": 0.7, **fields}
    answer = served.client.post(COMPLETIONS, json=body, headers=headers or {})
    assert answer.status_code == 200, answer.text
    return answer


def test_a_prompt_that_goes_on_is_read_from_there(server: Any) -> None:
    first = ask(server, f"one: {WORDS}", cache_salt="one")
    again = ask(server, f"one: {WORDS}", cache_salt="one")
    longer = ask(server, f"one: {WORDS} on and on", cache_salt="one")
    assert cached(first) == 0
    assert cached(again) > 8
    assert cached(longer) > 8
    assert again.json()["choices"][0]["text"] == first.json()["choices"][0]["text"]


def test_a_prompt_of_several_choices_counts_once(server: Any) -> None:
    for _ in range(2):
        answer = ask(server, f"several: {WORDS}", n=3, cache_salt="several")
    usage = answer.json()["usage"]
    assert 0 < usage["prompt_tokens_details"]["cached_tokens"] < usage["prompt_tokens"]


@pytest.mark.parametrize("fields", [{"cache_prompt": False}, {"cache_salt": "another"}])
def test_who_wants_nothing_of_others_gets_nothing(server: Any, fields: dict[str, Any]) -> None:
    salt = f"of {next(iter(fields))}"
    first = ask(server, WORDS, cache_salt=salt)
    other = ask(server, WORDS, **{"cache_salt": salt, **fields})
    assert cached(other) == 0
    assert other.json()["choices"][0]["text"] == first.json()["choices"][0]["text"]
    assert cached(ask(server, WORDS, cache_salt=salt)) > 8


def test_each_key_has_a_cache_of_its_own(serving: Any) -> None:
    with serving(keys=("a", "b")) as served:
        one, other = ({"authorization": f"Bearer {key}"} for key in "ab")
        ask(served, f"keys: {WORDS}", one)
        assert cached(ask(served, f"keys: {WORDS}", other)) == 0
        assert cached(ask(served, f"keys: {WORDS}", one)) > 8


def test_keys_that_trust_each_other(serving: Any) -> None:
    with serving(keys=("a", "b"), cache_scope="shared") as served:
        one, other = ({"authorization": f"Bearer {key}"} for key in "ab")
        ask(served, f"shared: {WORDS}", one)
        assert cached(ask(served, f"shared: {WORDS}", other)) > 8
        assert cached(ask(served, f"shared: {WORDS}", other, cache_salt="own")) == 0


@pytest.mark.parametrize("fields", [{"cache_salt": ""}, {"cache_salt": "x" * 129}, {"cache_prompt": "no"}])
def test_wrong_values(server: Any, fields: dict[str, Any]) -> None:
    answer = server.post(COMPLETIONS, prompt="x", max_tokens=1, **fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == next(iter(fields))
