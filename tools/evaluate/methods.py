"""What ``--methods`` names, as rows of the tables and as arguments of the engine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import frspec_cpp

from .drafters import DrafterFile
from .records import Method

#: What each kind is, and what it needs.
KINDS = {
    "plain": "the target alone",
    "eagle2": "an EAGLE-2 drafter",
    "eagle3": "an EAGLE-3 drafter",
    "mtp": "an MTP drafter: a file of its own, or 'mtp', the block in the target's",
    "frspec": "an EAGLE or MTP drafter and a 'ranked:N' among --head",
    "specvocab": "an EAGLE or MTP drafter and a sketch of the head (in its file or --sketch)",
    "heads": "a drafter and --head; with another vocabulary 'full', 'ranked:N' or 'auto'",
    "model": "a language model with the target's vocabulary",
    "slem": "a language model with another vocabulary",
    "tli": "a language model with another vocabulary that has tokens of the target's",
    "slrs": "a language model with another vocabulary, of characters or bytes",
    "ngram": "the text itself",
    "auto": "a drafter",
}
_SPECULATED = "speculated"


@dataclass(frozen=True)
class Contender:
    """A method and how the engine is asked for it.

    Attributes:
        method: The row of the tables.
        options: Keyword arguments of `frspec_cpp.LLM`, beyond those that all methods share.
        draft: When it drafts: always, as long as it pays, or never.
    """

    method: Method
    options: dict[str, Any] = field(default_factory=dict)
    draft: Literal["auto"] | bool = True


@dataclass(frozen=True)
class Choice:
    """What methods are made of.

    Attributes:
        drafters: The given ones.
        heads: The given head policies; none: a quarter of the drafter's rows.
        ranks: A file of ranks of the target's tokens; None: those in the drafters' files, or the library's own.
        sketch: A sketch of the head; None: those in the drafters' files.
        ngram: Tokens that are looked for by ``ngram``.
        tree: ``tree_depth``, ``tree_branch``, ``tree_size``.
    """

    drafters: Sequence[DrafterFile]
    heads: Sequence[str]
    ranks: Path | None
    sketch: Path | None
    ngram: int
    tree: dict[str, int]


@dataclass(frozen=True)
class _Use:
    """A way to use a drafter: head, how it is translated, rows that a level reads."""

    head: str
    translate: str = "auto"
    rows: int | None = None


def make_contenders(kinds: Sequence[str] | None, choice: Choice) -> list[Contender]:
    """The contenders of all `kinds`, plain decoding first; None: of every kind that applies.

    Raises:
        ValueError: A kind is unknown, named twice or does not apply, or a head is used by none.
    """
    for kind in kinds or ():
        if kind not in KINDS:
            raise ValueError(f"--methods: found '{kind}', expected some of {', '.join(KINDS)}")
        if list(kinds or ()).count(kind) > 1:
            raise ValueError(f"--methods: found '{kind}' twice, expected each once")
    contenders = [Contender(Method("plain", "plain"), draft=False)]
    for kind in KINDS if kinds is None else kinds:
        if kind in ("plain", "heads" if kinds is None else ""):
            continue
        contenders += _of_kind(kind, choice, needed=kinds is not None)
    unused = [head for head in choice.heads if not any(c.method.head == head for c in contenders)]
    if unused and kinds is None and choice.drafters:
        contenders += _of_kind("heads", replace(choice, heads=unused), needed=True)
    elif unused:
        raise ValueError(f"--head {unused[0]}: none of the methods uses it; 'heads' uses every head that is given")
    return _with_unique_names(contenders)


def _of_kind(kind: str, choice: Choice, needed: bool) -> list[Contender]:
    """The contenders of one kind; none where it does not apply, or ValueError where it is `needed`."""
    if kind == "ngram":
        settings = {"ngram": choice.ngram, "tree_depth": choice.tree["tree_depth"]}
        return [Contender(Method("ngram", "ngram", settings=settings), {"ngram": choice.ngram, **choice.tree})]
    contenders: list[Contender] = []
    reasons: list[str] = []
    for drafter in choice.drafters:
        uses = _uses(kind, drafter, choice)
        if isinstance(uses, str):
            reasons.append(uses)
        else:
            contenders += [_contender(kind, drafter, use, choice) for use in uses]
    if needed and not contenders:
        found = "; ".join(reasons) or "no drafter"
        raise ValueError(f"--methods {kind}: found {found}; expected {KINDS[kind]}")
    return contenders


def _uses(kind: str, drafter: DrafterFile, choice: Choice) -> list[_Use] | str:
    """How `drafter` serves `kind`, or why it does not."""
    what = drafter.describe()
    if kind == "auto":
        return [_Use("auto")]
    if kind in ("eagle2", "eagle3", "mtp"):
        return [_Use("learned" if drafter.reduced else "full", rows=drafter.rows)] if drafter.kind == kind else what
    if kind == "frspec":
        if not drafter.reads_states:
            return what
        given = [head for head in choice.heads if re.fullmatch(r"ranked:\d+", head)]
        if choice.heads and not given:
            return f"--head {', '.join(choice.heads)}"
        return [_use_of(head, drafter) for head in given or [f"ranked:{max(1, drafter.rows // 4)}"]]
    if kind == "specvocab":
        if not drafter.reads_states:
            return what
        if choice.sketch is None and not drafter.has_sketch:
            return f"{what} without a sketch"
        given = [head for head in choice.heads if re.fullmatch(rf"{_SPECULATED}(:\d+)?", head)]
        return [_use_of(head, drafter) for head in given or [_SPECULATED]]
    if kind == "heads":
        fit = r".*" if drafter.same_vocabulary else r"full|ranked:\d+|auto"
        heads = [head for head in choice.heads if re.fullmatch(fit, head)]
        return [_use_of(head, drafter) for head in heads] or (what if choice.heads else "no --head")
    return _uses_of_model(kind, drafter)


def _uses_of_model(kind: str, drafter: DrafterFile) -> list[_Use] | str:
    what = drafter.describe()
    if drafter.reads_states or drafter.same_vocabulary != (kind == "model"):
        return what
    if kind == "model":
        return [_Use("full", rows=drafter.rows)]
    if kind == "tli":
        return [_Use("full", "tli", drafter.shared)] if drafter.shared else f"{what}, with no token in common"
    if kind == "slrs" and not drafter.characters:
        return f"{what} and tokens of several characters"
    return [_Use("full", kind, drafter.rows)]


def _use_of(head: str, drafter: DrafterFile) -> _Use:
    return _Use(head, rows=rows_of(head, drafter))


def rows_of(head: str, drafter: DrafterFile) -> int | None:
    """Rows that a level of drafts reads; None where that is not one number (``auto``, ``speculated``)."""
    if head in ("full", "learned"):
        return drafter.rows
    total = 0
    for part in head.split("+"):
        name, _, number = part.partition(":")
        if name not in ("ranked", "contextual") or not (number.isdigit() or (name == "contextual" and not number)):
            return None
        total += int(number or 2048)
    return min(total, drafter.rows)


def _contender(kind: str, drafter: DrafterFile, use: _Use, choice: Choice) -> Contender:
    is_auto = use.head == "auto"
    # What "auto" means: heads and trees as far as pays.
    tree = {} if kind == "auto" else dict(choice.tree)
    options: dict[str, Any] = {"drafter": str(drafter.path), "head": use.head, **tree}
    settings: dict[str, Any] = tree
    if use.translate != "auto":
        options["translate"] = settings["translate"] = use.translate
    # A file that the head does not use is an error of the engine's.
    if choice.ranks and drafter.same_vocabulary and (is_auto or re.search("ranked|contextual", use.head)):
        options["ranks"] = str(choice.ranks)
        settings["ranks"] = choice.ranks.name
    if choice.sketch and drafter.same_vocabulary and (is_auto or _SPECULATED in use.head):
        options["sketch"] = str(choice.sketch)
        settings["sketch"] = choice.sketch.name
    if kind == "auto":
        settings["draft"] = "auto"
    name = {"frspec": f"frspec {use.head}", "specvocab": f"specvocab {use.head}", "heads": use.head}.get(kind, kind)
    if kind == "heads" and is_auto:
        name = "auto, always drafting"
    method = Method(name, kind, drafter=drafter.path.name, head=use.head, rows=use.rows, settings=settings)
    return Contender(method, options, "auto" if kind == "auto" else True)


def custom(text: str, choice: Choice) -> Contender:
    """Of ``NAME=FILE[,option=value...]``: a drafter, ``draft`` and keyword arguments of `frspec_cpp.LLM`.

    FILE may be ``demo``, the demo pair's drafter, or empty, none.

    Raises:
        ValueError: It is written otherwise.
    """
    name, equals, rest = text.partition("=")
    file, *pairs = rest.split(",")
    if file == "demo":
        file = str(frspec_cpp.demo_paths()[1])
    if not name or not equals:
        raise ValueError(f"--custom: found '{text}', expected NAME=FILE[,option=value...]")
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise ValueError(f"--custom {name}: found '{pair}', expected option=value")
        settings[key] = int(value) if re.fullmatch(r"-?\d+", value) else value
    drafts: dict[Any, Literal["auto"] | bool] = {"always": True, "auto": "auto", "never": False}
    draft = settings.pop("draft", "always")
    if draft not in drafts:
        raise ValueError(f"--custom {name}: draft: found '{draft}', expected 'always', 'auto' or 'never'")
    if draft != "auto" or any(key.startswith("tree") for key in settings):  # else their shapes are found out, too
        settings = {**choice.tree, **settings}
    options = {**settings, "drafter": file or None}
    method = Method(
        name,
        "custom",
        drafter=Path(file).name if file else None,
        head=str(settings["head"]) if "head" in settings else ("auto" if file else None),
        settings={**settings, "draft": draft},
    )
    return Contender(method, options, drafts[draft])


def check_names(methods: Sequence[Method]) -> None:
    """Raises ValueError where two methods have one name."""
    names = [method.name for method in methods]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"found two methods of the name '{name}', expected different names")


def _with_unique_names(contenders: list[Contender]) -> list[Contender]:
    """Where several drafters serve one kind, each row names its drafter."""
    names = [contender.method.name for contender in contenders]
    unique: list[Contender] = []
    for contender in contenders:
        method = contender.method
        if names.count(method.name) > 1 and method.drafter is not None:
            method = replace(method, name=f"{method.name} {Path(method.drafter).stem}")
        unique.append(replace(contender, method=method))
    check_names([contender.method for contender in unique])
    return unique
