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

from r1jax.data.formats.rows import first_rows, nested, parse_literal, read_rows
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
    assert next(first_rows(path, 1)) == (f"{path}, row 1", ROWS[0])


@pytest.mark.parametrize(("name", "dialect"), [("a.csv", "excel"), ("a.tsv", "excel-tab")])
def test_tables_of_text(tmp_path: Path, name: str, dialect: str) -> None:
    path = tmp_path / name
    with path.open("w", newline="", encoding="utf-8-sig") as stream:
        writer = csv.writer(stream, dialect=dialect)
        writer.writerows([["q", "a"], *([row["q"], row["a"]] for row in ROWS)])
    assert rows(path) == [{"q": row["q"], "a": row["a"]} for row in ROWS]
    assert [location for location, _ in read_rows(path)] == [f"{path}, line 3", f"{path}, line 4"]


@pytest.mark.parametrize(
    "text",
    ["q, a\nx, 1\ny, 2\n", "q;a\r\nx;1\r\ny;2\r\n", "q\ta\nx\t1\ny\t2", "\r\n\nq,a,,\n\nx,1,,\n,,,\n\ny,2,,\n,,,\n"],
)
def test_tables_of_spreadsheets(tmp_path: Path, text: str) -> None:
    """Spaces after commas, other separators, blank lines, and empty columns and rows at the end."""
    found = rows(written(tmp_path / "a.csv", text))
    assert [{name: cell.strip() for name, cell in row.items()} for row in found] == [
        {"q": "x", "a": "1"},
        {"q": "y", "a": "2"},
    ]


def test_a_tsv_file_is_separated_by_tabs_alone(tmp_path: Path) -> None:
    assert rows(written(tmp_path / "a.tsv", "q;r\nx;1\n")) == [{"q;r": "x;1"}]


@pytest.mark.parametrize(
    "value",
    [
        {"q": ["x", "y"], "a": [1, None]},
        {"q": {"0": "x", "1": "y"}, "a": {"0": 1, "1": None}},  # pandas.DataFrame.to_json
        {"q": {"5": "x", "7": "y"}, "a": {"5": 1, "7": None}},
    ],
)
def test_an_object_of_columns_is_read_by_rows(tmp_path: Path, value: dict[str, Any]) -> None:
    assert rows(written(tmp_path / "a.json", json.dumps(value))) == [{"q": "x", "a": 1}, {"q": "y", "a": None}]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        {"q": {"en": "x"}, "a": {"en": "y"}},
        {"q": ["x", "y"], "a": ["z"]},
        {"q": {"0": "x"}, "a": {"1": "y"}},
        {},
    ],
)
def test_other_objects_are_one_row(tmp_path: Path, row: dict[str, Any]) -> None:
    assert rows(written(tmp_path / "a.json", json.dumps(row))) == [row]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_a_pointer_of_git_lfs_is_named(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path / f"a{suffix}", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert refused(path) == " is a pointer of Git LFS and not the file: run 'git lfs pull', or download it again"


def test_parts_of_a_column_may_be_written_as_text(tmp_path: Path) -> None:
    texts = [json.dumps({"level": 3, "name": "\u4e00"}), "{'level': 3, 'name': '\u4e00'}"]
    assert [nested({"more": text}, "more.level") for text in texts] == [3, 3]
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"more": texts, "other": texts}), path)
    found = rows(path, ("more.level", "more.name"))
    assert found == [{"more": text} for text in texts]
    assert [nested(row, "more.name") for row in found] == ["\u4e00"] * 2
    assert nested({"more": "{level: 3"}, "more.level") is None


@pytest.mark.parametrize("text", ["[0, 1)", "[x]", "[" * 9000, "{'a': 1}", " text", '["\\ud800"]'])
def test_text_that_is_no_list_is_unchanged(text: str) -> None:
    assert parse_literal(text, "[") == text


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
