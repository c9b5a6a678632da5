"""What JSON lines and parquet can hold: read as it is meant, or refused in one line with file, line and reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from r1jax.data.formats.files import read
from r1jax.data.formats.preferences import read_labelled, read_pairs
from r1jax.data.problems.problem import Checker, Problem
from r1jax.data.text.conversations import read_conversations
from r1jax.data.text.template import TEMPLATES
from r1jax.errors import UserError
from r1jax.rewards.base import Completion
from r1jax.rewards.rules import accuracy


def problems(path: Path | str, checker: Checker = "number") -> list[Problem]:
    return [problem for _, problem in read(str(path), checker)]


def write(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return path


def write_table(path: Path, **columns: Any) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def right(problem: Problem, answer: str) -> float:
    text = f"<think>hm</think><answer>{answer}</answer>"
    return accuracy(problem, Completion(text, 9, 20, True, TEMPLATES["think"]))


def refusal(read: Callable[[Any], object], path: Path) -> str:
    with pytest.raises(UserError) as error:
        read(path)
    message = str(error.value)
    message.encode()
    assert message.startswith(str(path)) and "\n" not in message and len(message) < len(str(path)) + 220
    return message.removeprefix(str(path))


@pytest.mark.parametrize("checker", ["number", "math", "exact"])
@pytest.mark.parametrize(
    ("literal", "answer"),
    [
        ("0.00002", "0.00002"),
        ("2e-5", "0.00002"),
        ("1e20", "100000000000000000000"),
        ("3.0", "3"),
        ("-0.50", "-0.5"),
        ("0.12345678901234567890123", "0.12345678901234567890123"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
    ],
)
def test_a_number_in_json_is_the_number_that_is_written(
    tmp_path: Path, literal: str, answer: str, checker: Checker
) -> None:
    path = write(tmp_path / "a.jsonl", f'{{"prompt": "q", "answer": {literal}}}')
    (problem,) = problems(path, checker)
    assert problem.answer == answer and right(problem, answer) == 1
    if checker != "exact":
        assert right(problem, literal) == 1 and right(problem, answer + "1") == 0


def test_a_number_in_text_is_kept_as_it_is_written_and_compared_as_a_number(tmp_path: Path) -> None:
    (problem,) = problems(write(tmp_path / "a.jsonl", '{"prompt": "q", "answer": "2e-05"}'))
    assert problem.answer == "2e-05" and right(problem, "0.00002") == 1 and right(problem, "5") == 0


@pytest.mark.parametrize(
    ("column", "answers"),
    [
        (pyarrow.array([0.00002, 1e20, 3.0]), ["0.00002", "100000000000000000000", "3"]),
        (pyarrow.array([0.1, 16777216.0], pyarrow.float32()), ["0.1", "16777216"]),
        (pyarrow.array(np.array([0.1, 2], np.float16)), ["0.1", "2"]),
        (pyarrow.array([Decimal("0.10"), Decimal("12.00")]), ["0.1", "12"]),
        (pyarrow.array([2**63 - 1, -1]), ["9223372036854775807", "-1"]),
        (pyarrow.array([2**64 - 1], pyarrow.uint64()), ["18446744073709551615"]),
        (pyarrow.array(["7", "1,000"]).dictionary_encode(), ["7", "1,000"]),
        (pyarrow.array(["7"], pyarrow.large_string()), ["7"]),
    ],
)
def test_columns_of_numbers_are_read_as_numbers(tmp_path: Path, column: pyarrow.Array, answers: list[str]) -> None:
    path = write_table(tmp_path / "a.parquet", prompt=["q"] * len(column), answer=column)
    assert [problem.answer for problem in problems(path)] == answers


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
        ('{"prompt": "a", "prompt": "b", "answer": 1}', "line 2: not readable ('prompt' is there twice)"),
        ('{"prompt": "a", "answer": "1", "kind": false}', "line 2: column 'kind' is False"),
        ('{"prompt": "a", "answer": "1", "checker": []}', "line 2: column 'checker' is []"),
        ('{"prompt": "a", "answer": "1", "language": 0}', "line 2: column 'language' is 0"),
        (b'{"prompt": "a\xff", "answer": "1"}', "line 2: not UTF-8 (invalid start byte at byte"),
        ('{"prompt": "a", "answer": "' + "word " * 100 + '"}', "line 2: column 'answer' is 'word word"),
        ("null", "line 2: write an object, not null"),
    ],
)
def test_whatever_else_json_can_hold_is_refused_with_line_and_reason(
    tmp_path: Path, line: str | bytes, message: str
) -> None:
    assert message in refusal(problems, write(tmp_path / "a.jsonl", GOOD, line))


def test_byte_order_marks_line_ends_and_other_columns_do_not_matter(tmp_path: Path) -> None:
    other = '{"prompt": "b\u2028", "answer": "2", "note": NaN, "kind": null, "language": null, "checker": null}'
    path = write(tmp_path / "a.jsonl", "\ufeff" + GOOD + "\r", "\ufeff" + other, "", " ")
    assert problems(path) == [Problem("a", "1", "a"), Problem("b\u2028", "2", "a")]


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
def test_whatever_else_parquet_can_hold_is_refused_with_row_and_reason(
    tmp_path: Path, column: str, values: pyarrow.Array, message: str
) -> None:
    columns: dict[str, Any] = {"prompt": ["a", "b"], "answer": ["1", "2"]} | {column: values}
    assert message in refusal(problems, write_table(tmp_path / "a.parquet", **columns))


def test_parquet_without_the_columns_or_with_text_that_is_no_unicode_is_refused(tmp_path: Path) -> None:
    assert "row 1: no column 'prompt'" in refusal(problems, write_table(tmp_path / "a.parquet", question=["a"]))
    raw = pyarrow.array([b"1", b"\xff"]).view(pyarrow.string())
    bad = write_table(tmp_path / "b.parquet", prompt=["a", "b"], answer=raw)
    assert "row 2: column 'answer' is not readable ('utf-8' codec" in refusal(problems, bad)
    twice = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 3, ["prompt", "answer", "answer"])
    pyarrow.parquet.write_table(twice, tmp_path / "c.parquet")
    assert "column 'answer' is there twice" in refusal(problems, tmp_path / "c.parquet")


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path / "a.jsonl", GOOD)
    monkeypatch.setattr(Path, "read_bytes", refused)
    assert refusal(problems, path) == " is not readable: Permission denied"


@pytest.mark.parametrize(
    ("read", "row", "message"),
    [
        (read_pairs, {"prompt": "a", "chosen": "\ud800", "rejected": "c"}, "line 1: column 'chosen' holds \\ud800"),
        (read_pairs, {"prompt": "a", "chosen": 3, "rejected": "c"}, "line 1: column 'chosen' is 3"),
        (read_pairs, {"prompt": "a", "chosen": ["b"] * 99, "rejected": "c"}, "line 1: column 'chosen' is ['b', "),
        (read_labelled, {"prompt": "a", "response": "\udc00", "safe": True}, "column 'response' holds \\udc00"),
        (read_labelled, {"prompt": "a", "response": "b", "safe": 1}, "line 1: column 'safe' is 1"),
        (read_labelled, {"prompt": "a", "response": "b", "safe": None}, "line 1: column 'safe' is None"),
        (read_conversations, {"messages": [{"role": "user", "content": "\ud800"}]}, "holds \\ud800"),
        (read_conversations, {"messages": [{"role": "user", "\ud800": "a"}]}, "holds \\ud800"),
        (read_conversations, {"messages": [{"role": "user", "content": None}]}, "line 1: a message needs role and"),
        (read_conversations, {"messages": [{"role": "user", "content": "a"}]}, "line 1: a conversation must end with"),
        (read_conversations, {"messages": [["user", "a"]]}, "line 1: column 'messages' must be a list of objects"),
        (read_conversations, {"messages": "a"}, "line 1: column 'messages' must be a list of objects"),
        (read_conversations, {}, "line 1: column 'messages' must be a list of objects"),
    ],
)
def test_pairs_labels_and_conversations_name_what_is_wrong(
    tmp_path: Path, read: Callable[[Any], object], row: dict[str, Any], message: str
) -> None:
    assert message in refusal(read, write(tmp_path / "a.jsonl", json.dumps(row)))


def test_messages_of_parquet_are_those_of_json_lines(tmp_path: Path) -> None:
    call = {"name": "add", "arguments": {"a": 1}}
    rows = [
        {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4", "thinking": "two"}]},
        {"messages": [{"role": "user", "content": "?", "call": call}, {"role": "assistant", "content": "!"}]},
        {"messages": [{"role": "user", "content": "", "call": {"name": "no"}}, {"role": "assistant", "content": "!"}]},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    lines = write(tmp_path / "a.jsonl", *map(json.dumps, rows))
    expected = [row["messages"] for row in rows]
    assert read_conversations(tmp_path / "a.parquet") == read_conversations(lines) == expected
    empty = write(tmp_path / "b.jsonl", json.dumps({"messages": [m | {"thinking": None} for m in expected[1]]}))
    assert read_conversations(empty) == [expected[1]]
