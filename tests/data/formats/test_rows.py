"""Contents of JSON lines and parquet files: they are read, or refused in one line with file, line and reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from r1jax.data.problems.problem import Problem
from tests.data.helpers import read_all, refusal, write, write_table

GOOD = '{"prompt": "a", "answer": "1"}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (r'{"prompt": "a\ud800", "answer": "1"}', r"line 2: column 'prompt' holds \ud800, half of a surrogate pair"),
        (r'{"prompt": "a", "answer": "\udfff"}', r"line 2: column 'answer' holds \udfff, half of a surrogate pair"),
        (r'{"prompt": "a", "answer": "1", "kind": "\ud83d"}', r"line 2: column 'kind' holds \ud83d"),
        (r'{"prompt": "a", "answer": "1", "language": "\ud83d"}', r"line 2: column 'language' holds \ud83d"),
        ('{"prompt": ["\\ud800"], "answer": "1"}', "line 2: column 'prompt' holds"),
        ('{"prompt": null, "answer": "1"}', "line 2: no column 'prompt'"),
        ('{"prompt": "", "answer": "1"}', "line 2: column 'prompt' is ''"),
        ('{"prompt": 3, "answer": "1"}', "line 2: column 'prompt' is 3: write some text"),
        ('{"prompt": 3.5, "answer": "1"}', "line 2: column 'prompt' is 3.5: write some text"),
        ('{"prompt": {"text": "a"}, "answer": "1"}', "line 2: column 'prompt' is {'text': 'a'}"),
        ('{"prompt": "a", "answer": ""}', "line 2: column 'answer' is '', which is empty"),
        ('{"prompt": "a", "answer": " "}', "line 2: column 'answer' is ' ', which is empty"),
        ('{"prompt": "a", "answer": "$$", "checker": "math"}', "line 2: column 'answer' is '$$', which is empty"),
        ('{"prompt": "a", "answer": "", "checker": "exact"}', "line 2: column 'answer' is '', which is empty"),
        ('{"prompt": "a", "answer": "", "checker": "math"}', "line 2: column 'answer' is '', which is empty"),
        ('{"prompt": "a", "answer": NaN}', "line 2: column 'answer' is NaN: write text or a number"),
        ('{"prompt": "a", "answer": -Infinity}', "line 2: column 'answer' is -Infinity: write text or a number"),
        ('{"prompt": "a", "answer": 1e99999}', "line 2: column 'answer' is 1E+99999: write text or a number"),
        ('{"prompt": "a", "answer": 1e99999999999999999999}', "line 2: not readable"),
        ('{"prompt": "a", "answer": ' + "9" * 5000 + "}", "line 2: not readable (Exceeds the limit (4300 digits)"),
        ('{"prompt": "a", "answer": [[1]]}', "line 2: column 'answer' is [[1]]: write text or a number"),
        ('{"prompt": "a", "answer": ' + "[" * 500 + "]" * 500 + "}", "line 2: column 'answer' is nested"),
        ('{"prompt": "a", "answer": ' + "[" * 100_000 + "]" * 100_000 + "}", "line 2: not readable"),
        ('{"prompt": "a", "answer": {"value": 1}}', "line 2: column 'answer' is {'value': 1}: write text or"),
        ('{"prompt": "a", "prompt": "b", "answer": 1}', "line 2: not readable ('prompt' appears twice)"),
        ('{"prompt": "a", "answer": "1", "kind": false}', "line 2: column 'kind' is False"),
        ('{"prompt": "a", "answer": "1", "checker": []}', "line 2: column 'checker' is []"),
        ('{"prompt": "a", "answer": "1", "language": 0}', "line 2: column 'language' is 0"),
        (b'{"prompt": "a\xff", "answer": "1"}', "line 2: not UTF-8 (invalid start byte at byte"),
        ('{"prompt": "a", "answer": "' + "word " * 100 + '"}', "line 2: column 'answer' is 'word word"),
        ("null", "line 2: write an object, not null"),
    ],
)
def test_other_json_is_refused_with_line_and_reason(tmp_path: Path, line: str | bytes, message: str) -> None:
    assert message in refusal(read_all, write(tmp_path / "a.jsonl", GOOD, line))


def test_byte_order_marks_line_ends_and_other_columns_do_not_matter(tmp_path: Path) -> None:
    other = '{"prompt": "b\u2028", "answer": "2", "note": NaN, "kind": null, "language": null, "checker": null}'
    path = write(tmp_path / "a.jsonl", "\ufeff" + GOOD + "\r", "\ufeff" + other, "", " ")
    assert read_all(path) == [Problem("a", "1", "a"), Problem("b\u2028", "2", "a")]


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("prompt", pyarrow.array([b"a", b"b"]), "row 1: column 'prompt' is b'a': write some text"),
        ("prompt", pyarrow.array(["a", None]), "row 2: no column 'prompt'"),
        ("prompt", pyarrow.array([{"text": "a"}, {"text": "b"}]), "row 1: column 'prompt' is {'text': 'a'}"),
        ("prompt", pyarrow.array([1, 2]), "row 1: column 'prompt' is 1: write some text"),
        ("prompt", pyarrow.nulls(2), "row 1: no column 'prompt'"),
        ("answer", pyarrow.array([1.0, float("nan")]), "row 2: column 'answer' is NaN: write text or a number"),
        ("answer", pyarrow.array([True, False]), "row 1: column 'answer' is True: write text or a number"),
        ("answer", pyarrow.array([["1"], ["2"]]), "row 1: column 'answer' is ['1']: write text or a number"),
        ("answer", pyarrow.array([{"a": 1}, {"a": 2}]), "row 1: column 'answer' is {'a': 1}: write text or a number"),
        ("answer", pyarrow.array(["1", ""]), "row 2: column 'answer' is '', which is empty"),
        ("answer", pyarrow.array([0, 1], pyarrow.timestamp("s")), "row 1: column 'answer' is datetime.datetime("),
        ("answer", pyarrow.array([2**60, 0], pyarrow.timestamp("ms")), "row 1: column 'answer' is not readable ("),
        (
            "answer",
            pyarrow.array([1, 2], pyarrow.timestamp("us", "Nowhere/X")),
            "row 1: column 'answer' is not readable ('Nowhere/X')",
        ),
        ("kind", pyarrow.array([1, 2]), "row 1: column 'kind' is 1: write a name"),
        ("language", pyarrow.array([["en"], None]), "row 1: column 'language' is ['en']: write its short name"),
    ],
)
def test_other_parquet_is_refused_with_row_and_reason(
    tmp_path: Path, column: str, values: pyarrow.Array, message: str
) -> None:
    columns: dict[str, Any] = {"prompt": ["a", "b"], "answer": ["1", "2"]} | {column: values}
    assert message in refusal(read_all, write_table(tmp_path / "a.parquet", **columns))


def test_parquet_without_the_columns_or_with_invalid_unicode_is_refused(tmp_path: Path) -> None:
    assert "row 1: no column 'prompt'" in refusal(read_all, write_table(tmp_path / "a.parquet", question=["a"]))
    raw = pyarrow.array([b"1", b"\xff"]).view(pyarrow.string())
    bad = write_table(tmp_path / "b.parquet", prompt=["a", "b"], answer=raw)
    assert "row 2: column 'answer' is not readable ('utf-8' codec" in refusal(read_all, bad)
    twice = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 3, ["prompt", "answer", "answer"])
    pyarrow.parquet.write_table(twice, tmp_path / "c.parquet")
    assert "column 'answer' appears twice" in refusal(read_all, tmp_path / "c.parquet")


def test_a_file_without_read_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path / "a.jsonl", GOOD)
    monkeypatch.setattr(Path, "read_bytes", refused)
    assert refusal(read_all, path) == " is not readable: Permission denied"
