"""From the records of an evaluation to the numbers of its report: pure functions, nothing is read or written.

Speed follows Spec-Bench: a question's tokens over its seconds, all turns together and prompts included; speedup is the
ratio of the means over questions. A question that was timed more than once counts once for each repeat. A prompt whose
text ends at once, without a token, has no speed: it is left out of all speeds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .records import Manifest, Method, Prompt, Run
from .steps import Traced, traced


@dataclass(frozen=True)
class Spread:
    """How values lie.

    Attributes:
        count: How many.
        mean: Their arithmetic mean.
        low: The smallest.
        lower_quartile: A quarter of them lies below (interpolated linearly).
        median: Half of them.
        upper_quartile: Three quarters of them.
        high: The greatest.
    """

    count: int
    mean: float
    low: float
    lower_quartile: float
    median: float
    upper_quartile: float
    high: float


@dataclass(frozen=True)
class StepTimes:
    """Milliseconds of a mean step of the timed texts.

    Attributes:
        total_ms: Time after the prompt, over steps.
        draft_ms: Drafting; None where the engine does not say.
        verify_ms: Passes of the target; None where the engine does not say.
    """

    total_ms: float
    draft_ms: float | None
    verify_ms: float | None


@dataclass(frozen=True)
class Agreement:
    """How far texts are those of plain decoding.

    Attributes:
        texts: Compared.
        equal: Those that are the same to the last token.
        tokens: Of plain decoding's texts, together.
        same_tokens: Those of them before the first difference.
    """

    texts: int
    equal: int
    tokens: int
    same_tokens: int


@dataclass(frozen=True)
class Numbers:
    """One method on some of the prompts. None: nothing was timed, or the engine does not say; never 0 instead.

    Attributes:
        questions: With a complete timed text of a token or more.
        samples: Complete timed texts of these questions, all turns of a question and repeat together.
        tokens_per_second: Prompts included, over samples.
        decode_tokens_per_second: Tokens after the first of each text, over the time after the prompt.
        speedup: Mean of tokens_per_second over plain's, on the samples that both have.
        decode_speedup: The same of decode_tokens_per_second.
        ratios: tokens_per_second over plain's on the same question in the same repeat.
        accepted_length: Tokens per step: those that the steps gave to the texts (accepted drafts and the target's own
            tokens; of a text's last step only what fitted, the token that ended it included) over steps. Of the timed
            texts; of the traced ones where there are none.
        steps: Of these texts.
        drafted_share: The share of these steps that had drafts.
        step_times: Of the timed texts.
        traced: From the steps of the traced texts.
        agreement: Of the traced texts with plain's.
    """

    questions: int
    samples: int
    tokens_per_second: Spread | None
    decode_tokens_per_second: Spread | None
    speedup: float | None
    decode_speedup: float | None
    ratios: Spread | None
    accepted_length: float | None
    steps: int | None
    drafted_share: float | None
    step_times: StepTimes | None
    traced: Traced | None
    agreement: Agreement | None


@dataclass(frozen=True)
class MethodSummary:
    """A method's numbers.

    Attributes:
        method: Which.
        overall: On all prompts.
        categories: On those of each category.
    """

    method: Method
    overall: Numbers
    categories: dict[str, Numbers]


@dataclass(frozen=True)
class Summary:
    """All numbers of an evaluation.

    Attributes:
        methods: In the order of the tables.
        prompts: That have, or will have, a text of every method.
        categories: Of these prompts, in their order.
        texts: Records there are.
        expected_texts: Records that a complete run has; None where the manifest does not say how many repeats.
        remarks: What could not be computed, and why: sentences for the reader.
    """

    methods: list[MethodSummary]
    prompts: int
    categories: list[str]
    texts: int
    expected_texts: int | None
    remarks: list[str]


def spread(values: Iterable[float]) -> Spread | None:
    """How `values` lie; None where there are none."""
    found = np.array(list(values), dtype=np.float64)
    if not found.size:
        return None
    low, lower, median, upper, high = (float(v) for v in np.quantile(found, [0.0, 0.25, 0.5, 0.75, 1.0]))
    return Spread(found.size, float(found.mean()), low, lower, median, upper, high)


def question(prompt: Prompt) -> int:
    """The question that the prompt is a turn of."""
    return prompt.question


def plain_method(methods: Sequence[Method]) -> Method | None:
    """The method that the others are compared with; None where it was not run."""
    return next((method for method in methods if method.kind == "plain" and method.exact), None)


def summarise(manifest: Manifest, runs: Sequence[Run]) -> Summary:
    """The numbers of `runs`; records of methods or prompts that the manifest does not name are left out."""
    names = {method.name for method in manifest.methods}
    asked = [prompt for prompt in manifest.prompts if prompt.name not in manifest.left_out]
    numbers = {prompt.index for prompt in asked}
    known = [run for run in runs if run.method in names and run.prompt in numbers]
    unique = list({(run.method, run.prompt, run.repeat): run for run in known}.values())  # the last of each counts
    by_method: dict[str, list[Run]] = defaultdict(list)
    for run in unique:
        by_method[run.method].append(run)
    plain = plain_method(manifest.methods)
    baseline = by_method[plain.name] if plain else []
    categories = list(dict.fromkeys(prompt.category for prompt in asked))
    parts = {name: [prompt for prompt in asked if prompt.category == name] for name in categories}
    methods = [
        MethodSummary(
            method,
            _numbers(asked, by_method[method.name], baseline),
            {name: _numbers(prompts, by_method[method.name], baseline) for name, prompts in parts.items()},
        )
        for method in manifest.methods
    ]
    repeats = manifest.settings.get("repeats")
    expected = len(names) * len(asked) * (repeats + 1) if isinstance(repeats, int) else None
    remarks = [*_remarks(methods, plain, len(unique), expected, by_method), *_ended_at_once(asked, by_method)]
    return Summary(methods, len(asked), categories, len(unique), expected, remarks)


def _ended_at_once(prompts: list[Prompt], by_method: dict[str, list[Run]]) -> list[str]:
    """Names the prompts that have no speed, by the methods that say so."""
    names = {prompt.index: prompt.name for prompt in prompts}
    methods: dict[int, list[str]] = defaultdict(list)
    for method, runs in by_method.items():
        for index in {run.prompt for run in runs if not run.generated}:
            methods[index].append(method)
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index in sorted(methods):
        groups[tuple(methods[index])].append(index)
    with_texts = sum(bool(runs) for runs in by_method.values())
    remarks = []
    for some, found in groups.items():
        whose = "" if len(some) == with_texts else f" of {', '.join(some)}"
        count = "1 prompt, whose text" if len(found) == 1 else f"{len(found)} prompts, whose texts"
        listed = ", ".join(names[index] for index in found)
        remarks.append(f"Left out of the speeds{whose}: {count} ended at once, without a token: {listed}.")
    return remarks


def _remarks(
    methods: list[MethodSummary],
    plain: Method | None,
    texts: int,
    expected: int | None,
    by_method: dict[str, list[Run]],
) -> list[str]:
    remarks = []
    if not texts:
        return ["There are no results yet."]
    if expected is not None and texts < expected:
        remarks.append(
            f"The run is not complete: {texts} of {expected} texts. Each speedup compares the questions that the "
            "method and plain decoding have both been timed on."
        )
    silent_texts = {name for name, runs in by_method.items() if any(run.repeat and not run.generated for run in runs)}
    untimed = [one.method.name for one in methods if not one.overall.samples and one.method.name not in silent_texts]
    if len(untimed) == len(methods):
        remarks.append(
            "There are no timed texts yet: speeds and speedups are absent, tokens per step those of the traced texts."
        )
    elif untimed:
        remarks.append(f"No question has been timed completely yet with: {', '.join(untimed)}.")
    if plain is None:
        remarks.append("Plain decoding was not among the methods: there are no speedups and no comparison of texts.")
    differing = [
        one.method.name
        for one in methods
        if one.method.exact and one.overall.agreement and one.overall.agreement.equal < one.overall.agreement.texts
    ]
    if differing:
        remarks.append(f"NOT LOSSLESS: texts differ from plain decoding's with: {', '.join(differing)}.")
    silent = [one.method.name for one in methods if one.overall.steps is None and one.overall.samples]
    if silent:
        remarks.append(f"These do not tell of their steps, so their tokens per step are absent: {', '.join(silent)}.")
    return remarks


def _numbers(prompts: list[Prompt], runs: list[Run], baseline: list[Run]) -> Numbers:
    members = {prompt.index for prompt in prompts}
    runs = [run for run in runs if run.prompt in members]
    baseline = [run for run in baseline if run.prompt in members]
    timed = [run for run in runs if run.repeat > 0]
    mine, plains = _samples(prompts, runs), _samples(prompts, baseline)
    whole, plain_whole = _rates(mine, _whole_rate), _rates(plains, _whole_rate)
    decoding, plain_decoding = _rates(mine, _decode_rate), _rates(plains, _decode_rate)
    told = [run for run in timed or runs if run.steps is not None and run.step_tokens is not None]
    steps = sum(run.steps or 0 for run in told)
    drafted = sum(run.drafted_steps or 0 for run in told)
    tells_drafts = all(run.drafted_steps is not None for run in told)
    return Numbers(
        questions=len({name for name, _ in mine}),
        samples=len(mine),
        tokens_per_second=spread(whole.values()),
        decode_tokens_per_second=spread(decoding.values()),
        speedup=_ratio_of_means(whole, plain_whole),
        decode_speedup=_ratio_of_means(decoding, plain_decoding),
        ratios=spread(rate / plain_whole[key] for key, rate in whole.items() if plain_whole.get(key)),
        accepted_length=sum(run.step_tokens or 0 for run in told) / steps if steps else None,
        steps=steps if told else None,
        drafted_share=drafted / steps if steps and tells_drafts else None,
        step_times=_step_times(timed),
        traced=traced([run.trace for run in runs if run.repeat == 0 and run.trace is not None]),
        agreement=_agreement(runs, baseline),
    )


_Key = tuple[int, int]  # question and repeat


def _samples(prompts: list[Prompt], runs: list[Run]) -> dict[_Key, list[Run]]:
    """The timed texts of every question and repeat whose turns are all there; those without a token left out."""
    names = {prompt.index: question(prompt) for prompt in prompts}
    turns: dict[int, int] = defaultdict(int)
    for name in names.values():
        turns[name] += 1
    found: dict[_Key, list[Run]] = defaultdict(list)
    for run in runs:
        if run.repeat > 0:
            found[names[run.prompt], run.repeat].append(run)
    complete = {key: some for key, some in found.items() if len(some) == turns[key[0]]}
    spoken = {key: [run for run in some if run.generated] for key, some in complete.items()}
    return {key: some for key, some in spoken.items() if some}


def _rates(samples: dict[_Key, list[Run]], rate: Callable[[list[Run]], float | None]) -> dict[_Key, float]:
    rates = {key: rate(runs) for key, runs in samples.items()}
    return {key: value for key, value in rates.items() if value is not None}


def _whole_rate(runs: list[Run]) -> float | None:
    """Tokens per second of a question, prompts included."""
    seconds = sum(run.total_seconds for run in runs)
    return sum(run.generated for run in runs) / seconds if seconds > 0 else None


def _decode_rate(runs: list[Run]) -> float | None:
    """Tokens per second after the prompts; the prompt's own pass gives the first token."""
    prefills = [run.prefill_seconds for run in runs if run.prefill_seconds is not None]
    if len(prefills) < len(runs):
        return None
    seconds = sum(run.total_seconds for run in runs) - sum(prefills)
    tokens = sum(run.step_tokens if run.step_tokens is not None else max(0, run.generated - 1) for run in runs)
    return tokens / seconds if tokens and seconds > 0 else None


def _ratio_of_means(rates: dict[_Key, float], plain: dict[_Key, float]) -> float | None:
    common = rates.keys() & plain.keys()
    below = sum(plain[key] for key in common)
    return sum(rates[key] for key in common) / below if below > 0 else None


def _step_times(timed: list[Run]) -> StepTimes | None:
    told = [run for run in timed if run.steps and run.prefill_seconds is not None]
    if not told:
        return None
    steps = sum(run.steps or 0 for run in told)

    def mean(seconds: list[float | None]) -> float | None:
        known = [value for value in seconds if value is not None]
        return 1e3 * sum(known) / steps if len(known) == len(seconds) else None

    total = mean([run.total_seconds - (run.prefill_seconds or 0.0) for run in told])
    assert total is not None
    return StepTimes(total, mean([run.draft_seconds for run in told]), mean([run.verify_seconds for run in told]))


def _agreement(runs: list[Run], baseline: list[Run]) -> Agreement | None:
    plain = {run.prompt: run.tokens for run in baseline if run.repeat == 0 and run.tokens is not None}
    pairs = [(run.tokens, plain[run.prompt]) for run in runs if run.tokens is not None and run.prompt in plain]
    if not pairs:
        return None
    same = 0
    for found, expected in pairs:
        differs = (i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b)
        same += next(differs, min(len(found), len(expected)))
    return Agreement(
        texts=len(pairs),
        equal=sum(found == expected for found, expected in pairs),
        tokens=sum(len(expected) for _, expected in pairs),
        same_tokens=same,
    )
