"""Problems from JSON lines or parquet files with the columns ``prompt`` and ``answer``."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from r1jax.data.formats.rows import preview, read_rows
from r1jax.data.problems.problem import Checker, KeyedProblem, Problem
from r1jax.data.text.numbers import MAX_EXPONENT, parse_number, plain
from r1jax.errors import UserError

_CHECKERS: tuple[Checker, ...] = ("number", "math", "exact")


def read_problems(path: str, checker: Checker) -> Iterator[KeyedProblem]:
    """The problems in the rows of a .jsonl or .parquet file, in the order of the file.

    Columns: ``prompt`` (text), ``answer`` (text or number), and optionally ``kind`` (text; default: the file name
    without its suffix), ``checker`` (number, math or exact; default: the argument) and ``language`` (such as en or zh).
    Other columns are ignored. A numeric answer becomes its decimal digits without rounding: 1e3 is 1000, 0.50 is 0.5.

    Raises:
      UserError: names the file, the line or row, and the column that is wrong.
    """
    rows = read_rows(path, ("prompt", "answer", "kind", "checker", "language"), Decimal)
    kind = Path(path).stem
    return (_problem(row, location, kind, checker) for location, row in rows)


def _problem(row: dict[str, Any], location: str, kind: str, checker: Checker) -> KeyedProblem:
    for column in ("prompt", "answer"):
        if row.get(column) is None:
            raise UserError(f"{location}: no column {column!r}: each row needs 'prompt' and 'answer'")
    question = row["prompt"]
    if not isinstance(question, str) or not question.strip():
        raise UserError(f"{location}: column 'prompt' is {preview(question)}: write some text")
    answer = _answer(row["answer"], location)
    kind = _optional_text(row, "kind", location, "a name") or kind
    given = _optional_text(row, "checker", location, f"{', '.join(_CHECKERS)} or nothing") or checker
    if given not in _CHECKERS:
        raise UserError(f"{location}: column 'checker' is {preview(given)}: write {', '.join(_CHECKERS)} or nothing")
    if not answer.strip() or (given != "exact" and not plain(answer).strip()):
        raise UserError(f"{location}: column 'answer' is {preview(answer)}, which is empty: write the expected answer")
    if given == "number" and parse_number(answer) is None:
        raise UserError(
            f"{location}: column 'answer' is {preview(answer)}, not a number: write only the number, or set the "
            "checker to math or exact"
        )
    language = _optional_text(row, "language", location, "its short name, such as en or zh")
    return question, Problem(question, answer, kind, given, language=language)


def _optional_text(row: dict[str, Any], column: str, location: str, wanted: str) -> str:
    """The text of a column that may be left out, "" if the row does not have it."""
    value = row.get(column)
    if value is not None and not isinstance(value, str):
        raise UserError(f"{location}: column {column!r} is {preview(value)}: write {wanted}")
    return (value or "").strip()


def _answer(value: Any, location: str) -> str:
    if isinstance(value, float):
        value = Decimal(str(value))
    if isinstance(value, Decimal) and value.is_finite() and abs(value.adjusted()) <= MAX_EXPONENT:
        return f"{value:f}".rstrip("0") if value != value.to_integral_value() else f"{int(value)}"
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UserError(f"{location}: column 'answer' is {preview(value)}: write text or a number")
    return str(value)
