"""What traced steps tell: where the time goes, how deep drafts are accepted, and why acceptance ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from frspec_cpp import Step

from .records import Method

# Why a step accepted no more, in the order of the tables.
OUTSIDE = "outside_subset"
OTHER = "another_preferred"
UNKNOWN = "subset_unknown"
TREE_ENDED = "tree_ended"
TEXT_ENDED = "text_ended"
UNDRAFTED = "no_drafts"

REASONS = {
    OUTSIDE: "outside the subset",
    OTHER: "another draft preferred",
    UNKNOWN: "no fixed subset",
    TREE_ENDED: "tree ended",
    TEXT_ENDED: "text ended",
    UNDRAFTED: "no drafts",
}


@dataclass(frozen=True)
class TimeSplit:
    """Milliseconds of a mean step.

    Attributes:
        transformer_ms: Drafting, without the head.
        head_ms: The draft head.
        verify_ms: The pass of the target and the verdict.
        other_ms: What is left.
        total_ms: All of it.
    """

    transformer_ms: float
    head_ms: float
    verify_ms: float
    other_ms: float
    total_ms: float


@dataclass(frozen=True)
class DepthRate:
    """Acceptance at one depth of the draft tree.

    Attributes:
        depth: From 1.
        tried: Steps whose path reached the depth above and had drafts below it.
        accepted: Those of them in which one of these drafts was the target's token.
    """

    depth: int
    tried: int
    accepted: int

    @property
    def rate(self) -> float:
        """The share that was accepted."""
        return self.accepted / self.tried


@dataclass(frozen=True)
class Traced:
    """Numbers from the steps of traced texts.

    Attributes:
        texts: How many.
        steps: Of all of them.
        accepted_plus_one: Mean over all steps of accepted drafts + 1, the target's own token: Spec-Bench's mean
            accepted tokens. The last step of a text counts whole, even where the text ended within it.
        split: Time of a mean step.
        depths: From depth 1 on, without gaps.
        lengths: For each number of accepted drafts, from 0 on, how many steps had drafts and accepted so many.
        misses: Reason (a key of REASONS) to steps.
    """

    texts: int
    steps: int
    accepted_plus_one: float
    split: TimeSplit
    depths: list[DepthRate]
    lengths: list[int]
    misses: dict[str, int]

    @property
    def drafted(self) -> int:
        """Steps that had drafts: what all shares of steps are shares of."""
        return sum(self.lengths)


def reason(step: Step) -> str:
    """Why the step accepted no more drafts: a key of REASONS.

    Drafts that the target refused are a refusal at the end of a text, too, whether it wanted to end the text or its
    token did not fit any more.
    """
    if step.nodes <= 1:
        return UNDRAFTED
    if not step.offered:
        return TEXT_ENDED if len(step.tokens) <= step.accepted else TREE_ENDED
    if step.in_subset is None:
        return UNKNOWN
    return OTHER if step.in_subset else OUTSIDE


def why_no_subset(method: Method | None) -> str:
    """Why nobody can tell whether the method could have offered a token: the end of a sentence."""
    if method is not None:
        if (method.head or "").startswith("speculated"):
            return "the head chooses its subset anew for every state"
        if method.settings.get("translate") in ("slem", "slrs"):
            return "the drafts are translated from another vocabulary"
        if method.drafter is None:
            return "the drafts are n-grams of the text, not from a head"
    return "the head chooses its subset anew for every state, or the drafts are n-grams or from another vocabulary"


def traced(texts: Sequence[Sequence[Step]]) -> Traced | None:
    """The numbers of all steps of `texts`; None where there is no step."""
    steps = [step for text in texts for step in text]
    if not steps:
        return None
    reasons = Counter(map(reason, steps))
    lengths = Counter(step.accepted for step in steps if step.nodes > 1)
    return Traced(
        texts=len(texts),
        steps=len(steps),
        accepted_plus_one=sum(step.accepted + 1 for step in steps) / len(steps),
        split=_split(steps),
        depths=_depths(steps),
        lengths=[lengths[length] for length in range(max(lengths, default=-1) + 1)],
        misses={name: reasons[name] for name in REASONS},
    )


def _split(steps: list[Step]) -> TimeSplit:
    def mean(seconds: list[float]) -> float:
        return 1e3 * sum(seconds) / len(steps)

    transformer = mean([step.transformer_seconds for step in steps])
    head = mean([step.head_seconds for step in steps])
    verify = mean([step.verify_seconds for step in steps])
    total = mean([step.total_seconds for step in steps])
    # Parts and whole are read from a clock at different moments: the rest may be a hair below nothing.
    return TimeSplit(transformer, head, verify, max(0.0, total - transformer - head - verify), total)


def _depths(steps: list[Step]) -> list[DepthRate]:
    rates = []
    for depth in range(1, max(step.accepted for step in steps) + 2):
        accepted = sum(step.accepted >= depth for step in steps)
        refused = sum(step.accepted == depth - 1 and bool(step.offered) for step in steps)
        if accepted + refused:
            rates.append(DepthRate(depth, accepted + refused, accepted))
    return rates
