"""What the command line tools share."""

from __future__ import annotations

import warnings

import pytest
from frspec_cpp.tools.console import run

from frspec_cpp import ModelWarning


def test_warnings_are_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        warnings.warn("model.gguf: key 'x': found 5", ModelWarning, stacklevel=1)
        warnings.warn("of two\nlines", UserWarning, stacklevel=1)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run("frspec-tool", command) == 0
    shown = "frspec-tool: warning: model.gguf: key 'x': found 5\nfrspec-tool: warning: of two lines\n"
    assert capsys.readouterr().err == shown
