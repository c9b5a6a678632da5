from __future__ import annotations

import pytest

from r1jax.errors import UserError
from r1jax.evaluation.records import Record, append_records, read_records, sort_records


def record(problem, sample, text="x"):
    return Record(problem, sample, text, None, False, 0.0, False, 3, True, 0.1)


def test_records_come_back_as_they_were_written_and_a_cut_line_is_removed(tmp_path) -> None:
    path = tmp_path / "completions.jsonl"
    rows = [record(0, 0, "a\u2028\nb"), record(0, 1, "数")]
    assert read_records(path) == []
    append_records(path, rows[:1])
    append_records(path, rows[1:])
    whole = path.read_bytes()
    assert read_records(path) == rows
    first = whole.index(b"\n") + 1
    for end in range(first, len(whole), 11):  # also inside a character
        path.write_bytes(whole[:end])
        assert read_records(path) == rows[:1]
        append_records(path, rows[1:])
        assert path.read_bytes() == whole


def test_records_are_sorted_by_problem_and_sample(tmp_path) -> None:
    path = tmp_path / "completions.jsonl"
    rows = [record(1, 0), record(0, 1), record(0, 0)]
    append_records(path, rows)
    assert sort_records(path, rows) == read_records(path) == [rows[2], rows[1], rows[0]]


@pytest.mark.parametrize("text", ["{}\n", "nonsense\n", '{"problem": 0'[:5] + "\n"])
def test_a_damaged_line_is_refused(tmp_path, text) -> None:
    path = tmp_path / "completions.jsonl"
    append_records(path, [record(0, 0)])
    with path.open("a") as file:
        file.write(text)
    with pytest.raises(UserError, match="line 2 is damaged: remove the file"):
        read_records(path)


def test_a_sample_that_is_there_twice_is_refused(tmp_path) -> None:
    path = tmp_path / "completions.jsonl"
    append_records(path, [record(0, 0), record(0, 0)])
    with pytest.raises(UserError, match="holds a sample twice"):
        read_records(path)
