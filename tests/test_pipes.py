"""Commands whose output nothing reads any more."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT


def status_and_errors(code: str, both: bool = False) -> tuple[int, str]:
    """Status and stderr of code whose output, and errors if ``both``, go into a pipe without a reader."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", f"import os, sys\nfrom r1jax import cli\n{code}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}  # most output comes at the exit
    errors = subprocess.STDOUT if both else subprocess.PIPE
    try:
        found = subprocess.run(command, stdout=writer, stderr=errors, text=True, env=environment, check=False)
    finally:
        os.close(writer)
    return found.returncode, found.stderr or ""


PARSE = """
import dataclasses
@dataclasses.dataclass(frozen=True)
class Config:
    n: int = 1
    "A number."
cli.call_and_exit(lambda: cli.parse({"p": ("A preset.", Config())}, "p", args=["--help"]))
"""


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        pytest.param(PARSE, 141, id="help"),
        pytest.param("cli.call_and_exit(lambda: print('x' * 10**6))", 141, id="print"),
        pytest.param(
            "from rich.console import Console\ncli.call_and_exit(lambda: Console().print('x'))", 141, id="rich"
        ),
        pytest.param("cli.call_and_exit(lambda: (print('x'), sys.exit(2)))", 2, id="error"),
    ],
)
def test_a_command_ends_quietly_when_its_reader_has_left(code: str, expected: int) -> None:
    assert status_and_errors(code) == (expected, "")


def test_errors_may_go_into_the_same_pipe() -> None:
    assert status_and_errors("cli.call_and_exit(lambda: print('x', file=sys.stderr, flush=True))", both=True)[0] == 141


def test_a_broken_pipe_of_a_worker_is_an_error() -> None:
    code = """
def main():
    reader, writer = os.pipe()
    os.close(reader)
    os.write(writer, b"x")
os.dup2(2, 1)
cli.call_and_exit(main)
"""
    status, errors = status_and_errors(code)
    assert status == 1 and errors.strip().endswith("BrokenPipeError: [Errno 32] Broken pipe")


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*.py")), ids=lambda path: path.name)
def test_every_experiment_ends_in_this_way(path) -> None:
    last = path.read_text().rpartition('if __name__ == "__main__":\n')[2]
    assert "call_and_exit(main" in last
