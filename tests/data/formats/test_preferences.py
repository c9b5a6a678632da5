"""Files of pairs and of labelled responses for reward models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from r1jax.data.formats.preferences import read_labelled, read_pairs
from r1jax.errors import UserError
from tests.data.helpers import refusal, write


@pytest.mark.parametrize(
    ("read", "row", "message"),
    [
        (read_pairs, {"prompt": "a", "chosen": "\ud800", "rejected": "c"}, "line 1: column 'chosen' holds \\ud800"),
        (read_pairs, {"prompt": "a", "chosen": 3, "rejected": "c"}, "line 1: column 'chosen' is 3"),
        (read_pairs, {"prompt": "a", "chosen": ["b"] * 99, "rejected": "c"}, "line 1: column 'chosen' is ['b', "),
        (read_labelled, {"prompt": "a", "response": "\udc00", "safe": True}, "column 'response' holds \\udc00"),
        (read_labelled, {"prompt": "a", "response": "b", "safe": 1}, "line 1: column 'safe' is 1"),
        (read_labelled, {"prompt": "a", "response": "b", "safe": None}, "line 1: column 'safe' is None"),
    ],
)
def test_wrong_pairs_and_labels_are_refused_with_line_and_column(
    tmp_path: Path, read: Callable[[Any], object], row: dict[str, Any], message: str
) -> None:
    assert message in refusal(read, write(tmp_path / "a.jsonl", json.dumps(row)))


@pytest.mark.parametrize(
    ("read", "line", "message"),
    [
        (read_pairs, '{"prompt": "a", "chosen": "b"}', "line 1: column 'rejected' is None"),
        (read_pairs, '{"prompt": " ", "chosen": "b", "rejected": "c"}', "column 'prompt'"),
        (read_labelled, '{"prompt": "a", "response": "b", "safe": "yes"}', "column 'safe' is 'yes'"),
        (read_labelled, "", "holds no rows"),
    ],
)
def test_wrong_preferences_are_refused_in_one_line(read, line, message, tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(UserError, match=message):
        read(file)


def test_preferences_are_read_from_a_file(tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    (pair,) = read_pairs(file)
    assert (pair.prompt, pair.chosen, pair.rejected) == ("a", "b", "c")
    file.write_text('{"prompt": "a", "response": "b", "safe": false}\n')
    (one,) = read_labelled(file)
    assert (one.prompt, one.response, one.safe) == ("a", "b", False)
    table = tmp_path / "p.csv"
    table.write_text("prompt,response,safe\na,b,True\na,c,false\n")
    assert [(one.response, one.safe) for one in read_labelled(table)] == [("b", True), ("c", False)]
