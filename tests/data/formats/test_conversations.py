"""Files of conversations."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from r1jax.data.formats.conversations import read_conversations
from tests.data.helpers import refusal, write


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "holds \\ud800"),
        ({"messages": [{"role": "user", "\ud800": "a"}]}, "holds \\ud800"),
        ({"messages": [{"role": "user", "content": None}]}, "line 1: a message needs role and"),
        ({"messages": [{"role": "user", "content": "a"}]}, "line 1: a conversation must end with"),
        ({"messages": [["user", "a"]]}, "line 1: column 'messages' must be a list of objects"),
        ({"messages": "a"}, "line 1: column 'messages' must be a list of objects"),
        ({}, "line 1: column 'messages' must be a list of objects"),
    ],
)
def test_wrong_conversations_are_refused_with_line_and_reason(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    assert message in refusal(read_conversations, write(tmp_path / "a.jsonl", json.dumps(row)))


def test_parquet_and_csv_give_the_same_messages_as_json_lines(tmp_path: Path) -> None:
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
    for form, text in enumerate((json.dumps, repr)):
        with (tmp_path / f"{form}.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([["messages"], *([text(messages)] for messages in expected)])
        assert read_conversations(tmp_path / f"{form}.csv") == expected
    empty = write(tmp_path / "b.jsonl", json.dumps({"messages": [m | {"thinking": None} for m in expected[1]]}))
    assert read_conversations(empty) == [expected[1]]
