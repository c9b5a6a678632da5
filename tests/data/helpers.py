"""Data files that tests write, and the error messages of their readers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from r1jax.data.problems.files import read_problems
from r1jax.data.problems.problem import Checker, Problem
from r1jax.errors import UserError


def write_lines(path: Path, *rows: Any) -> str:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return str(path)


def write(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return path


def write_table(path: Path, **columns: Any) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def read_all(path: Path | str, checker: Checker = "number") -> list[Problem]:
    return [problem for _, problem in read_problems(str(path), checker).problems]


def refusal(read: Callable[[Any], object], path: Path) -> str:
    with pytest.raises(UserError) as error:
        read(path)
    message = str(error.value)
    message.encode()
    assert message.startswith(str(path)) and "\n" not in message and len(message) < len(str(path)) + 220
    return message.removeprefix(str(path))
