"""Rows of JSON lines and parquet files, which every reader of a data set starts from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from r1jax.errors import UserError

SUFFIXES = (".jsonl", ".parquet")


def read_rows(
    path: str | Path, columns: Sequence[str], parse_float: Callable[[str], Any] = float
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (location, row) for each row of a .jsonl or .parquet file; error messages start with the location.

    columns: the columns that are checked, and the only ones that are read from a parquet file.
    parse_float: converts JSON numbers that have a decimal point or an exponent.

    Raises:
      UserError: if the file does not exist, a line is not a JSON object, or one of ``columns`` appears twice, holds
        text that is not valid Unicode, or is nested more than 100 levels deep. The message names the line or row.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"no file {path}: check the path")
    for location, row in _parquet(file, columns) if file.suffix == ".parquet" else _json_lines(file, parse_float):
        for column in columns:
            _check_unicode(row.get(column), f"{location}: column {column!r}")
        yield location, row


def preview(value: Any) -> str:
    """A value for an error message: one line of at most 63 characters."""
    text = f"{value}" if isinstance(value, Decimal) else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _check_unicode(value: Any, location: str) -> None:
    """Raises UserError for half of a surrogate pair, which JSON can express but no tokenizer can encode."""
    level, depth = [value], 0
    while level:
        for text in level:
            if isinstance(text, str):
                try:
                    text.encode()
                except UnicodeEncodeError as error:
                    raise UserError(
                        f"{location} holds \\u{ord(text[error.start]):04x}, half of a surrogate pair, at character "
                        f"{error.start + 1} of {preview(text)}: write the whole pair or the character itself"
                    ) from error
        inner = [[*one, *one.values()] if isinstance(one, dict) else one for one in level]
        level, depth = [part for one in inner if isinstance(one, list) for part in one], depth + 1
        if depth > 100:
            raise UserError(f"{location} is nested more than 100 levels deep: write a flat value")


def _json_lines(file: Path, parse_float: Callable[[str], Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (location, object) for each line that is not blank."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} is not readable: {error.strerror}") from error
    try:
        lines = data.decode("utf-8").split("\n")  # splitlines would also split at U+2028 inside a string
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{file}, line {line}: not UTF-8 ({error.reason} at byte {error.start} of the file): save it as UTF-8"
        ) from error
    for i, line in enumerate(lines, start=1):
        location, line = f"{file}, line {i}", line.removeprefix("\ufeff")
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_float=parse_float, object_pairs_hook=_unique)
        except json.JSONDecodeError as error:
            place = f"{location}, character {error.colno}"
            raise UserError(f"{place}: not JSON ({error.msg}): write one object on each line") from error
        except (ValueError, ArithmeticError, RecursionError) as error:
            reason = str(error).partition(":")[0].partition(";")[0]
            raise UserError(f"{location}: not readable ({reason}): write one plain object on each line") from error
        if not isinstance(row, dict):
            raise UserError(f"{location}: write an object, not {line[:40]}")
        yield location, row


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of a JSON parser's pairs; raises ValueError for a repeated key."""
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} appears twice")
    return row


def _parquet(file: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (location, row) with those of ``columns`` that the file has."""
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
        names = table.schema_arrow.names
        for name in columns:
            if names.count(name) > 1:
                raise UserError(f"{file}: column {name!r} appears twice: remove one")
        done = 0
        for batch in table.iter_batches(columns=[name for name in columns if name in names]):
            for i in range(batch.num_rows):
                location = f"{file}, row {done + i + 1}"
                yield location, {n: _cell(batch.column(n)[i], f"{location}: column {n!r}") for n in batch.schema.names}
            done += batch.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{file} is not a readable parquet file: {str(error).splitlines()[0]}") from error


def _cell(scalar: Any, location: str) -> Any:
    """The Python value of a pyarrow scalar; floats below 64 bits get the fewest decimal digits that identify them."""
    import pyarrow

    try:
        value = scalar.as_py()
    # Raised for invalid UTF-8, a date out of range, or an unknown time zone.
    except (ValueError, OverflowError, KeyError, ImportError) as error:
        raise UserError(f"{location} is not readable ({str(error).splitlines()[0]})") from error
    if isinstance(value, float) and pyarrow.types.is_floating(scalar.type) and scalar.type.bit_width < 64:
        return float(str(scalar.type.to_pandas_dtype()(value)))
    return value
