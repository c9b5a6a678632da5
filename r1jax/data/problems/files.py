"""Problems from files, folders and data sets of the hub, in the shapes of r1jax.data.problems.shapes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from r1jax.data.formats.rows import Row, first_rows, nested, preview, read_rows
from r1jax.data.formats.sources import origin
from r1jax.data.problems.code_rows import READERS
from r1jax.data.problems.problem import Checker, KeyedProblem, Problem, question_key
from r1jax.data.problems.questions import question_text, read_messages
from r1jax.data.problems.shapes import Shape, kind_name, placed_answer, recognise
from r1jax.data.text.numbers import MAX_EXPONENT, parse_number, plain
from r1jax.errors import UserError

_CHECKERS: tuple[Checker, ...] = ("number", "math", "exact")
_FIRST = 100  # rows in which a shape is looked for


@dataclasses.dataclass(frozen=True)
class FoundProblems:
    """The problems of a source in its order. shape: None if it has no rows. skipped: the number of rows left out."""

    problems: tuple[KeyedProblem, ...]
    shape: Shape | None
    skipped: int = 0


def read_problems(
    source: str, checker: Checker, columns: Sequence[str] = (), skip_unreadable: bool = False
) -> FoundProblems:
    """Reads the problems in the rows of a source that read_rows accepts.

    Rows with the columns ``prompt`` (text) and ``answer`` (text or number) may have ``kind`` (text; default: the name
    of the file or data set), ``checker`` (number, math or exact; default: the argument) and ``language`` (such as en or
    zh); r1jax.data.problems.shapes lists the other shapes. Other columns are ignored. A numeric answer becomes its
    decimal digits without rounding: 1e3 is 1000, 0.50 is 0.5. Rows with tests of programs become problems with the
    checker "code".

    Args:
      checker: "number" stands for the checker of the shape, if it has one.
      columns: FIELD=COLUMN, for rows of another shape.
      skip_unreadable: leave out rows without a question or an answer that can be judged.

    Raises:
      UserError: names the file, the line or row, and the column that is wrong.
    """
    shape = _shape(source, columns)
    if shape is None:
        return FoundProblems((), None)
    kind = _name(source)
    problems, skipped = [], 0
    for location, row in read_rows(source, shape.columns, Decimal):
        try:
            problems.append(row_problem(row, location, shape, kind, checker))
        except UserError:
            if not skip_unreadable:
                raise
            skipped += 1
    return FoundProblems(tuple(problems), shape, skipped)


def _shape(source: str, columns: Sequence[str]) -> Shape | None:
    """The shape of the first row that has one, since a row may lack its answer; None for a source without rows.

    Raises the error of the first row if none of the first _FIRST rows has a shape.
    """
    refused: UserError | None = None
    for location, row in first_rows(source, _FIRST):
        try:
            return recognise(row, location, columns)
        except UserError as error:
            refused = refused or error
    if refused:
        raise refused
    return None


def _name(source: str) -> str:
    """The default kind: the name of a file without its suffix, or of a folder or data set without config and split."""
    if source.startswith("hf:"):
        return kind_name(source.removeprefix("hf:").partition("@")[0].partition(":")[0].split("/")[1])
    return origin(source).absolute().stem


def row_problem(row: Mapping[str, Any], location: str, shape: Shape, kind: str, checker: Checker) -> KeyedProblem:
    """The problem in a row of a shape, with its question as its key. kind: of rows without a kind of their own.

    checker, Raises: as in read_problems.
    """
    row = dict(row)
    for column in (shape.prompt, shape.answer):
        if nested(row, column) is None:
            raise UserError(f"{location}: no column {column!r}: each row needs {shape.prompt!r} and {shape.answer!r}")
    if shape.code and (problem := READERS[shape.code]({**row, "prompt": nested(row, shape.prompt)}, location)):
        language = _optional_text(row, shape.language, location, "its short name, such as en or zh")
        kind = _kind(row, shape, location) or problem.kind
        return question_key(problem.question), dataclasses.replace(problem, kind=kind, language=language)
    question = question_text(nested(row, shape.prompt), shape.prompt, location)
    answer = _answer(nested(row, shape.answer), shape, location)
    kind = _kind(row, shape, location) or kind
    own = _optional_text(row, shape.checker, location, f"{', '.join(_CHECKERS)} or nothing")
    given = own or checker
    if given not in _CHECKERS:
        raise UserError(
            f"{location}: column {shape.checker!r} is {preview(given)}: write {', '.join(_CHECKERS)} or nothing"
        )
    is_number = given == "number" and parse_number(answer) is not None
    if given == "number" and not own and (shape.judged == "math" or (shape.judged == "either" and not is_number)):
        given = "math"
    if not answer.strip() or (given != "exact" and not is_number and not plain(answer).strip()):
        raise UserError(
            f"{location}: column {shape.answer!r} is {preview(answer)}, which is empty: write the expected answer"
        )
    if given == "number" and not is_number:
        if shape.judged == "number":
            raise UserError(
                f"{location}: column {shape.answer!r} ends in {answer[-40:]!r}: write the number after ####"
            )
        raise UserError(
            f"{location}: column {shape.answer!r} is {preview(answer)}, not a number: write only the number, or set "
            "the checker to math or exact"
        )
    language = _optional_text(row, shape.language, location, "its short name, such as en or zh")
    return question_key(question), Problem(question, answer, kind, given, language=language)


def _kind(row: Row, shape: Shape, location: str) -> str:
    if shape.kind in (None, "kind"):
        return _optional_text(row, shape.kind, location, "a name")
    value = nested(row, shape.kind)
    if isinstance(value, float | Decimal) and math.isfinite(value) and abs(value) < 2**53 and value == int(value):
        value = int(value)  # a column of integers with gaps has floats
    return kind_name(value) if isinstance(value, str | int) else ""


def _optional_text(row: Row, column: str | None, location: str, wanted: str) -> str:
    """The text of a column that may be left out, "" if the row does not have it."""
    value = None if column is None else nested(row, column)
    if value is not None and not isinstance(value, str):
        raise UserError(f"{location}: column {column!r} is {preview(value)}: write {wanted}")
    return (value or "").strip()


def _answer(value: Any, shape: Shape, location: str) -> str:
    """The answer in the value of its column: text at the place of the shape, the text of a reply, or a number."""
    if shape.place != "whole":
        value = read_messages(value, shape.answer, location)
    if shape.place != "whole" and isinstance(value, list) and len(value) == 1:  # alternatives, or one message
        value = value[0].get("content") if isinstance(value[0], dict) else value[0]
    if isinstance(value, float):
        value = Decimal(str(value))
    if isinstance(value, Decimal) and value.is_finite() and abs(value.adjusted()) <= MAX_EXPONENT:
        return f"{value:f}".rstrip("0") if value != value.to_integral_value() else f"{int(value)}"
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UserError(f"{location}: column {shape.answer!r} is {preview(value)}: write text or a number")
    answer = placed_answer(str(value), shape.place)
    if answer is None:
        sign = "####" if shape.place == "marked" else r"\boxed{}"
        raise UserError(
            f"{location}: column {shape.answer!r} has no {sign}, where its answer should be: "
            f"{preview(value)}: correct it, or add --problems.skip-unreadable"
        )
    return answer
