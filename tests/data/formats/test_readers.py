"""Files of each format: the same rows from all of them, and one line for what is damaged."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from r1jax.data.formats.rows import first_row, nested, read_rows
from r1jax.errors import UserError

ROWS: list[dict[str, Any]] = [
    {"q": 'a, "b"\nc', "a": "1", "more": {"level": 3, "tags": ["x", "y"]}},
    {"q": "\u4e00\u2028", "a": "", "more": {"level": 4, "tags": []}},
]
LINES = "\n".join(map(json.dumps, ROWS))


def rows(path: Path, columns: tuple[str, ...] | None = None) -> list[dict[str, Any]]:
    return [row for _, row in read_rows(path, columns)]


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        rows(path)
    text = str(error.value)
    assert "\n" not in text and text.startswith(str(path))
    return text.removeprefix(str(path))


def written(path: Path, text: str) -> Path:
    raw = text.encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", LINES),
        ("a.jsonl.gz", LINES),
        ("a.json", json.dumps(ROWS)),
        ("b.json", json.dumps(ROWS, indent=2)),
        ("c.json", json.dumps({"version": "1.0", "tags": ["x"], "data": ROWS})),
        ("d.json", LINES),  # JSON lines under another name
        ("e.json", "\ufeff" + json.dumps(ROWS)),
        ("f.JSON", json.dumps(ROWS)),
    ],
)
def test_json_in_each_form_has_the_same_rows(tmp_path: Path, name: str, text: str) -> None:
    assert rows(written(tmp_path / name, text)) == ROWS


def test_parquet_keeps_nested_values_and_reads_parts_of_them(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    assert rows(path) == ROWS
    assert rows(path, ("a", "none")) == [{"a": "1"}, {"a": ""}]
    part = rows(path, ("more.level",))
    assert part == [{"more": {"level": 3}}, {"more": {"level": 4}}]
    assert [nested(row, "more.level") for row in part] == [3, 4]
    assert nested({"a.b": 1, "a": {"b": 2}}, "a.b") == 1 and nested({"a": 3}, "a.b") is None
    assert first_row(path) == (f"{path}, row 1", ROWS[0])


@pytest.mark.parametrize(("name", "dialect"), [("a.csv", "excel"), ("a.tsv", "excel-tab")])
def test_tables_of_text(tmp_path: Path, name: str, dialect: str) -> None:
    path = tmp_path / name
    with path.open("w", newline="", encoding="utf-8-sig") as stream:
        writer = csv.writer(stream, dialect=dialect)
        writer.writerows([["q", "a"], *([row["q"], row["a"]] for row in ROWS)])
    assert rows(path) == [{"q": row["q"], "a": row["a"]} for row in ROWS]
    assert [location for location, _ in read_rows(path)] == [f"{path}, line 3", f"{path}, line 4"]


def test_one_object_is_one_row(tmp_path: Path) -> None:
    row = {"prompt": [{"role": "user", "content": "q"}], "answer": "1"}
    assert rows(written(tmp_path / "a.json", json.dumps(row))) == [row]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '[{"q": 1}, 2]', ", row 2: write an object, not 2"),
        ("a.json", '[{"q": 1},', ", line 1, character 11: not JSON (Expecting value"),
        ("a.json", '{"q": 1}\n{"q": 2', ", line 2, character 8: not JSON"),
        (
            "a.json",
            '{"train": [{"q": 1}], "test": [{"q": 2}]}',
            " has several lists of objects (train, test): keep one",
        ),
        ("a.json", "3", ": write a list of objects, not 3"),
        ("a.json", '[{"q": 1, "q": 2}]', ": not readable ('q' appears twice)"),
        ("a.csv", "q,a\n1,2,3\n", ", line 2: 3 cells in a table of 2 columns: put text"),
        ("a.csv", 'q,a\n1,"2\n', ", line 2: not csv (unexpected end of data)"),
        ("a.csv", "q,q\n1,2\n", ": column 'q' appears twice"),
        ("a.csv", "q\n" + "x" * 200_000, ", line 2: not csv (field larger than field limit"),
    ],
)
def test_a_damaged_file_is_named_with_the_place(tmp_path: Path, name: str, text: str, message: str) -> None:
    assert refused(written(tmp_path / name, text)).startswith(message)


def test_damaged_bytes_are_named(tmp_path: Path) -> None:
    whole, path = gzip.compress(LINES.encode()), tmp_path / "a.jsonl.gz"
    for damaged in (whole[:-9], b"no gzip", whole[:12] + b"\xff\xff\xff" + whole[15:]):
        path.write_bytes(damaged)
        assert " is not a whole gzip file (" in refused(path)
    path = tmp_path / "a.csv"
    path.write_bytes(b"q\nok\n\xff\n")
    assert refused(path).startswith(", line 3: not UTF-8")
