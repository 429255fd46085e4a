"""Which pages hold which tokens, against a dictionary of prefixes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from frspec_cpp import _testing

PAGE = 64


def common(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@dataclass
class Texts:
    """Texts one after the other, with what each slot of each page holds: the tokens that its keys were made from."""

    pages: int
    ahead: int
    slots: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)
    left: list[tuple[list[int], int, int, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cache = _testing.PageCache(self.pages, self.ahead)

    def content(self, text: list[int], slot: int) -> tuple[int, ...]:
        """What the keys of a slot were made from."""
        return tuple(text[: slot + 1 + self.ahead])

    def run(self, text: list[int], slots: int, drafted: int, salt: str = "", by_drafter: bool = False) -> int:
        """What was there already of a text, of which then the first ``slots`` slots are left."""
        most = len(text) - 1
        whole, partial, found = self.cache.match(text, most, salt, by_drafter)
        assert found <= most
        pages = list(whole)
        if partial >= 0:
            pages.append(self.cache.take())
            assert pages[-1] >= 0
            for i in range(found - PAGE * len(whole)):
                self.slots[pages[-1], i] = self.slots[partial, i]
            self.cache.release(partial)
        for slot in range(found):
            assert self.slots[pages[slot // PAGE], slot % PAGE] == self.content(text, slot)
        while len(pages) * PAGE < len(text):
            pages.append(self.cache.take())
            assert pages[-1] >= 0
        assert len(set(pages)) == len(pages)
        for slot in range(found, slots):
            self.slots[pages[slot // PAGE], slot % PAGE] = self.content(text, slot)
        self.cache.insert(text, pages, slots, drafted, salt)
        assert self.cache.free + sum(self.cache.holders(page) > 0 for page in range(self.pages)) == self.pages
        for page in reversed(pages):
            self.cache.release(page)
        assert self.cache.free + self.cache.kept == self.pages
        self.left.append((text, slots, drafted, salt))
        return int(found)

    def expected(self, text: list[int], salt: str = "", by_drafter: bool = False) -> int:
        """As ``run``, from a dictionary of everything that was left."""
        best = 0
        for other, slots, drafted, other_salt in self.left:
            if other_salt == salt:
                agrees = common(other, text) - self.ahead
                best = max(best, min(agrees, drafted if by_drafter else slots))
        return min(best, len(text) - 1)


def random_text(rng: np.random.Generator, texts: Texts) -> list[int]:
    """Something new, or a beginning of an earlier text and something new: often cut near a page's border."""
    new = [int(token) for token in rng.integers(0, 3, int(rng.integers(2, 150)))]
    if not texts.left or rng.random() < 0.2:
        return new
    text = texts.left[int(rng.integers(len(texts.left)))][0]
    cut = int(rng.integers(len(text) + 1))
    if rng.random() < 0.5:
        cut = min(len(text), max(0, round(cut / PAGE) * PAGE + int(rng.integers(-1, 3))))
    return (text[:cut] + new)[:400]


@pytest.mark.parametrize("ahead", [0, 1])
def test_finds_the_longest_beginning(ahead: int) -> None:
    rng = np.random.default_rng(ahead)
    texts = Texts(2500, ahead)
    for _ in range(300):
        text = random_text(rng, texts)
        salt = str(rng.choice(["", "", "other"]))
        expected = texts.expected(text, salt)
        slots = len(text) - int(rng.integers(1, 3)) if len(text) > 2 else 1
        assert texts.run(text, slots, slots, salt) == max(expected, 0)


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("pages", [9, 14, 40])
def test_few_pages(pages: int, ahead: int) -> None:
    """Pages are forgotten, and never one that a text has, or that another stands behind; what is found is right."""
    rng = np.random.default_rng(pages)
    texts = Texts(pages, ahead)
    found = 0
    for _ in range(400):
        text = random_text(rng, texts)
        found += texts.run(text, len(text) - 1, len(text) - 1)
    assert found > 0


def test_what_drafters_know() -> None:
    """A drafted text takes only what its drafter was told of; a plain one takes everything."""
    rng = np.random.default_rng(0)
    texts = Texts(2500, 1)
    for _ in range(300):
        text = random_text(rng, texts)
        by_drafter = bool(rng.random() < 0.7)
        slots = len(text) - 1
        drafted = slots if by_drafter else 0
        most = texts.expected(text, by_drafter=by_drafter)
        found = texts.run(text, slots, drafted, by_drafter=by_drafter)
        if by_drafter:
            assert most // PAGE * PAGE <= found <= most
        else:
            assert found == most


def test_the_last_used_stays() -> None:
    texts = Texts(6, 0)
    a, b, c = ([number] * 2 * PAGE + [9] for number in (1, 2, 3))
    assert [texts.run(text, 2 * PAGE, 2 * PAGE) for text in (a, b, a)] == [0, 0, 2 * PAGE]
    texts.run(c, 2 * PAGE, 2 * PAGE)  # takes three pages: those of b must go first
    assert texts.run(a, 2 * PAGE, 2 * PAGE) == 2 * PAGE


def test_salts_share_nothing() -> None:
    texts = Texts(20, 0)
    text = [1] * 200
    assert texts.run(text, 199, 199, salt="one") == 0
    assert texts.run(text, 199, 199, salt="two") == 0
    assert texts.run(text, 199, 199, salt="one") == 199
    assert texts.run(text, 199, 199) == 0


def test_pages_that_are_held_stay() -> None:
    cache = _testing.PageCache(2, 0)
    text = [1] * (PAGE + 1)
    pages = [cache.take(), cache.take()]
    cache.insert(text, pages, PAGE + 1)
    for page in pages:
        cache.release(page)
    held, partial, slots = cache.match(text, PAGE + 1)
    assert (held, partial, slots) == (pages[:1], pages[1], PAGE + 1)
    assert cache.take() == -1  # both are looked at
    cache.release(partial)
    assert cache.take() == partial
    cache.release(partial)
    with pytest.raises(RuntimeError, match=f"page {partial}: found it free"):
        cache.release(partial)
