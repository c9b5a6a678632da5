"""Problems from JSON lines or parquet with the columns ``prompt`` and ``answer``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from r1jax.data.number import parse_number
from r1jax.data.problem import Checker, KeyedProblem, Problem
from r1jax.errors import UserError

SUFFIXES = (".jsonl", ".parquet")

_CHECKERS: tuple[Checker, ...] = ("number", "math", "exact")


def read(path: str, checker: Checker) -> Iterator[KeyedProblem]:
    """The rows of a .jsonl or .parquet file in their order.

    Columns: ``prompt`` (text), ``answer`` (text or number), and where they are present ``kind`` (text; the file's name
    otherwise), ``checker`` (number, math or exact; the argument otherwise) and ``language`` (such as en or zh). Others
    are ignored.

    Raises:
      UserError: naming the file, and the line or row and the column that is wrong.
    """
    rows_of_file = rows(path, ("prompt", "answer", "kind", "checker", "language"))
    kind = Path(path).stem
    return (_problem(row, where, kind, checker) for where, row in rows_of_file)


def rows(path: str | Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it stands, row) of each row of a .jsonl or .parquet file; of the latter ``columns`` alone are read.

    Raises:
      UserError: where there is no such file, or naming the line that is no JSON object.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"no file {path}: check the path")
    return _parquet(file, columns) if file.suffix == ".parquet" else _json_lines(file)


def _json_lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")  # splitlines would also cut at U+2028 inside a string
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from error
    for i, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            where = f"{file}, line {i}, character {error.colno}"
            raise UserError(f"{where}: not JSON ({error.msg}): write one object on each line") from error
        if not isinstance(row, dict):
            raise UserError(f"{file}, line {i}: write an object, not {line[:40]}")
        yield f"{file}, line {i}", row


def _parquet(file: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{file} is not a readable parquet file: {str(error).splitlines()[0]}") from error
    present = [name for name in columns if name in table.schema_arrow.names]
    for i, row in enumerate(table.read(present).to_pylist(), start=1):
        yield f"{file}, row {i}", row


def _problem(row: dict[str, Any], where: str, kind: str, checker: Checker) -> KeyedProblem:
    for column in ("prompt", "answer"):
        if row.get(column) is None:
            raise UserError(f"{where}: no column {column!r}: each row needs 'prompt' and 'answer'")
    question, answer = row["prompt"], row["answer"]
    if not isinstance(question, str) or not question.strip():
        raise UserError(f"{where}: column 'prompt' is {question!r}: write some text")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise UserError(f"{where}: column 'answer' is {answer!r}: write text or a number")
    kind = row.get("kind") or kind
    if not isinstance(kind, str):
        raise UserError(f"{where}: column 'kind' is {kind!r}: write a name")
    checker = row.get("checker") or checker
    if checker not in _CHECKERS:
        raise UserError(f"{where}: column 'checker' is {checker!r}: write {', '.join(_CHECKERS)} or nothing")
    if checker == "number" and parse_number(str(answer)) is None:
        raise UserError(f"{where}: column 'answer' is {answer!r}, not a number: set the checker to math or exact")
    language = row.get("language") or ""
    if not isinstance(language, str):
        raise UserError(f"{where}: column 'language' is {language!r}: write its short name, such as en or zh")
    return question, Problem(question, str(answer), kind, checker, language=language)
