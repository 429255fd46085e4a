"""report.md, report.json, report.html and the charts from records, whole and with pieces missing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from evaluation_records import METHODS, make_manifest, make_prompts, make_runs, write_records
from frspec_cpp.tools.evaluate import charts, generations, report
from frspec_cpp.tools.evaluate.charts_drafts import outside_share
from frspec_cpp.tools.evaluate.generations import TOKENS, choose, show, visible
from frspec_cpp.tools.evaluate.markdown import escape
from frspec_cpp.tools.evaluate.picture import GRID, INK, PAPER, PARTS, SERIES
from frspec_cpp.tools.evaluate.records import Manifest, Method, Run
from frspec_cpp.tools.evaluate.report import write_report
from frspec_cpp.tools.evaluate.steps import why_no_subset
from frspec_cpp.tools.evaluate.summary import summarise
from frspec_cpp.tools.evaluate.tables import Table, for_terminal, make_tables
from frspec_cpp.tools.evaluate.text import wrap

from frspec_cpp import Step

pytest.importorskip("matplotlib")

HOSTILE = "<script>alert('x')</script>&\"|$x^2$"
CHARTS = {
    "speedup": ("speedup over plain decoding (×)", "all", "math reasoning"),
    "accepted-length-by-rows": ("tokens per step", "rows of the draft head (tokens, log scale)"),
    "time-per-step": ("time per step (ms)",),
    "acceptance-by-depth": ("accepted of the steps that got there (%)", "depth in the draft tree (tokens)"),
    "accepted-drafts": ("share of the steps with drafts (%)", "accepted drafts in a step (tokens)"),
    "misses": ("share of the steps with drafts (%)", "text ended"),
    "speed-and-length": ("speedup over plain decoding (×)", "tokens per step"),
}


class Page(HTMLParser):
    """Tags and attributes of a page, and its visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called by the parser."""
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Called by the parser."""
        self.text += data

    def count(self, tag: str, **attributes: str) -> int:
        """Elements with these attributes."""
        return sum(t == tag and attributes.items() <= found.items() for t, found in self.tags)


def report_of(folder: Path, manifest: Manifest, runs: list[Run]) -> tuple[str, dict[str, Any], str]:
    """The three files."""
    write_report(write_records(folder, manifest, runs))
    names = ("report.md", "report.json", "report.html")
    markdown, data, html = ((folder / name).read_text(encoding="utf-8") for name in names)
    return markdown, json.loads(data), html


@pytest.fixture(scope="module")
def example() -> tuple[Manifest, list[Run]]:
    manifest = make_manifest(METHODS, make_prompts(each=2), repeats=1)
    return manifest, make_runs(manifest)


@pytest.fixture(scope="module")
def written(
    tmp_path_factory: pytest.TempPathFactory, example: tuple[Manifest, list[Run]]
) -> tuple[Path, dict[str, Table]]:
    """The folder of a whole report, and its tables."""
    result = write_records(tmp_path_factory.mktemp("evaluation"), *example)
    return result, {table.name: table for table in write_report(result)}


@pytest.fixture(scope="module")
def folder(written: tuple[Path, dict[str, Table]]) -> Path:
    return written[0]


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts take seconds, where they are not what is looked at."""
    monkeypatch.setattr(report, "draw_charts", lambda _: [])


def test_markdown_is_complete(folder: Path, example: tuple[Manifest, list[Run]]) -> None:
    text = (folder / "report.md").read_text(encoding="utf-8")
    manifest = example[0]
    for needed in (manifest.command, "An Imaginary CPU", "transformers assisted", "## Definitions", "| all |"):
        assert needed in text
    for method in manifest.methods:
        assert text.count(f"| {method.name} |") >= 4
    for name in CHARTS:
        assert f"(charts/{name}.svg)" in text
        assert (folder / "charts" / f"{name}.svg").is_file()
    # Every table is one: as many cells in each row.
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_json_has_every_number(folder: Path, example: tuple[Manifest, list[Run]]) -> None:
    data = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert (data["format"], data["version"]) == ("frspec-eval report", 1)
    assert data["run"]["command"] == example[0].command
    assert [one["name"] for one in data["methods"]] == [method.name for method in METHODS]
    found = summarise(*example)
    for one, summary in zip(data["methods"], found.methods, strict=True):
        assert one["overall"]["speedup"] == summary.overall.speedup
        assert list(one["categories"]) == found.categories
    peer = data["methods"][-1]["overall"]
    assert peer["accepted_length"] is None
    assert peer["traced"] is None
    assert peer["agreement"]["equal"] < peer["agreement"]["texts"]


def test_page_needs_nothing_from_outside(html: str) -> None:
    page = Page(html)
    assert "default-src 'none'" in html
    addresses = set(re.findall(r"https?://[^\"'\s<>)]+", html))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not [tag for tag, _ in page.tags if tag in ("link", "iframe", "img", "base", "object", "form")]
    for _, attributes in page.tags:
        for name, value in attributes.items():
            assert name not in ("src", "srcset", "action")
            assert not name.startswith("on")
            assert not name.endswith("href") or (value or "").startswith("#")
    assert not re.search(r"@import|url\((?!#)", html)
    # One set of styles: Matplotlib's own ones would hold for the whole page.
    assert html.count("<style") == 2
    identifiers = [found["id"] for _, found in page.tags if "id" in found]
    assert len(identifiers) == len(set(identifiers))
    links = {value for _, found in page.tags for name, value in found.items() if name.endswith("href") and value}
    links |= set(re.findall(r"url\((#[^)]+)\)", html))
    assert links <= {f"#{one}" for one in identifiers}


def test_page_has_charts_for_both_themes_and_widths(html: str) -> None:
    page = Page(html)
    assert page.count("svg", role="img") == 2 * len(CHARTS)
    for name in CHARTS:
        assert page.count("figure", id=f"chart-{name}") == 1
    pictures = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert not re.findall(r'style="[^"]*#[0-9a-fA-F]{6}', pictures), "a colour of one theme alone"
    assert not re.findall(r'(?:fill|stroke)="#', pictures)
    for variable in set(re.findall(r"var\((--[\w-]+)\)", html)):
        assert len(re.findall(rf"{variable}:", html)) >= 2, variable
    assert "prefers-color-scheme: dark" in html
    assert page.count("button", id="theme") == 1


def test_charts_say_what_their_axes_are(folder: Path) -> None:
    for name, labels in CHARTS.items():
        root = ElementTree.parse(folder / "charts" / f"{name}.svg").getroot()
        texts = {"".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")}
        assert set(labels) <= texts, name
        background = re.search(r'id="patch_1">.*?fill: (#\w+)', ElementTree.tostring(root, "unicode"), re.DOTALL)
        assert background is not None
        assert background.group(1) == PAPER[0]  # opaque: read on dark pages, too
    text = (folder / "charts" / "accepted-length-by-rows.svg").read_text(encoding="utf-8")
    for needed in ("full head", "ranked", "speculated", "1k", "16k", "64k"):
        assert f">{needed}<" in text


def test_colours_are_seen_on_their_page() -> None:
    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for dark in (0, 1):
        paper = luminance(PAPER[dark])
        for pair in (*SERIES, *PARTS, INK):
            values = sorted((luminance(pair[dark]), paper))
            assert (values[1] + 0.05) / (values[0] + 0.05) >= 3.0, pair
    assert len({pair[0] for pair in (*SERIES, *PARTS, INK, GRID, PAPER)}) == len(SERIES) + len(PARTS) + 3


def test_the_same_records_give_the_same_files(tmp_path: Path) -> None:
    manifest = make_manifest(METHODS[:4], make_prompts(("qa",), each=2), repeats=1)
    runs = make_runs(manifest)
    assert report_of(tmp_path / "out", manifest, runs) == report_of(tmp_path / "again", manifest, runs)


def test_tables(written: tuple[Path, dict[str, Table]]) -> None:
    tables = written[1]
    found = tables["steps"]
    assert found.header[-1] == "mean accepted tokens (Spec-Bench)"
    assert len(found.rows) == 8  # all but the peer
    assert "frspec ranked:4096" in for_terminal(tables["overview"])


def test_generations(html: str, example: tuple[Manifest, list[Run]]) -> None:
    manifest, runs = example
    page = Page(html)
    shown = choose(manifest, runs)
    assert page.count("details", **{"class": "prompt"}) == len(shown)
    assert f"{len(shown)} of {len(manifest.prompts)} prompts" in page.text
    marks = [found for tag, found in page.tags if tag == "button" and found.get("class") == "miss"]
    assert marks
    assert {found["aria-expanded"] for found in marks} == {"false"}
    assert {str(found["aria-label"]) for found in marks} == {
        "Why: outside the subset",
        "Why: another draft preferred",
        "Why: no fixed subset",
        "Why: tree ended",
    }
    assert sum(found.get("class") == "why" for _, found in page.tags) == len(marks)
    depths = {str(found["data-d"]) for _, found in page.tags if "data-d" in found}
    assert depths == {"1", "2", "3", "4", "5"}


def test_one_text() -> None:
    step = Step([5, 6], 1, 9, [7, 8], False, 0.0, 0.0, 0.0, 0.0)
    last = Step([9], 0, 1, [], None, 0.0, 0.0, 0.0, 0.0)
    nothing = (None,) * 6
    pieces = ["The", " old\n", " man", "."]
    run = Run("m", 0, 0, 4, *nothing, 1.0, "stop", [4, 5, 6, 9], pieces, [step, last], {"7": " sea\n"})
    text = show(run)
    assert [token.depth for token in text.tokens] == [0, 1, 0, 0]
    assert text.tokens[1].text == " old↵\n"
    miss = text.tokens[2].miss
    assert miss is not None
    assert (miss.reason, miss.offered, miss.wanted) == ("outside the subset", ["␣sea↵", "#8"], "␣man")
    assert [token.miss for token in text.tokens[:2] + text.tokens[3:]] == [None] * 3
    # Steps that do not fit the text are not guessed at.
    torn = show(replace(run, trace=[step, step, step]))
    assert [token.depth for token in torn.tokens] == [0] * 4
    assert "no depths" in torn.note
    long = show(replace(run, pieces=["a"] * 1000, trace=None))
    assert (len(long.tokens), long.count) == (TOKENS, 1000)


def test_a_text_that_ends_where_drafts_were_offered() -> None:
    step = Step([5], 1, 9, [7], None, 0.0, 0.0, 0.0, 0.0)
    run = Run("m", 0, 0, 2, 1, 2, 1, 0.5, 0.1, 0.1, 1.0, "stop", [4, 5], ["The", " end"], [step], {"7": " is"})
    text = show(run, replace(METHODS[2], head="speculated"))
    assert text.note == "1 steps, 2.00 tokens per step"  # with the token that ended the text, as in the tables
    assert [token.text for token in text.tokens] == ["The", " end", ""]
    miss = text.tokens[-1].miss
    assert miss is not None
    assert (miss.reason, miss.offered, miss.wanted) == ("no fixed subset", ["␣is"], "(end of the text)")
    assert "chooses its subset anew for every state" in miss.explanation
    # Cut by the limit of tokens: what the target said is not there to be shown.
    assert len(show(replace(run, finish_reason="length", step_tokens=1)).tokens) == 2


@pytest.mark.parametrize(
    ("method", "why"),
    [
        (Method("a", "specvocab", drafter="d", head="speculated:2048"), "its subset anew for every state"),
        (Method("b", "slem", drafter="d", head="full", settings={"translate": "slem"}), "from another vocabulary"),
        (METHODS[6], "n-grams of the text, not from a head"),
        (METHODS[7], "or the drafts are n-grams or from another vocabulary"),
    ],
)
def test_why_a_subset_is_not_known(method: Method, why: str) -> None:
    assert why_no_subset(method).endswith(why)


def test_every_category_is_shown_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generations, "PROMPTS", 4)
    manifest = make_manifest(METHODS[:2], make_prompts(("a", "b", "c"), each=3), repeats=0)
    shown = choose(manifest, make_runs(manifest))
    assert [one.prompt.category for one in shown] == ["a", "a", "b", "c"]


def test_visible() -> None:
    assert visible("  a b\n") == "␣␣a b↵"
    assert visible("   ") == "␣␣␣"
    assert visible("") == "(nothing)"


def test_hostile_texts_do_nothing(tmp_path: Path) -> None:
    hostile = replace(METHODS[2], name=HOSTILE, drafter=HOSTILE, settings={HOSTILE: HOSTILE})
    prompts = [replace(prompt, name=f"{prompt.name}{HOSTILE}") for prompt in make_prompts((HOSTILE, "_b"), each=1)]
    manifest = make_manifest([METHODS[0], METHODS[1], hostile], prompts, repeats=1)
    machine = {**manifest.machine, "cpu": HOSTILE}
    manifest = replace(
        manifest, command=f"{HOSTILE} ``` x", target=HOSTILE, machine=machine, skipped={HOSTILE: HOSTILE}
    )
    runs = []
    for run in make_runs(manifest):
        pieces = None if run.pieces is None else [HOSTILE, *run.pieces[1:-1], "\ud800"]
        said = None if run.said is None else dict.fromkeys(run.said, HOSTILE)
        runs.append(replace(run, pieces=pieces, said=said))
    markdown, data, html = report_of(tmp_path / "out", manifest, runs)
    page = Page(html)
    assert page.count("script") == 1
    assert HOSTILE in page.text
    assert "alert(" not in re.findall(r"<script>.*?</script>", html, flags=re.DOTALL)[0]
    assert all("alert" not in name for tag, found in page.tags for name in (tag, *found))
    for svg in (tmp_path / "out" / "charts").iterdir():
        tags = {node.tag for node in ElementTree.parse(svg).getroot().iter()}
        assert not any("script" in tag for tag in tags)
    outside = markdown.split("````")[-1]  # behind the command, whose fence is longer than its backticks
    assert "<script>" not in outside
    assert data["methods"][2]["name"] == HOSTILE


def test_control_characters(tmp_path: Path) -> None:
    bad = "\x01a\x1b[31m\x00|\ud800\ufffe"
    methods = [METHODS[0], *(replace(one, name=f"{one.name}{bad}", drafter=bad) for one in METHODS[2:5])]
    manifest = make_manifest(methods, make_prompts((bad, "_b"), each=1), repeats=1)
    runs = [replace(run, pieces=run.pieces and [bad] * len(run.pieces)) for run in make_runs(manifest)]
    out = write_records(tmp_path / "out", manifest, runs)
    tables = write_report(out)
    for svg in (out / "charts").iterdir():
        ElementTree.parse(svg)  # raises where it is malformed
    assert len(list((out / "charts").iterdir())) == len(CHARTS)
    texts = [path.read_text(encoding="utf-8") for path in (out / "report.md", out / "report.html")]
    for text in [*texts, *map(for_terminal, tables)]:
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ufffe]", text)
    assert "␁a␛[31m␀" in texts[0]
    assert "␁a␛[31m␀" in texts[1]


def test_the_table_for_the_terminal() -> None:
    table = Table("t", "", "", ["method", "a", "bb"], [["x|y", "1", "2.5"], ["long name", "–", "3"]])
    assert for_terminal(table).splitlines() == ["method     a   bb", "x|y        1  2.5", "long name  –    3"]


@pytest.mark.usefixtures("no_charts")
def test_an_unfinished_run_shows_what_there_is(tmp_path: Path) -> None:
    manifest = make_manifest(METHODS[:2], make_prompts(("qa",), each=3), repeats=2)
    runs = make_runs(manifest)  # 6 for each repeat
    tables = {table.name: table for table in write_report(write_records(tmp_path / "out", manifest, runs[:-2]))}
    assert [row[-2:] for row in tables["overview"].rows] == [["3", "5"], ["3", "5"]]


@pytest.mark.usefixtures("no_charts")
def test_what_ended_the_run_comes_first(tmp_path: Path, example: tuple[Manifest, list[Run]]) -> None:
    manifest, runs = example
    out = write_records(tmp_path / "out", manifest, runs[:30])
    values: dict[str, Any] = {"method": "auto", "prompt": 1, "name": "a.jsonl:1", "repeat": 1, "position": 4}
    message = "auto, a.jsonl:1: token 4 is <another>"
    values |= {"expected": 3, "found": 5, "message": message}
    (out / "failed.json").write_text(json.dumps(values), encoding="utf-8")
    write_report(out)
    remarks = json.loads((out / "report.json").read_text(encoding="utf-8"))["remarks"]
    assert remarks[0] == f"NOT LOSSLESS, the run ended: {message}"
    assert remarks[1].startswith("The run is not complete")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert 0 < page.index("token 4 is &lt;another&gt;") < page.index("The run is not complete")
    (out / "failed.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match=r"failed\.json: not what frspec-eval writes"):
        write_report(out)


def drawn(patch: pytest.MonkeyPatch, manifest: Manifest, runs: list[Run], *names: str) -> dict[str, charts.Chart]:
    """Charts of these names; all of them take seconds."""
    patch.setattr(charts, "_CHARTS", [chart for chart in charts._CHARTS if chart[0] in names])
    found = {chart.name: chart for chart in charts.draw_charts(summarise(manifest, runs))}
    assert found.keys() == set(names)
    return found


def test_shares_of_a_few_steps_are_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = make_manifest(METHODS[:3], make_prompts(("qa",), each=1), repeats=1)
    runs = []
    for run in make_runs(manifest):
        few = run.method == METHODS[2].name and run.trace is not None
        runs.append(replace(run, trace=run.trace[:9] if few and run.trace else run.trace))
    names = ("accepted-drafts", "misses")
    found = drawn(monkeypatch, manifest, runs, *names)
    for name in names:
        wide = found[name].wide
        assert wide is not None
        assert ">eagle2<" in wide
        assert "ranked" not in wide, name


def test_one_size_is_no_chart(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = make_manifest([METHODS[i] for i in (0, 1, 3, 5)], make_prompts(("qa",), each=1), repeats=1)
    name = "accepted-length-by-rows"
    assert drawn(monkeypatch, manifest, make_runs(manifest), name)[name].wide is None


def test_shares_have_one_denominator() -> None:
    def step(accepted: int, offered: list[int], inside: bool, given: int) -> Step:
        return Step([1] * given, accepted, 9, offered, inside, 0.0, 0.0, 0.0, 0.0)

    steps = [step(0, [7], False, 1)] * 5 + [step(2, [], True, 1)] * 15  # text ended in the last ones
    manifest = make_manifest(METHODS[:3], make_prompts(("qa",), each=1), repeats=1)
    runs = [replace(run, trace=steps if run.trace and run.method != "plain" else None) for run in make_runs(manifest)]
    summary = summarise(manifest, runs)
    assert outside_share(summary.methods[1].overall) == pytest.approx(25.0)
    tables = {table.name: table for table in make_tables(manifest, summary)}
    assert tables["misses"].rows[0][1:3] == ["20", "5 (25.0 %)"]


def test_names_break_between_words() -> None:
    assert wrap("frspec ranked:32768 demo-eagle2", 20) == ["frspec ranked:32768", "demo-eagle2"]
    assert wrap("transformers-assisted", 15) == ["transformers-", "assisted"]
    assert wrap("small-tree+ngram", 12) == ["small-tree+", "ngram"]
    assert wrap("unbreakable_name", 10) == ["unbreakable_name"]
    assert wrap("x" * 25, 10) == ["x" * 10, "x" * 15]
    assert wrap(" ", 10) == [" "]


def test_peers_alone_have_no_steps(tmp_path: Path) -> None:
    peer = METHODS[-1]
    manifest = make_manifest([METHODS[0], peer], make_prompts(("qa",), each=2), repeats=1)
    runs = [replace(run, trace=None) for run in make_runs(manifest)]
    markdown, data, html = report_of(tmp_path / "out", manifest, runs)
    assert f"| {peer.name} | – |" not in markdown  # a row of dashes is no row
    assert data["methods"][1]["overall"]["speedup"] > 0
    assert html.count("No chart:") == 6 == len(CHARTS) - len(list((tmp_path / "out" / "charts").iterdir()))
    assert "The engine does not tell of its steps." in html


def test_no_heads_with_rows_and_one_category(tmp_path: Path) -> None:
    methods = [METHODS[0], replace(METHODS[7], rows=None)]
    manifest = make_manifest(methods, make_prompts(("qa",), each=1), repeats=1)
    markdown, _, html = report_of(tmp_path / "out", manifest, make_runs(manifest))
    assert "No kind of head was run with two sizes" in html
    assert "no chart" in markdown
    assert html.count("No chart:") == 1
    assert ">all<" not in (tmp_path / "out" / "charts" / "speedup.svg").read_text(encoding="utf-8")
    assert "| qa | all |" in markdown


@pytest.mark.usefixtures("no_charts")
@pytest.mark.parametrize("lines", [0, 30])
def test_an_interrupted_run(tmp_path: Path, example: tuple[Manifest, list[Run]], lines: int) -> None:
    manifest, runs = example
    markdown, data, html = report_of(tmp_path / "out", manifest, runs[:lines])
    assert data["texts"] == lines
    assert data["remarks"]
    for remark in data["remarks"]:
        assert escape(remark) in markdown
        assert remark.split(":")[0] in Page(html).text


def test_a_chart_that_is_no_more_goes(tmp_path: Path, example: tuple[Manifest, list[Run]]) -> None:
    manifest, runs = example
    (tmp_path / "out" / "charts").mkdir(parents=True)
    (tmp_path / "out" / "charts" / "speedup.svg").write_text("of an earlier report")
    report_of(tmp_path / "out", manifest, runs[:3])
    assert not (tmp_path / "out" / "charts" / "speedup.svg").exists()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "charts",
        "report.html",
        "report.json",
        "report.md",
        "results.jsonl",
        "run.json",
    ]


def test_more_methods_than_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    methods = [METHODS[0], *(Method(f"_head {i}", "heads", head=f"ranked:{2**i}", rows=2**i) for i in range(4, 15))]
    manifest = make_manifest(methods, make_prompts(("qa",), each=1), repeats=1)
    wide = drawn(monkeypatch, manifest, make_runs(manifest), "speedup")["speedup"].wide
    assert wide is not None
    assert "pattern" in wide  # hatched where colours come again
    assert len(wide) < 250_000  # some hatches would make megabytes
    for method in methods[1:]:
        assert method.name.removeprefix("_") in wide


def test_not_the_folder_of_an_evaluation(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_report(tmp_path)
