"""`frspec-serve`, which is `frspec serve`: the command line of the server."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

from frspec_cpp.demo import demo_paths
from frspec_cpp.hub import find_model
from frspec_cpp.option_table import DEFAULTS, ENGINE_OPTIONS, OPTIONS, Options, Row
from frspec_cpp.server.settings import SERVER_DEFAULTS, Settings, keep_apart
from frspec_cpp.tools.console import require, run

PROGRAM = "frspec-serve"
_EXTRA = "frspec_cpp[server]"
_ALWAYS = "it is always so here: leave it out"
_NOT_NEEDED = "there is no such thing here: leave it out"
_WHOLE = "models are on the device as a whole: leave it out"

# Options of llama-server and vLLM that have no meaning here, or another name.
_FOREIGN = {
    "-cb": _ALWAYS,
    "--cont-batching": _ALWAYS,
    "-kvu": _ALWAYS,
    "--kv-unified": _ALWAYS,
    "--jinja": _ALWAYS,
    "--metrics": _ALWAYS,
    "--props": _ALWAYS,
    "-fa": _ALWAYS,
    "--flash-attn": _ALWAYS,
    "--no-context-shift": _ALWAYS,
    "--mlock": _NOT_NEEDED,
    "--no-warmup": _NOT_NEEDED,
    "-tb": "expected -t, --threads",
    "-ub": "expected -b, --batch-size",
    "-ctk": "expected --cache-type, for keys and values",
    "-ctv": "expected --cache-type, for keys and values",
    "-ngl": _WHOLE,
    "--gpu-layers": _WHOLE,
    "--n-gpu-layers": _WHOLE,
    "-ngld": _WHOLE,
    "--max-seqs": "expected -np, --parallel",
    "--max-num-seqs": "expected -np, --parallel",
    "-to": "expected --queue-timeout",
    "--timeout": "expected --queue-timeout",
}


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as the binary does."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _parser() -> _Parser:
    parser = _Parser(
        prog="frspec serve",
        usage="frspec serve -m TARGET [-d DRAFTER] [OPTION...]",
        description="Answers OpenAI's clients over HTTP, by default at http://127.0.0.1:8080, where one can also chat "
        "in a browser. Several texts are written at once (-np). docs/serving.md says more.",
        allow_abbrev=False,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    _add_models(parser)
    _add_http(parser)
    _add_sampling(parser)
    _add_engine(parser)
    return parser


def _add_models(parser: _Parser) -> None:
    group = parser.add_argument_group("models")
    group.add_argument("-m", "--model", metavar="TARGET", help="GGUF file of the model; without: the demo pair")
    group.add_argument(
        "-d", "--drafter", "-md", "--model-draft", metavar="DRAFTER", help="its drafter; without: plain decoding"
    )
    group.add_argument("-hf", "-hfr", "--hf-repo", metavar="USER/REPO[:QUANT]", help="the model by its name on the hub")
    group.add_argument("-hfd", "-hfrd", "--hf-repo-draft", metavar="NAME", help="the drafter, likewise")
    group.add_argument("-hff", "--hf-file", metavar="FILE", help="with -hf: that file of it; may be a pattern")
    group.add_argument("-hft", "--hf-token", metavar="TOKEN", help="of the hub; default: HF_TOKEN, or as logged in")
    group.add_argument("--offline", action="store_true", help="take only what is in the hub's cache")
    group.add_argument("-a", "--alias", default="", metavar="NAMES", help="what clients call it; default: its file")


def _add_http(parser: _Parser) -> None:
    group = parser.add_argument_group("HTTP")
    group.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="default: 127.0.0.1, this machine only")
    group.add_argument("--port", type=int, default=8080, metavar="PORT", help="0: a free one; default: 8080")
    group.add_argument("--api-key", default="", metavar="KEYS", help="keys, separated by commas; or LLAMA_API_KEY")
    group.add_argument("--api-key-file", type=Path, metavar="FILE", help="a file with a key in each line")
    group.add_argument(
        "--cache-scope",
        choices=("key", "shared"),
        default="key",
        help="whose cached prompts a key's requests may use;\ndefault: key, its own alone",
    )
    group.add_argument("--cors-origins", default="", metavar="ORIGINS", help="pages of other origins that may ask")
    group.add_argument("--any-model", action="store_true", help="take any name of a model in requests")
    group.add_argument("--max-queue", type=int, default=64, metavar="N", help="texts that may wait; default: 64")
    group.add_argument(
        "--queue-timeout", type=float, default=60.0, metavar="SECONDS", help="for their turn; default: 60"
    )
    group.add_argument("--max-body", type=int, default=4 * 2**20, metavar="BYTES", help="default: 4 MiB")
    group.add_argument(
        "--grace", type=float, default=30.0, metavar="SECONDS", help="for texts to end after SIGTERM; default: 30"
    )
    group.add_argument("--slots", action="store_true", help="show /slots where there are keys, too")
    group.add_argument("--no-webui", dest="page", action="store_false", help="no chat page at /")
    group.add_argument(
        "--reasoning-format",
        choices=("none", "auto", "deepseek"),
        default="deepseek",
        help="none: thoughts stay in the content; default: deepseek,\nthey become reasoning_content",
    )
    group.add_argument("--chat-template", metavar="TEXT", help="another template, or the name of one in the file")
    group.add_argument("--chat-template-file", type=Path, metavar="FILE", help="another template, in a file")
    group.add_argument("--chat-template-kwargs", metavar="JSON", help='its variables: {"enable_thinking": false}')


# Of a text, what only a request can say.
_OF_REQUESTS = ("stop", "logit_bias", "min_tokens", "ignore_eos", "logprobs", "reuse", "verify")
_SAMPLING = [row for row in OPTIONS if row["flags"] and row["name"] not in _OF_REQUESTS]
_TYPES = {"int": int, "float": float}


def _add_options(group: argparse._ArgumentGroup, rows: Sequence[Row], defaults: Mapping[str, Any]) -> None:
    """Options of the table. Those that are not given are None where `defaults` have none."""
    for row in rows:
        name, names, words = row["name"], row["flags"].split(", "), row["value"].split("|")
        usual = row["none"] or defaults.get(name, row["default"])
        text = row["help"] + ("" if usual in ("", None) or not row["value"] else f"; default: {usual}")
        if not row["value"]:  # a flag, which changes the default
            group.add_argument(*names, dest=name, action="store_const", const=not row["default"], help=text)
            continue
        kind: Any = _TYPES.get(row["type"].removesuffix(" | None"), str)
        choices = words if row["type"].startswith("Literal") else None
        group.add_argument(
            *names, dest=name, type=kind, choices=choices, metavar=row["value"], default=defaults.get(name), help=text
        )


def _add_sampling(parser: _Parser) -> None:
    group = parser.add_argument_group("defaults of requests")
    _add_options(group, _SAMPLING, {**DEFAULTS, **SERVER_DEFAULTS, "seed": -1, "max_tokens": -1})


def _add_engine(parser: _Parser) -> None:
    _add_options(parser.add_argument_group("model and machine"), ENGINE_OPTIONS, {})


def _spelled(argument: str) -> str:
    """An argument whose name, if it is a long one, has dashes where the user wrote underscores."""
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else argument


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line; ValueError in words for what it does not know."""
    for argument in arguments:
        name = argument.partition("=")[0]
        if name in _FOREIGN:  # before argparse takes -np for -n p
            raise ValueError(f"unknown option {name!r}: {_FOREIGN[name]}")
    parser = _parser()
    options, rest = parser.parse_known_args([_spelled(argument) for argument in arguments])
    if not rest:
        return options
    name = rest[0].partition("=")[0]
    if not name.startswith("-"):
        raise ValueError(f"unexpected argument {name!r}")
    near = difflib.get_close_matches(name, parser._option_string_actions, 1)
    raise ValueError(f"unknown option {name!r}" + (f", did you mean {near[0]}?" if near else ""))


def _models(options: argparse.Namespace) -> tuple[str, str | None]:
    """The files of the target and the drafter, which are fetched where they are named by their repositories."""
    if options.model and options.hf_repo:
        raise ValueError("-m, --model and -hf, --hf-repo: found both, expected one of them")
    if options.drafter and options.hf_repo_draft:
        raise ValueError("-d, --drafter and -hfd, --hf-repo-draft: found both, expected one of them")
    places: dict[str, Any] = {"token": options.hf_token, "local_files_only": options.offline}
    drafter = options.drafter
    if options.hf_repo_draft:
        drafter = os.fspath(find_model(options.hf_repo_draft, is_drafter=True, **places))
    if options.hf_repo:
        return os.fspath(find_model(options.hf_repo, options.hf_file, **places)), drafter
    if options.model:
        return options.model, drafter
    target, own = demo_paths()
    return os.fspath(target), drafter or os.fspath(own)


def _keys(options: argparse.Namespace) -> tuple[str, ...]:
    given = (options.api_key or os.environ.get("LLAMA_API_KEY", "")).split(",")
    if options.api_key_file is not None:
        found = options.api_key_file.read_text(encoding="utf-8").splitlines()
        given += found
        if not any(line.strip() for line in found):
            raise ValueError(f"{options.api_key_file}: found no key, expected one in each line")
    return tuple(key.strip() for key in given if key.strip())


def _template(options: argparse.Namespace) -> dict[str, Any]:
    if options.chat_template and options.chat_template_file:
        raise ValueError("--chat-template and --chat-template-file: found both, expected one of them")
    found: dict[str, Any] = {}
    if options.chat_template or options.chat_template_file:
        found["chat_template"] = options.chat_template or options.chat_template_file
    if options.chat_template_kwargs:
        try:
            found["chat_template_kwargs"] = json.loads(options.chat_template_kwargs)
        except ValueError as error:
            raise ValueError(f"--chat-template-kwargs: found no valid JSON ({error}), expected an object") from None
        if not isinstance(found["chat_template_kwargs"], dict):
            raise ValueError("--chat-template-kwargs: expected a JSON object")
    return found


def _settings(options: argparse.Namespace) -> Settings:
    """The settings; ValueError with the flag's name where one is not possible."""
    sampling = {row["name"]: getattr(options, row["name"]) for row in _SAMPLING if row["name"] != "max_tokens"}
    values: dict[str, Any] = {
        "alias": options.alias,
        "any_model": options.any_model,
        "keys": _keys(options),
        "cache_scope": options.cache_scope,
        "cors_origins": tuple(origin.strip() for origin in options.cors_origins.split(",") if origin.strip()),
        "sampling": cast(Options, sampling),
        "max_tokens": options.max_tokens,
        "max_queue": options.max_queue,
        "max_body": options.max_body,
        "queue_timeout": options.queue_timeout,
        "grace": options.grace,
        "slots": options.slots,
        "page": options.page,
        "reasoning_format": options.reasoning_format,
        "template": _template(options),
    }
    try:
        return Settings(**values)
    except ValueError as error:
        name, _, found = str(error).partition(": ")
        flags = {row["name"]: row["flags"] for row in _SAMPLING}
        raise ValueError(f"{flags.get(name, '--' + name.replace('_', '-'))}: {found}") from None


def serve(arguments: Sequence[str]) -> None:
    """Reads the command line and serves until a signal ends it.

    Raises:
        ValueError: The command line is wrong, or the model.
        MissingPackage: The extra is not installed.
        FileNotFoundError: A file is not there.
    """
    options = _parsed(arguments)
    for package in ("fastapi", "uvicorn"):
        require(package, "the server", _EXTRA)
    from frspec_cpp.async_llm import AsyncLLM
    from frspec_cpp.server.service import Service
    from frspec_cpp.server.serving import Server

    settings = _settings(options)
    target, drafter = _models(options)
    given = {row["name"]: getattr(options, row["name"]) for row in ENGINE_OPTIONS}
    loading = keep_apart(settings.keys, {name: value for name, value in given.items() if value is not None})
    engine = AsyncLLM(target, drafter, max_queue=settings.max_queue, **loading)
    server = Server(Service(engine, target, settings), options.host, options.port)
    server.run()
    if server.error is not None:
        raise server.error
    if engine.is_loaded:
        engine.llm.close()  # which waits for a text that was cancelled, and saves ranks that adapt


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the server; returns the exit code: 0, or 1 for an error."""
    warnings.simplefilter("default")
    given = sys.argv[1:] if arguments is None else arguments
    if any(argument in ("-h", "--help", "--help-all") for argument in given):
        print(_parser().format_help(), end="")
        return 0
    return run(PROGRAM, lambda: serve(given))
