"""The command line of frspec-eval."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import frspec_cpp

from ..console import count, note, require, run, whole
from . import peers
from .job import PROGRAM, Request, evaluate
from .methods import KINDS
from .prompts import TEMPLATES
from .storage import read_runs

EXTRA = "frspec_cpp[eval]"


def _names(text: str) -> list[str]:
    """Names between commas, for argparse."""
    return [name for name in text.split(",") if name]


def parser() -> argparse.ArgumentParser:
    """The command line of frspec-eval."""
    result = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Run every method on every prompt, check that the texts are equal, and write a report. The same "
        "command goes on where an interrupted run stopped.",
        epilog="methods: " + "; ".join(f"{name}: {text}" for name, text in _kinds().items()),
    )
    result.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder of results and report")
    result.add_argument("-m", "--model", type=Path, metavar="FILE", help="GGUF file of the target; default: the demo's")
    result.add_argument(
        "-d",
        "--drafter",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="GGUF files, or mtp; default: the demo's",
    )
    result.add_argument("--report-only", action="store_true", help="write the report of the results in DIR anew")
    result.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    _add_methods(result.add_argument_group("methods"))
    _add_prompts(result.add_argument_group("prompts"))
    _add_writing(result.add_argument_group("texts"))
    _add_engine(result.add_argument_group("engine"))
    return result


def _kinds() -> dict[str, str]:
    return {**KINDS, **peers.KINDS}


def _add_methods(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--methods", type=_names, nargs="+", metavar="NAME", help="see below; default: ours, as far as they apply"
    )
    group.add_argument(
        "--head", type=_names, nargs="+", default=[], metavar="POLICY", help="head policies: full, ranked:N ..."
    )
    group.add_argument(
        "--custom", action="append", default=[], metavar="NAME=FILE[,OPTION=VALUE...]",
        help="one more method: a drafter (or none) and arguments of frspec_cpp.LLM, and draft=always|auto|never",
    )  # fmt: skip
    group.add_argument("--ngram", type=count, default=8, metavar="N", help="last tokens that ngram looks for (8)")
    group.add_argument("--ranks", type=Path, metavar="FILE", help="token ranks; default: those in the drafter's file")
    group.add_argument("--sketch", type=Path, metavar="FILE", help="sketch of the head; default: the drafter's")
    group.add_argument("--tree-depth", type=whole, default=5, metavar="D", help="depth of draft trees (5)")
    group.add_argument("--tree-branch", type=count, default=10, metavar="K", help="nodes expanded per level (10)")
    group.add_argument("--tree-size", type=count, default=60, metavar="N", help="nodes that are verified at once (60)")
    group.add_argument(
        "--peers", type=_names, nargs="+", metavar="NAME", help="other engines beside the methods: see below"
    )
    group.add_argument("--llama-server", type=Path, metavar="FILE", help="the program; default: the one in PATH")
    group.add_argument(
        "--draft-max",
        type=count,
        nargs="+",
        default=[],
        metavar="N",
        help="tokens that llama-server (3) and OpenVINO (5) draft at once",
    )
    group.add_argument(
        "--hf-target", type=Path, metavar="DIR", help="the target's checkpoint, for transformers; default: -m"
    )
    group.add_argument(
        "--hf-drafter",
        type=Path,
        metavar="DIR",
        help="the assistant's checkpoint, for transformers, instead of the models of -d",
    )


def _add_prompts(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--prompts", nargs="+", default=["demo"], metavar="FILE",
        help=".jsonl of Spec-Bench, MT-Bench, HumanEval or GSM8K, .parquet, .txt; default: demo, a few of ours",
    )  # fmt: skip
    group.add_argument("--count", type=count, metavar="N", help="questions of each category, evenly spread (all)")
    group.add_argument("--categories", type=_names, nargs="+", metavar="NAME", help="only these")
    group.add_argument(
        "--template", choices=TEMPLATES, default="auto", help="the model's chat template; auto: where it has one"
    )
    group.add_argument(
        "--no-parse-special", action="store_false", dest="parse_special",
        help="without a template: read the text of control tokens (<|im_start|>) letter by letter",
    )  # fmt: skip


def _add_writing(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-n", "--max-tokens", type=count, default=128, metavar="N", help="tokens of a text (128)")
    group.add_argument("--ignore-eos", action="store_true", help="go on after an end-of-generation token")
    group.add_argument("--repeats", type=count, default=3, metavar="N", help="timed texts of each method (3)")
    group.add_argument("--warmup", type=whole, default=1, metavar="N", help="texts before anything is kept (1)")
    group.add_argument("-s", "--seed", type=whole, default=0, metavar="S", help="of sampling and of the order (0)")
    group.add_argument("--temp", "--temperature", dest="temperature", type=float, default=0.0, metavar="T", help="(0)")
    for name in ("top-k", "top-p", "min-p", "typical-p", "repeat-penalty", "frequency-penalty", "presence-penalty"):
        default = frspec_cpp.option_table.DEFAULTS[name.replace("-", "_")]  # type: ignore[literal-required]
        group.add_argument(f"--{name}", type=type(default), default=default, metavar="X", help=f"({default})")


def _add_engine(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-t", "--threads", type=whole, default=0, metavar="N", help="CPU threads; default: one per core")
    group.add_argument(
        "-c", "--ctx-size", type=whole, default=0, metavar="N", help="tokens of prompt and text together"
    )
    group.add_argument("--cache-type", choices=("f16", "q8_0"), default="f16", help="type of the K/V cache (f16)")
    group.add_argument("--device", metavar="DEVICE", help="cpu, cuda or cuda:N; default: FRSPEC_DEVICE, or cpu")
    group.add_argument(
        "--share-engines", action="store_true", help="one engine for all heads of a drafter: less memory"
    )


def request_of(options: argparse.Namespace) -> Request:
    """The options as a Request; without a target the demo pair's files.

    Raises:
        FileNotFoundError: The demo pair is not there.
        ValueError: An option that takes names has none but commas.
    """
    model, drafters = options.model, options.drafter
    if model is None:
        model, drafter = frspec_cpp.demo_paths()
        drafters = drafters or [drafter]
    sampling = ("top_k", "top_p", "min_p", "typical_p", "repeat_penalty", "frequency_penalty", "presence_penalty")
    return Request(
        output=options.output,
        model=model,
        drafters=drafters,
        prompts=options.prompts,
        methods=_flat("--methods", options.methods),
        heads=_flat("--head", options.head or None) or [],
        custom=options.custom,
        categories=_flat("--categories", options.categories),
        count=options.count,
        template=options.template,
        parse_special=options.parse_special,
        repeats=options.repeats,
        warmup=options.warmup,
        seed=options.seed,
        ngram=options.ngram,
        ranks=options.ranks,
        sketch=options.sketch,
        hf_target=options.hf_target,
        hf_drafter=options.hf_drafter,
        peers=_flat("--peers", options.peers) or [],
        server=options.llama_server,
        draft_max=options.draft_max,
        share=options.share_engines,
        quiet=options.quiet,
        engine={
            "n_threads": options.threads,
            "n_ctx": options.ctx_size or None,
            "cache_type": options.cache_type,
            "device": options.device,
        },
        tree={name: getattr(options, name) for name in ("tree_depth", "tree_branch", "tree_size")},
        writing={
            "max_tokens": options.max_tokens,
            "ignore_eos": options.ignore_eos,
            "temperature": options.temperature,
            **{name: getattr(options, name) for name in sampling},
        },
    )


def _flat(option: str, lists: list[list[str]] | None) -> list[str] | None:
    if lists is None:
        return None
    flat = [name for names in lists for name in names]
    if not flat:
        raise ValueError(f"{option}: found no name, expected at least one")
    return flat


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the tool; returns the exit code: 0, 1 for an error (a text that differs, too), 130 for Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(given)

    def command() -> None:
        for package in ("tqdm", "matplotlib"):
            require(package, PROGRAM, EXTRA)
        if not options.report_only:
            _evaluate(request_of(options), given)
        _report(options.output)

    return run(PROGRAM, command)


def _evaluate(request: Request, given: Sequence[str]) -> None:
    try:
        evaluate(request, given)
    except KeyboardInterrupt:
        if (request.output / "results.jsonl").is_file():
            note(f"{PROGRAM}: {len(read_runs(request.output))} texts are in {request.output}; the same command goes on")
        raise


def _report(folder: Path) -> None:
    from .report import write_report  # imports matplotlib: not before it is known to be there
    from .tables import for_terminal

    for table in write_report(folder):
        if table.name == "overview":
            print(for_terminal(table))
    note(f"{PROGRAM}: {folder / 'report.html'}")
