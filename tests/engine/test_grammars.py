"""Texts that follow a grammar: always, and exactly those that plain sampling under its mask gives."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import numpy.typing as npt
import pytest
from frspec_cpp.tools.convert import convert
from tiny_pair import make_tiny_pair

from frspec_cpp import LLM, Grammar, Tokenizer, _core
from frspec_cpp.options import native

llguidance = pytest.importorskip("llguidance")

PROMPT = "Question: Who are you?\nAnswer: "
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "kind": {"enum": ["a cat", "a dog", "a long story"]}},
    "required": ["name", "kind"],
    "additionalProperties": False,
}
GBNF = 'root ::= ("yes, of course" | "no, never") ("! " [a-z]{2,9}){1,3} "."'
LARK = '%llguidance {}\nstart: /[a-z ]{5,15}/ "!" ("?" | "...")'
OPEN: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}


def random_schema(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """A schema whose texts are short, so that they end."""
    kind = rng.choice(["integer", "boolean", "enum", "string", "null", "any"] + ["object", "array"] * (2 - depth))
    if kind == "integer":
        least = rng.randrange(-50, 50)
        return {"type": "integer", "minimum": least, "maximum": least + rng.randrange(1, 2000)}
    if kind == "enum":
        return {"enum": rng.sample(["red", "green", 7, None, True, "a very long word", 2.5], 3)}
    if kind == "string":
        return {"type": "string", "maxLength": rng.randrange(1, 6)}
    if kind == "any":
        return {"anyOf": [random_schema(rng, 2), random_schema(rng, 2)]}
    if kind == "array":
        return {"type": "array", "items": random_schema(rng, depth + 1), "minItems": 1, "maxItems": rng.randrange(1, 4)}
    if kind == "object":
        names = rng.sample(["name", "age", "number of legs", "is_it_so", "colour"], rng.randrange(1, 4))
        return {
            "type": "object",
            "properties": {name: random_schema(rng, depth + 1) for name in names},
            "required": names[: rng.randrange(1, len(names) + 1)],
            "additionalProperties": False,
        }
    return {"type": kind}


@pytest.fixture(scope="module")
def llm(demo_target: Path, demo_drafters: dict[str, Path]) -> LLM:
    return LLM(demo_target, drafter=demo_drafters["eagle3"], head="full", tree="3,4,12", n_ctx=512)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_random_schemas(llm: LLM, temperature: float) -> None:
    rng = random.Random(int(temperature))
    ended = drafted_steps = forced = accepted = 0
    for seed in range(5):
        schema = {"type": "object", "properties": {"a": random_schema(rng)}, "required": ["a"]}
        schema["additionalProperties"] = False
        asked: dict[str, Any] = {"json_schema": schema, "temperature": temperature, "seed": seed}
        drafted = llm.generate(PROMPT, 100, draft=True, **asked)
        plain = llm.generate(PROMPT, 100, draft=False, **asked)
        assert (drafted.tokens, drafted.text) == (plain.tokens, plain.text), schema
        assert plain.stats.drafted_steps == plain.stats.forced_tokens == 0
        if drafted.finish_reason == "stop":
            jsonschema.validate(json.loads(drafted.text), schema)
            ended += 1
        drafted_steps += drafted.stats.drafted_steps
        forced += drafted.stats.forced_tokens
        accepted += sum(drafted.drafted)
    assert ended >= 4
    assert drafted_steps > 0
    assert accepted > forced > 0


def masking(tokenizer: Tokenizer, grammar: str, prompt: int) -> Any:
    """The grammar as a logits processor, from llguidance and the vocabulary alone."""

    class Vocabulary:
        def __init__(self) -> None:
            self.eos_token_id, self.bos_token_id = tokenizer.eos_id, tokenizer.bos_id
            self.special_token_ids = tokenizer.control_ids()
            self.tokens = [tokenizer.token_bytes(token) for token in range(tokenizer.size)]

        def __call__(self, text: bytes) -> list[int]:
            return list(tokenizer.encode(text.decode(), add_special=False))

    made = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Vocabulary()), eos_token=[tokenizer.eos_id])

    def process(text: npt.NDArray[np.int32], logits: npt.NDArray[np.float32]) -> None:
        matcher = llguidance.LLMatcher(made, grammar)
        assert matcher.consume_tokens(text[prompt:].tolist())
        allowed = np.frombuffer(matcher.compute_logit_bias(), np.uint8)
        logits[allowed[: len(logits)] == 0] = -np.inf

    return process


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("source", [GBNF, LARK], ids=["gbnf", "lark"])
def test_the_text_is_that_of_sampling_under_the_mask(llm: LLM, source: str, temperature: float) -> None:
    prompt = llm.tokenize(PROMPT)
    native = llguidance.grammar_from("gbnf" if source == GBNF else "lark", source)
    asked: dict[str, Any] = {"temperature": temperature, "seed": 9, **OPEN}
    processor = masking(llm.tokenizer, native, len(prompt))
    expected = llm.generate(prompt, 40, draft=False, logits_processor=processor, **asked)
    found = llm.generate(prompt, 40, draft=True, grammar=source, **asked)
    assert found.tokens == expected.tokens
    assert found.text == expected.text


def test_what_is_forbidden_is_not_verified(llm: LLM) -> None:
    """The drafts that the target did not take were allowed, all of them."""
    prompt = llm.tokenize(PROMPT)
    found = llm.generate(prompt, 60, draft=True, json_schema=SCHEMA, temperature=1.0, seed=2, trace=True)
    grammar = llm._grammars.text(Grammar.from_json_schema(SCHEMA))
    text, offered = found.tokens[:1], 0
    assert found.trace is not None
    for step in found.trace:
        accepted = text + step.tokens[: step.accepted]
        for token in step.offered:
            if token not in grammar._ends:
                assert grammar._matcher.validate_tokens([*accepted, token]) == len(accepted) + 1
                offered += 1
        text = text + step.tokens
    assert offered > 0


def test_a_forced_run_is_one_step(demo_target: Path) -> None:
    """Without a drafter the run is drafted by the grammar alone, as far as a tree goes; not where drafts are off."""
    llm = LLM(demo_target, n_ctx=256)
    literal = "The answer is the one that everybody knows."
    asked: dict[str, Any] = {"grammar": f'root ::= "{literal}"'}
    found = llm.generate(PROMPT, 60, **asked)
    assert found.text == literal
    assert found.finish_reason == "stop"
    # The first token comes from the prompt's pass, and the end of the text is not forced but all that is left.
    assert found.stats.forced_tokens == len(found.tokens) - 1
    assert found.stats.steps <= 2
    plain = llm.generate(PROMPT, 60, draft=False, **asked)
    assert plain.tokens == found.tokens
    assert plain.stats.steps == len(found.tokens)


@pytest.mark.parametrize("name", ["stories260K", "TinyStories-656K"])
def test_other_vocabularies(shared: Path, tmp_path: Path, name: str) -> None:
    """SentencePiece, whose texts begin with a space, and byte-level BPE: literal texts, forced tokens as they are."""
    convert(shared / "data/models" / name, tmp_path / "model.gguf", "f32", quiet=True)
    llm = LLM(tmp_path / "model.gguf")
    literals = ["Once upon a time", " two  spaces", "\u00fcber caf\u00e9"]
    if name == "TinyStories-656K":  # it has not all bytes: neither umlauts nor braces
        for impossible in ({"grammar": f'root ::= "{literals.pop()}"'}, {"json_schema": SCHEMA}):
            with pytest.raises(ValueError, match="grammar: after token 0 of the text: "):
                llm.generate("The dog said:", 60, **impossible)
    else:
        found = llm.generate("The dog said:", 200, json_schema=SCHEMA, temperature=1.0, seed=1)
        assert found.finish_reason == "stop"
        jsonschema.validate(json.loads(found.text), SCHEMA)
    for literal in literals:
        found = llm.generate("The dog said:", 60, grammar=f'root ::= "{literal}"')
        assert found.text.removeprefix(" ") == literal.removeprefix(" ")
        assert found.stats.forced_tokens > 0


def test_the_end_is_the_grammars(llm: LLM) -> None:
    """No end before min_tokens where there is a choice, but never a text that the grammar does not have."""
    assert llm.generate(PROMPT, 40, grammar='root ::= "yes"', min_tokens=30).text == "yes"
    some = "root ::= [a-z ]{1,200}"
    found = llm.generate(PROMPT, 60, grammar=some, min_tokens=25, temperature=1.0, seed=3)
    assert len(found.tokens) >= 25
    assert (
        found.tokens
        == llm.generate(PROMPT, 60, grammar=some, min_tokens=25, temperature=1.0, seed=3, draft=False).tokens
    )
    cut = llm.generate(PROMPT, 3, json_schema=SCHEMA)
    assert cut.finish_reason == "length"


def test_other_options_beside_it(llm: LLM) -> None:
    for more in (
        {"repeat_penalty": 1.3, "frequency_penalty": 0.2},
        {"logit_bias": {5: 3.0}, "typical_p": 0.8},
        {"logits_processor": lambda _, logits: logits * 0.5},
        {"logprobs": 3, "trace": True},
    ):
        asked: dict[str, Any] = {"json_schema": SCHEMA, "temperature": 1.0, "seed": 8, **more}
        drafted = llm.generate(PROMPT, 60, draft=True, **asked)
        assert drafted.tokens == llm.generate(PROMPT, 60, draft=False, **asked).tokens, more
        assert drafted.finish_reason == "stop"
        jsonschema.validate(json.loads(drafted.text), SCHEMA)


def test_lists_of_texts(llm: LLM) -> None:
    texts = llm.generate([PROMPT] * 3, 20, grammar=['root ::= "a"', None, Grammar.from_regex("b{3}")])
    assert [texts[0].text, texts[2].text] == ["a", "bbb"]
    assert texts[1].text == llm.generate(PROMPT, 20).text


@pytest.mark.parametrize("kind", ["drafted", "plain"])
def test_in_company(demo_target: Path, demo_drafters: dict[str, Path], kind: str) -> None:
    """Texts with a grammar and others share passes, and are what they are alone."""
    own: dict[str, Any] = {"drafter": demo_drafters["eagle3"], "head": "full", "tree": "3,4,12"}
    limits: dict[str, Any] = {"n_ctx": 512, "n_threads": 1, "n_batch": 80, **(own if kind == "drafted" else {})}
    together, single = LLM(demo_target, n_parallel=6, **limits), LLM(demo_target, **limits)
    long = " ".join(f"river {number}" for number in range(60))
    prompts = [PROMPT, PROMPT, long, "The snow", long + " carries", PROMPT]
    options: dict[str, Any] = {
        "grammar": [GBNF, None, LARK, None, GBNF, GBNF],
        "temperature": [0.0, 0.0, 0.9, 0.8, 0.7, 1.0],
        "repeat_penalty": [1.0, 1.2, 1.0, 1.0, 1.3, 1.0],
        "seed": list(range(6)),
    }
    found = together.generate(prompts, 40, draft="always", **options)
    for number, prompt in enumerate(prompts):
        own = {name: values[number] for name, values in options.items()}
        expected = single.generate(prompt, 40, draft=False, reuse=False, **own)
        assert (found[number].tokens, found[number].text) == (expected.tokens, expected.text)
        assert found[number].finish_reason == expected.finish_reason
    assert sum(text.stats.forced_tokens for text in found) > 0

    # The prompt is read in pieces, beside the text that is written.
    def begin(prompt: str, **more: Any) -> _core.Generation:
        known = native(together.vocab_size, ignore_eos="grammar" not in more, **more)
        if "grammar" in more:
            known["grammar"] = together._grammars.text(Grammar.from_string(more["grammar"]))
        return together._engine.begin(together.tokenize(prompt), max_tokens=40, **known)

    writes = begin("The snow")
    _core.Generation.step_together([writes])
    guided = begin("So it is. " + long, grammar=GBNF)
    given = [_core.Generation.step_together([writes, guided]) for _ in range(2)]
    assert all(fresh for fresh, _ in given)
    assert [fresh for _, fresh in given] == [[], []]


def test_a_grammar_that_fails_ends_its_text_alone(llm: LLM) -> None:
    class Broken:
        def __init__(self, after: int) -> None:
            self.left = after

        def advance(self, tokens: list[int]) -> None:
            self.left -= len(tokens)

        def forced(self, most: int) -> list[int]:
            return []

        def fill(self, tokens: list[int], parents: list[int], sets: npt.NDArray[np.uint32]) -> None:
            if self.left <= 0:
                raise ZeroDivisionError("mine")
            sets[:] = 0xFFFFFFFF

    known = native(llm.vocab_size, ignore_eos=True)
    for after in (0, 3):  # at its prompt, and later
        good = [llm._engine.begin(llm.tokenize(text), max_tokens=12, **known) for text in ("The snow", "A river")]
        bad = llm._engine.begin(llm.tokenize("The sea"), max_tokens=12, **{**known, "grammar": Broken(after)})
        found: list[list[int]] = [[], []]
        failed = False
        while any(text.finish_reason is None for text in good):
            one, broken, other = _core.Generation.step_together([good[0], bad, good[1]])
            failed = failed or broken is None
            for tokens, fresh in zip(found, (one, other), strict=True):
                tokens += [token for token, _, _ in fresh or ()]
        assert failed
        with pytest.raises(ZeroDivisionError, match="mine"):
            bad.raise_error()
        assert found == [llm.generate(text, 12, ignore_eos=True).tokens for text in ("The snow", "A river")]


@pytest.mark.every_device
def test_every_device(tmp_path: Path) -> None:
    """A vocabulary whose size no word divides, and padding that no grammar allows."""
    pair = make_tiny_pair(tmp_path, vocab=410)
    llm = LLM(pair.target_gguf, drafter=pair.drafter_gguf, head="full", tree="3,4,12", n_ctx=256)
    for grammar, temperature in ((GBNF, 0.0), (LARK, 0.9)):
        asked: dict[str, Any] = {"grammar": grammar, "temperature": temperature, "seed": 1, "min_tokens": 3}
        drafted = llm.generate([5, 6, 7], 60, draft=True, **asked)
        assert drafted.tokens == llm.generate([5, 6, 7], 60, draft=False, **asked).tokens
        assert drafted.finish_reason == "stop"
        matcher = llm._grammars.text(Grammar.from_string(grammar))._matcher
        assert matcher.consume_tokens(drafted.tokens)
        assert matcher.is_accepting()
    both = llm.generate(
        [[5, 6, 7], [8, 9], [5, 6]], 30, grammar=[GBNF, None, LARK], draft=True, temperature=0.9, seed=2
    )
    for prompt, grammar, text in zip(([5, 6, 7], [8, 9], [5, 6]), (GBNF, None, LARK), both, strict=True):
        assert text.tokens == llm.generate(prompt, 30, grammar=grammar, draft=False, temperature=0.9, seed=2).tokens


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"grammar": "root ::= x"}, ValueError, r"grammar: .*'x' not found"),
    ({"grammar": 'root ::= "a\n'}, ValueError, r"grammar: .*line \d"),
    ({"grammar": 'top ::= "a"'}, ValueError, "grammar: .*No 'root' rule"),
    ({"grammar": "%llguidance {}\nstart: x"}, ValueError, r'grammar: at 2\(8\): unknown name: "x"'),
    ({"grammar": Grammar.from_regex("(a")}, ValueError, "(?s)grammar: .*unclosed group"),
    ({"grammar": 3}, TypeError, "grammar: found int, expected str"),
    ({"json_schema": {"type": "banana"}}, ValueError, "json_schema: .*banana"),
    ({"json_schema": '{"type":'}, ValueError, "json_schema: "),
    ({"json_schema": {"type": {1, 2}}}, ValueError, "json_schema: found what is no JSON"),
    ({"json_schema": {"$ref": "#/nowhere"}}, ValueError, "json_schema: .*/nowhere"),
    ({"response_format": {"type": "json_schema"}}, ValueError, "response_format: found no schema"),
    ({"response_format": {"type": "xml"}}, ValueError, "response_format.type: found 'xml'"),
    ({"response_format": "json"}, TypeError, "response_format: found str"),
    ({"grammar": GBNF, "json_schema": {}}, ValueError, "grammar and json_schema: found 2 grammars"),
    ({"grammar": GBNF, "ignore_eos": True}, ValueError, "ignore_eos: found a grammar"),
    ({"grammar": GBNF, "verify": "rejection"}, ValueError, "verify: found rejection sampling and a grammar"),
]


@pytest.mark.parametrize(("options", "kind", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_refused(llm: LLM, options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        llm.generate(PROMPT, 8, **options)
    assert llm.generate(PROMPT, 2).tokens  # it goes on working


def test_files_and_no_grammar(llm: LLM, tmp_path: Path) -> None:
    (tmp_path / "yes.gbnf").write_text('root ::= "yes"')
    assert llm.generate(PROMPT, 20, grammar=Grammar.from_file(tmp_path / "yes.gbnf")).text == "yes"
    with pytest.raises(FileNotFoundError, match=r"no\.gbnf"):
        Grammar.from_file(tmp_path / "no.gbnf")
    expected = llm.generate(PROMPT, 20).tokens
    for none in ({"grammar": ""}, {"response_format": {"type": "text"}}, {"json_schema": None}):
        assert llm.generate(PROMPT, 20, **none).tokens == expected
