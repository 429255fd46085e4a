"""`frspec-download`: fetches a model by its name on the Hugging Face Hub, and prints where it lies.

The binary `frspec` asks it for what its options -hf and -hfd name.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from frspec_cpp.hub import find_model

from .console import describe, note, run

PROGRAM = "frspec-download"
_REFUSED = 3  # exit code where standard output holds what is wrong (cpp/cli/hub.cpp)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Fetches a GGUF model of the Hugging Face Hub into the hub's cache, where it is not there yet, and "
        "prints its path.",
    )
    result.add_argument("repo", metavar="USER/REPO[:QUANT]", help="QUANT: default Q4_K_M, or else the first file")
    result.add_argument("--file", metavar="FILE", help="instead of QUANT: a file of it, or a pattern: '*q8_0.gguf'")
    result.add_argument("--drafter", action="store_true", help="a drafter is meant, where it has both")
    result.add_argument("--revision", metavar="REVISION", help="a branch, a tag or a commit; default: main")
    result.add_argument("--local-dir", type=Path, metavar="FOLDER", help="put the files there, not into the cache")
    result.add_argument("--offline", action="store_true", help="take only what is in the cache")
    result.add_argument("--for-binary", action="store_true", help=argparse.SUPPRESS)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the tool; returns the exit code: 0, 1 for an error, 130 for Ctrl-C."""
    options = parser().parse_args(arguments)
    speaker = "frspec" if options.for_binary else PROGRAM
    warnings.showwarning = lambda message, *_: note(f"{speaker}: {message}")
    refusals: list[str] = []

    def command() -> None:
        try:
            path = find_model(
                options.repo,
                options.file,
                is_drafter=options.drafter,
                revision=options.revision,
                local_dir=options.local_dir,
                local_files_only=options.offline,
            )
        except (ImportError, OSError, ValueError, RuntimeError) as error:
            if not options.for_binary:
                raise RuntimeError(describe(error)) from error
            refusals.append(describe(error))
        else:
            print(path)

    code = run(PROGRAM, command)
    if refusals:
        print(refusals[0])
        return _REFUSED
    return code


if __name__ == "__main__":
    sys.exit(main())
