"""Rows of data sets: of a file, a folder of shards, or a data set of the hub; every reader starts from them."""

from __future__ import annotations

import ast
import contextlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from r1jax.data.formats.readers import ParseFloat, Row, Rows, read_file
from r1jax.data.formats.sources import data_files
from r1jax.errors import UserError


def read_rows(
    source: str | Path,
    columns: Sequence[str] | None = None,
    parse_float: ParseFloat = float,
    header: Sequence[str] = (),
) -> Rows:
    """Yields (location, row) for each row of a source; error messages start with the location.

    Args:
      source: a .jsonl, .json, .csv, .tsv or .parquet file, a folder of such files, or a data set of the hub, as
        r1jax.data.formats.sources describes. A file with another suffix is read as JSON lines.
      columns: the columns that are checked, and the only ones that are read from a parquet file, with dots for nested
        ones. None: all. Nested values are kept as lists and dicts.
      parse_float: converts JSON numbers that have a decimal point or an exponent.
      header: the columns of csv files without a line of names, as in r1jax.data.formats.readers.read_file.

    Raises:
      UserError: if the source does not exist, a line is not a JSON object, or one of ``columns`` appears twice, holds
        text that is not valid Unicode, or is nested more than 100 levels deep. The message names the line or row.
    """
    for file in data_files(source):
        for location, row in read_file(file.path, file.shown, columns, parse_float, header):
            for column in row if columns is None else columns:
                name = column if column in row else column.partition(".")[0]
                _check_unicode(row.get(name), f"{location}: column {name!r}")
            yield location, row


def first_rows(source: str | Path, count: int) -> Iterator[tuple[str, Row]]:
    """The location and the unchecked contents of the first rows, to see which columns there are."""
    rows = (found for file in data_files(source) for found in read_file(file.path, file.shown, None, Decimal))
    return itertools.islice(rows, count)


def nested(row: Row, column: str) -> Any:
    """The value of a column, or of a part of it after dots, as in reward_model.ground_truth; None if there is none.

    A column that has parts may be an object, or text that writes one, as in csv files.
    """
    if column in row:
        return row[column]
    value: Any = row
    for name in column.split("."):
        value = parse_literal(value, "{")
        value = value.get(name) if isinstance(value, dict) else None
    return value


def parse_literal(value: Any, start: str) -> Any:
    """The list or object that a text writes in JSON or, as pandas does in csv files, in Python; other values unchanged.

    start: "[" or "{", the first character of the text.
    """
    if not isinstance(value, str) or not value.lstrip().startswith(start):
        return value
    # numpy writes the elements of an array without commas.
    for read, text in ((json.loads, value), (ast.literal_eval, re.sub(r"\}\s*\n\s*\{", "}, {", value.strip()))):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            found = read(text)
            json.dumps(found, ensure_ascii=False).encode()  # ValueError for half of a surrogate pair
            return found
    return value


def cell(row: Mapping[str, Any], location: str, *names: str) -> Any:
    """The value of the first of some columns that the row has; raises UserError if it has none of them."""
    return row[column(row, location, *names)]


def column(row: Mapping[str, Any], location: str, *names: str) -> str:
    """The first of some columns that the row has; raises UserError if it has none of them."""
    for name in names:
        if row.get(name) is not None:
            return name
    first, *rest = names
    others = f" (or {', '.join(map(repr, rest))})" if rest else ""
    have = f", only {', '.join(map(repr, row))}" if row else ""
    raise UserError(f"{location}: no column {first!r}{others}{have}: give a file with the usual columns")


def text_cell(row: Mapping[str, Any], location: str, *names: str) -> str:
    """The text of the first of some columns that the row has; a number becomes text. Raises UserError as cell does."""
    value = cell(row, location, *names)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = f"{value:g}" if isinstance(value, float) else str(value)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{location}: column {names[0]!r} is {preview(value)}: write some text")
    return value


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
