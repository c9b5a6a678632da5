"""Readers of one data file each: JSON lines, JSON, csv and parquet, plain or compressed with gzip."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from r1jax.errors import UserError

Row = dict[str, Any]
Rows = Iterator[tuple[str, Row]]  # (location for error messages, row)
ParseFloat = Callable[[str], Any]

# If a split is stored in several formats, the first one is read.
FORMATS = (".parquet", ".jsonl", ".json", ".csv", ".tsv")
SUFFIXES = (*FORMATS, *(f"{one}.gz" for one in FORMATS[1:]))
_POINTER = b"version https://git-lfs"


def data_format(name: str | Path) -> str:
    """The suffix of a data file without .gz, in lower case; ".jsonl" for names that have none of FORMATS."""
    suffix = PurePosixPath(str(name).lower().removesuffix(".gz")).suffix
    return suffix if suffix in FORMATS else ".jsonl"


def read_file(
    file: Path, shown: str, columns: Sequence[str] | None, parse_float: ParseFloat, header: Sequence[str] = ()
) -> Rows:
    """Yields (location, row) for each row of a file.

    Args:
      shown: the name of the file in error messages.
      columns: the columns to read from a parquet file, with dots for nested ones; None: all. Other formats are read
        whole.
      parse_float: converts JSON numbers that have a decimal point or an exponent.
      header: the columns of a csv file without a line of names: one whose first line has as many cells, and another
        text than the first of these names in its first cell.

    Raises:
      UserError: if the file is not readable; names the line or row.
    """
    kind = data_format(file)
    _check_pointer(file, shown)
    if kind == ".parquet":
        yield from _parquet(file, shown, columns)
        return
    data = _bytes(file, shown)
    if kind in (".csv", ".tsv"):
        yield from _csv(data, shown, "," if kind == ".csv" else "\t", header)
    elif kind == ".json":
        yield from _json(data, shown, parse_float)
    else:
        yield from _json_lines(data, shown, parse_float)


def _bytes(file: Path, shown: str) -> bytes:
    try:
        data = file.read_bytes()
        return gzip.decompress(data) if file.suffix.lower() == ".gz" else data
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{shown} is not a whole gzip file ({error}): download it again") from error
    except OSError as error:
        raise UserError(f"{shown} is not readable: {error.strerror}") from error


def _check_pointer(file: Path, shown: str) -> None:
    """Raises UserError for a pointer of Git LFS, which a clone without Git LFS has instead of the file."""
    try:
        with file.open("rb") as stream:
            start = stream.read(len(_POINTER))
    except OSError as error:
        raise UserError(f"{shown} is not readable: {error.strerror}") from error
    if start == _POINTER:
        raise UserError(f"{shown} is a pointer of Git LFS and not the file: run 'git lfs pull', or download it again")


def _decoded(data: bytes, shown: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{shown}, line {line}: not UTF-8 ({error.reason} at byte {error.start} of the file): save it as UTF-8"
        ) from error


def _json_lines(data: bytes, shown: str, parse_float: ParseFloat) -> Rows:
    """Yields (location, object) for each line that is not blank."""
    lines = _decoded(data, shown).split("\n")  # splitlines would also split at U+2028 inside a string
    for i, line in enumerate(lines, start=1):
        location, line = f"{shown}, line {i}", line.removeprefix("\ufeff")
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_float=parse_float, object_pairs_hook=_unique)
        except json.JSONDecodeError as error:
            place = f"{location}, character {error.colno}"
            raise UserError(f"{place}: not JSON ({error.msg}): write one object on each line") from error
        except (ValueError, ArithmeticError, RecursionError) as error:
            raise UserError(
                f"{location}: not readable ({_brief(error)}): write one plain object on each line"
            ) from error
        if not isinstance(row, dict):
            raise UserError(f"{location}: write an object, not {line[:40]}")
        yield location, row


def _json(data: bytes, shown: str, parse_float: ParseFloat) -> Rows:
    """Yields (location, object) for a list of objects, an object that contains one list of objects, or one object.

    Many files that are named .json contain JSON lines, and these are read as such. An object of columns, as pandas
    writes it, is read row by row.
    """
    text = _decoded(data, shown).removeprefix("\ufeff")
    try:
        value = json.loads(text, parse_float=parse_float, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        first = text.lstrip().partition("\n")[0].rstrip()
        if first.startswith("{") and first.endswith("}"):
            yield from _json_lines(data, shown, parse_float)
            return
        place = f"{shown}, line {error.lineno}, character {error.colno}"
        raise UserError(f"{place}: not JSON ({error.msg}): write a list of objects") from error
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise UserError(f"{shown}: not readable ({_brief(error)}): write a list of plain objects") from error
    if isinstance(value, dict):
        lists = [name for name, inner in value.items() if _are_rows(inner)]
        if len(lists) > 1:
            raise UserError(f"{shown} has several lists of objects ({', '.join(lists)}): keep one of them in a file")
        value = value[lists[0]] if lists else _transposed(value) or [value]
    if not isinstance(value, list):
        raise UserError(f"{shown}: write a list of objects, not {text.strip()[:40]}")
    for i, row in enumerate(value, start=1):
        if not isinstance(row, dict):
            raise UserError(f"{shown}, row {i}: write an object, not {str(row)[:40]}")
        yield f"{shown}, row {i}", row


def _are_rows(value: Any) -> bool:
    """True for a list of objects that are not the messages of a conversation."""
    objects = isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)
    return objects and not all("role" in one for one in value)


def _transposed(value: Row) -> list[Row]:
    """The rows of an object of columns, which are lists or objects with the row numbers as keys; [] for others."""
    columns = [list(one.values()) if isinstance(one, dict) else one for one in value.values()]
    if not columns or not all(isinstance(one, list) and len(one) == len(columns[0]) for one in columns):
        return []
    if any(isinstance(one, list) and all(isinstance(cell, dict) for cell in one) for one in value.values()):
        return []  # the messages of one conversation
    keys = [tuple(one) for one in value.values() if isinstance(one, dict)]
    if len(set(keys)) > 1 or not all(key.isdecimal() for key in next(iter(keys), ())):
        return []
    return [dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True)]


def _brief(error: Exception) -> str:
    return str(error).partition(":")[0].partition(";")[0]


def _unique(pairs: list[tuple[str, Any]]) -> Row:
    """The object of a JSON parser's pairs; raises ValueError for a repeated key."""
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} appears twice")
    return row


def _csv(data: bytes, shown: str, delimiter: str, header: Sequence[str]) -> Rows:
    """Yields (location, row) with text in each column; the first line that is not blank has the names of the columns.

    If that line is not ``header`` and has as many cells, it is a row, and the names are those of ``header``. A comma as
    ``delimiter`` becomes the semicolon or tab of a first line that has no comma. Rows of empty cells, and columns
    without a name, which spreadsheets append, are left out.
    """
    text = _decoded(data, shown).removeprefix("\ufeff")
    first = text.lstrip("\r\n").partition("\n")[0]
    if delimiter == "," and "," not in first:
        delimiter = next((sign for sign in "\t;" if sign in first), delimiter)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        cells = next(filter(None, reader), [])
        names = [name.strip() for name in cells]
        if header and len(names) == len(header) and names[0].lower() != header[0]:
            yield f"{shown}, line {reader.line_num}", dict(zip(header, cells, strict=True))
            names = list(header)
        if repeated := next((name for name in names if name and names.count(name) > 1), None):
            raise UserError(f"{shown}: column {repeated!r} appears twice: remove one")
        for cells in reader:
            if not any(cells):
                continue
            location = f"{shown}, line {reader.line_num}"
            if len(cells) != len(names):
                raise UserError(
                    f"{location}: {len(cells)} cells in a table of {len(names)} columns: put text that has commas, "
                    "quotes or line breaks in quotes"
                )
            yield location, {name: text for name, text in zip(names, cells, strict=True) if name}
    except csv.Error as error:
        raise UserError(f"{shown}, line {reader.line_num}: not csv ({error}): save it as JSON lines") from error


def _parquet(file: Path, shown: str, columns: Sequence[str] | None) -> Rows:
    """Yields (location, row) with those of ``columns`` that the file has."""
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
        names = table.schema_arrow.names
        wanted = names if columns is None else columns
        for name in wanted:
            if names.count(name) > 1:
                raise UserError(f"{shown}: column {name!r} appears twice: remove one")
        done = 0
        # Of a nested column, parquet reads the named part alone; a column of text may have the parts as JSON.
        texts = [n for n in names if not pyarrow.types.is_nested(table.schema_arrow.field(n).type)]
        roots = {n: n if n in names else n.partition(".")[0] for n in wanted}
        read = [root if root in texts else n for n, root in roots.items() if root in names]
        for batch in table.iter_batches(1024, columns=list(dict.fromkeys(read))):
            for i in range(batch.num_rows):
                location = f"{shown}, row {done + i + 1}"
                yield location, {n: _cell(batch.column(n)[i], f"{location}: column {n!r}") for n in batch.schema.names}
            done += batch.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        why = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"{shown} is not a readable parquet file: {why}: download it again") from error


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
