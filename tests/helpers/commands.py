"""Commands of experiments/ called in this process; a new process would import and trace everything again."""

from __future__ import annotations

import contextlib
import io
import runpy
import sys
import warnings
from typing import Any
from unittest import mock

from tests.helpers.paths import ROOT


def call(script: str, *arguments: object) -> tuple[int, str, str]:
    """Status, stdout and stderr of ``python experiments/<script> <arguments>``, executed in this process.

    The script is executed from its first line as ``__main__``. It shares compiled programs and the eight devices with
    the tests. Tests of signals, of killed processes, or of resuming from the run folder alone need a new process.
    """
    stdout, stderr = io.StringIO(), io.StringIO()

    def show(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
        stderr.write(warnings.formatwarning(message, category, filename, lineno, line))

    with (
        contextlib.chdir(ROOT),
        mock.patch.object(sys, "argv", [script, *map(str, arguments)]),
        warnings.catch_warnings(),
        mock.patch.object(warnings, "formatwarning", warnings.formatwarning),  # the script replaces it
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        warnings.showwarning = show  # pytest would collect the warnings
        warnings.onceregistry.clear()  # pyright: ignore[reportAttributeAccessIssue]
        status = 0
        try:
            runpy.run_path(str(ROOT / "experiments" / script), run_name="__main__")
        except SystemExit as end:
            status = end.code or 0
    return int(status), stdout.getvalue(), stderr.getvalue()
