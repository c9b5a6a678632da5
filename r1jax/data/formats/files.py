"""Problems from JSON lines or parquet with the columns ``prompt`` and ``answer``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from r1jax.data.problems.problem import Checker, KeyedProblem, Problem
from r1jax.data.text.numbers import MAX_EXPONENT, parse_number, plain
from r1jax.errors import UserError

SUFFIXES = (".jsonl", ".parquet")

_CHECKERS: tuple[Checker, ...] = ("number", "math", "exact")


def read(path: str, checker: Checker) -> Iterator[KeyedProblem]:
    """The rows of a .jsonl or .parquet file in their order.

    Columns: ``prompt`` (text), ``answer`` (text or number), and where they are present ``kind`` (text; the file's name
    otherwise), ``checker`` (number, math or exact; the argument otherwise) and ``language`` (such as en or zh). Others
    are ignored. An answer that is a number becomes its decimal digits, without rounding: 1e3 is 1000 and 0.50 is 0.5.

    Raises:
      UserError: naming the file, and the line or row and the column that is wrong.
    """
    rows_of_file = rows(path, ("prompt", "answer", "kind", "checker", "language"), Decimal)
    kind = Path(path).stem
    return (_problem(row, where, kind, checker) for where, row in rows_of_file)


def rows(
    path: str | Path, columns: Sequence[str], parse_float: Callable[[str], Any] = float
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it stands, row) of each row of a .jsonl or .parquet file; of the latter ``columns`` alone are read.

    parse_float: what makes a number of the digits in JSON lines where there is a point or an exponent.

    Raises:
      UserError: where there is no such file, or naming the line or row that is no JSON object, that has one of
        ``columns`` twice, or text there that is no Unicode, or values nested more than 100 deep.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"no file {path}: check the path")
    for where, row in _parquet(file, columns) if file.suffix == ".parquet" else _json_lines(file, parse_float):
        for column in columns:
            _check_unicode(row.get(column), f"{where}: column {column!r}")
        yield where, row


def shown(value: Any) -> str:
    """A value as messages show it: on one line, and not too long."""
    text = f"{value}" if isinstance(value, Decimal) else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _check_unicode(value: Any, where: str) -> None:
    """Raises UserError for text with half of a surrogate pair, which JSON can write and no tokenizer can read."""
    level, depth = [value], 0
    while level:
        for text in level:
            if isinstance(text, str):
                try:
                    text.encode()
                except UnicodeEncodeError as error:
                    raise UserError(
                        f"{where} holds \\u{ord(text[error.start]):04x}, half of a surrogate pair, at character "
                        f"{error.start + 1} of {shown(text)}: write the whole pair or the character itself"
                    ) from error
        inner = [[*one, *one.values()] if isinstance(one, dict) else one for one in level]
        level, depth = [part for one in inner if isinstance(one, list) for part in one], depth + 1
        if depth > 100:
            raise UserError(f"{where} is nested more than 100 deep: write it flat")


def _json_lines(file: Path, parse_float: Callable[[str], Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} is not readable: {error.strerror}") from error
    try:
        lines = data.decode("utf-8").split("\n")  # splitlines would also cut at U+2028 inside a string
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{file}, line {line}: not UTF-8 ({error.reason} at byte {error.start} of the file): save it as UTF-8"
        ) from error
    for i, line in enumerate(lines, start=1):
        where, line = f"{file}, line {i}", line.removeprefix("\ufeff")
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_float=parse_float, object_pairs_hook=_unique)
        except json.JSONDecodeError as error:
            place = f"{where}, character {error.colno}"
            raise UserError(f"{place}: not JSON ({error.msg}): write one object on each line") from error
        except (ValueError, ArithmeticError, RecursionError) as error:
            reason = str(error).partition(":")[0].partition(";")[0]
            raise UserError(f"{where}: not readable ({reason}): write one plain object on each line") from error
        if not isinstance(row, dict):
            raise UserError(f"{where}: write an object, not {line[:40]}")
        yield where, row


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


def _parquet(file: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
        names = table.schema_arrow.names
        for name in columns:
            if names.count(name) > 1:
                raise UserError(f"{file}: column {name!r} is there twice: leave one out")
        done = 0
        for batch in table.iter_batches(columns=[name for name in columns if name in names]):
            for i in range(batch.num_rows):
                where = f"{file}, row {done + i + 1}"
                yield where, {n: _cell(batch.column(n)[i], f"{where}: column {n!r}") for n in batch.schema.names}
            done += batch.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{file} is not a readable parquet file: {str(error).splitlines()[0]}") from error


def _cell(scalar: Any, where: str) -> Any:
    """The Python value of a pyarrow scalar; a float of 32 or 16 bits has the shortest decimal digits that give it."""
    import pyarrow

    try:
        value = scalar.as_py()
    except (ValueError, OverflowError, KeyError, ImportError) as error:  # no UTF-8, a far date, an unknown time zone
        raise UserError(f"{where} is not readable ({str(error).splitlines()[0]})") from error
    if isinstance(value, float) and pyarrow.types.is_floating(scalar.type) and scalar.type.bit_width < 64:
        return float(str(scalar.type.to_pandas_dtype()(value)))
    return value


def _problem(row: dict[str, Any], where: str, kind: str, checker: Checker) -> KeyedProblem:
    for column in ("prompt", "answer"):
        if row.get(column) is None:
            raise UserError(f"{where}: no column {column!r}: each row needs 'prompt' and 'answer'")
    question = row["prompt"]
    if not isinstance(question, str) or not question.strip():
        raise UserError(f"{where}: column 'prompt' is {shown(question)}: write some text")
    answer = _answer(row["answer"], where)
    kind = _name(row, "kind", where, "a name") or kind
    given = _name(row, "checker", where, f"{', '.join(_CHECKERS)} or nothing") or checker
    if given not in _CHECKERS:
        raise UserError(f"{where}: column 'checker' is {shown(given)}: write {', '.join(_CHECKERS)} or nothing")
    if not answer.strip() or (given != "exact" and not plain(answer).strip()):
        raise UserError(f"{where}: column 'answer' is {shown(answer)}, which is empty: any empty answer would be right")
    if given == "number" and parse_number(answer) is None:
        raise UserError(
            f"{where}: column 'answer' is {shown(answer)}, not a number: write the number alone, or set the "
            "checker to math or exact"
        )
    language = _name(row, "language", where, "its short name, such as en or zh")
    return question, Problem(question, answer, kind, given, language=language)


def _name(row: dict[str, Any], column: str, where: str, wanted: str) -> str:
    """The text of a column that may be left out, "" where it is."""
    value = row.get(column)
    if value is not None and not isinstance(value, str):
        raise UserError(f"{where}: column {column!r} is {shown(value)}: write {wanted}")
    return (value or "").strip()


def _answer(value: Any, where: str) -> str:
    if isinstance(value, float):
        value = Decimal(str(value))
    if isinstance(value, Decimal) and value.is_finite() and abs(value.adjusted()) <= MAX_EXPONENT:
        return f"{value:f}".rstrip("0") if value != value.to_integral_value() else f"{int(value)}"
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UserError(f"{where}: column 'answer' is {shown(value)}: write text or a number")
    return str(value)
