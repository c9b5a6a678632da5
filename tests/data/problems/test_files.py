"""Problems from JSON lines and parquet files."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from r1jax.data.problems.dataset import ProblemsConfig, load_problems
from r1jax.data.problems.files import read_problems
from r1jax.data.problems.problem import Checker, Problem
from r1jax.data.text.template import TEMPLATES
from r1jax.errors import UserError
from r1jax.rewards.base import Completion
from r1jax.rewards.rules import accuracy
from tests.data.helpers import read_all, write, write_lines, write_table


def test_files_are_read_with_their_columns(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "answer": i, "note": "ignored"} for i in range(40)]
    rows[7] |= {"kind": "algebra", "checker": "math", "answer": "x+1"}
    lines = write_lines(tmp_path / "sums.jsonl", *rows, "")
    parquet = tmp_path / "sums.parquet"
    full = [{"kind": None, "checker": None, **row, "answer": str(row["answer"])} for row in rows]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(full), parquet)
    expected = {Problem(f"q{i}", str(i), "sums") for i in range(40) if i != 7} | {
        Problem("q7", "x+1", "algebra", "math")
    }
    for source in (lines, str(parquet)):
        problems = load_problems(ProblemsConfig(source, held_out_share=0.3))
        assert len(problems.train + problems.held_out) == 40
        assert set(problems.train + problems.held_out) == expected


def test_rows_without_optional_columns_take_the_config(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "words.jsonl", *({"prompt": f"q{i}", "answer": "yes"} for i in range(40)))
    problems = load_problems(ProblemsConfig(source, held_out_share=0.3, checker="exact"))
    assert {(p.kind, p.checker) for p in problems.train} == {("words", "exact")}


def test_a_file_sets_the_language_of_its_questions_and_is_read_again_after_a_change(tmp_path: Path) -> None:
    lines = [{"prompt": f"q{i}", "answer": i, "language": "zh" if i % 2 else None} for i in range(40)]
    source = write_lines(tmp_path / "words.jsonl", *lines)
    config = ProblemsConfig(source, held_out_share=0.3)
    assert {(int(p.answer) % 2, p.language) for p in load_problems(config).train} == {(0, ""), (1, "zh")}
    write_lines(tmp_path / "words.jsonl", *(line | {"language": "en"} for line in lines))
    os.utime(source, ns=(0, 0))
    assert {p.language for p in load_problems(config).train} == {"en"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"prompt": "a", ', "line 2, character 17: not JSON"),
        ("[1, 2]", "line 2: write an object"),
        ({"prompt": "a"}, "line 2: no column 'answer'"),
        ({"answer": "1"}, "line 2: no column 'prompt'"),
        ({"prompt": " ", "answer": "1"}, "line 2: column 'prompt' is ' '"),
        ({"prompt": "a", "answer": [1]}, "line 2: column 'answer' is [1]: write text or a number"),
        ({"prompt": "a", "answer": True}, "line 2: column 'answer' is True: write text or a number"),
        ({"prompt": "a", "answer": "one"}, "line 2: column 'answer' is 'one', not a number"),
        ({"prompt": "a", "answer": "1", "checker": "gym"}, "line 2: column 'checker' is 'gym'"),
        ({"prompt": "a", "answer": "1", "kind": 3}, "line 2: column 'kind' is 3"),
        ({"prompt": "a", "answer": "1", "language": ["zh"]}, "line 2: column 'language' is ['zh']"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, row: Any, message: str) -> None:
    source = write_lines(tmp_path / "data.jsonl", {"prompt": "a", "answer": "1"}, row)
    with pytest.raises(UserError) as error:
        load_problems(ProblemsConfig(source))
    assert f"{source}, {message}" in str(error.value) and "\n" not in str(error.value)


def test_a_wrong_parquet_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["a", "b"], "answer": ["1", None]}), path)
    with pytest.raises(UserError, match=r"data\.parquet, row 2: no column 'answer'"):
        load_problems(ProblemsConfig(str(path)))
    path.write_text("no parquet")
    with pytest.raises(UserError, match="not a readable parquet file"):
        load_problems(ProblemsConfig(str(path)))


def right(problem: Problem, answer: str) -> float:
    text = f"<think>hm</think><answer>{answer}</answer>"
    return accuracy(problem, Completion(text, 9, 20, True, TEMPLATES["think"]))


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
def test_a_json_number_keeps_all_its_digits(tmp_path: Path, literal: str, answer: str, checker: Checker) -> None:
    path = write(tmp_path / "a.jsonl", f'{{"prompt": "q", "answer": {literal}}}')
    (problem,) = read_all(path, checker)
    assert problem.answer == answer and right(problem, answer) == 1
    if checker != "exact":
        assert right(problem, literal) == 1 and right(problem, answer + "1") == 0


def test_a_number_in_text_is_kept_unchanged_and_compared_as_a_number(tmp_path: Path) -> None:
    (problem,) = read_all(write(tmp_path / "a.jsonl", '{"prompt": "q", "answer": "2e-05"}'))
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
    assert [problem.answer for problem in read_all(path)] == answers


def test_the_first_row_with_a_shape_decides(tmp_path: Path) -> None:
    empty = {"question": "q0", "answer": None}
    rows = [empty, {"question": "q1", "answer": "#### 1"}, {"question": "q2", "answer": "#### 2", "area": "A"}]
    path = write_lines(tmp_path / "data.jsonl", *rows)
    with pytest.raises(UserError, match=r"line 1: no column 'answer': each row needs 'question' and 'answer'"):
        read_problems(path, "number")
    found = read_problems(path, "number", skip_unreadable=True)
    assert found.shape and found.shape.name == "gsm8k" and found.skipped == 1
    found = read_problems(path, "number", ("kind=area",), skip_unreadable=True)
    assert [problem.kind for _, problem in found.problems] == ["data", "A"]


def test_the_name_of_a_folder_and_whole_numbers_are_kinds(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "test.jsonl", {"question": "q", "answer": "1"}, {"question": "r", "answer": "1", "level": 2.0}
    )
    for source in (tmp_path, tmp_path / "test"):
        assert [problem.kind for _, problem in read_problems(str(source), "number").problems] == [tmp_path.stem] * 2
    write_lines(tmp_path / "test.jsonl", {"question": "q", "answer": "1", "level": 2.0})
    assert read_problems(str(tmp_path), "number").problems[0][1].kind == "2"
