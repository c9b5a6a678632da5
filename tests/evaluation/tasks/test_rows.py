"""Rows in the usual columns of each data set, and the problems that they become."""

from __future__ import annotations

import json

import pytest

from r1jax.data.problems.files import read_problems
from r1jax.errors import UserError
from r1jax.evaluation.tasks import choices, code, maths
from r1jax.evaluation.tasks.table import TASKS

WHERE = "file, line 1"

MBPP = {"task_id": 11, "text": "Write a function to add.", "test_list": ["assert add(1, 2) == 3"]}


def test_gsm8k_takes_the_number_after_the_marks() -> None:
    found = maths.gsm8k({"question": "How many?", "answer": "48/2 = <<48/2=24>>24\n#### 1,024"}, WHERE)
    assert (found.question, found.answer, found.checker) == ("How many?", "1024", "number")
    with pytest.raises(UserError, match="file, line 1: column 'answer' ends in 'many'"):
        maths.gsm8k({"question": "How many?", "answer": "#### many"}, WHERE)


@pytest.mark.parametrize(
    ("task", "row"),
    [
        (maths.gsm8k, {"question": "How many?", "answer": "48/2 = <<48/2=24>>24\n#### -24.50"}),
        (
            maths.math500,
            {"problem": "x?", "solution": "So", "answer": r"\frac{1}{2}", "subject": "Algebra", "level": 5},
        ),
        (maths.math500, {"problem": "x?", "solution": "So", "answer": "10\\%", "subject": "Algebra"}),
    ],
)
def test_training_and_evaluation_read_the_same_problem_in_a_row(task, row, tmp_path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    ((_, trained),) = read_problems(str(tmp_path / "rows.jsonl"), "number").problems
    evaluated = task(row, WHERE)
    assert (trained.question, trained.answer, trained.checker) == (
        evaluated.question,
        evaluated.answer,
        evaluated.checker,
    )


def test_math500_is_judged_by_equivalence_and_grouped_by_subject() -> None:
    found = maths.math500({"problem": "x?", "answer": r"\frac{1}{2}", "subject": "Algebra", "level": 5}, WHERE)
    assert (found.answer, found.checker, found.kind) == (r"\frac{1}{2}", "math", "Algebra")


@pytest.mark.parametrize("row", [{"problem": "x?", "answer": "073"}, {"Problem": "x?", "Answer": 73}])
def test_aime24_is_a_whole_number(row) -> None:
    assert maths.aime24(row, WHERE).answer == "73"
    with pytest.raises(UserError, match="write a whole number from 0 to 999"):
        maths.aime24({"problem": "x?", "answer": "1/2"}, WHERE)
    with pytest.raises(UserError, match="'1000': write a whole number from 0 to 999"):
        maths.aime24({"problem": "x?", "answer": "1000"}, WHERE)


def gpqa_row(question):
    wrong = {f"Incorrect Answer {i}": f"wrong {i}" for i in (1, 2, 3)}
    return {"Question": question, "Correct Answer": "right\n", **wrong, "High-level domain": "Physics"}


def test_the_choices_of_gpqa_have_an_order_that_depends_on_the_question_alone() -> None:
    found = [choices.gpqa(gpqa_row(f"question {i}"), WHERE) for i in range(400)]
    assert found[7] == choices.gpqa(gpqa_row("question 7"), WHERE)
    for one in found:
        lines = dict(line[1:].split(") ") for line in one.question.split("\n")[2:])
        assert sorted(lines) == list("ABCD")
        assert sorted(lines.values()) == ["right", "wrong 1", "wrong 2", "wrong 3"]
        assert lines[one.answer] == "right"
        assert one.kind == "Physics"
    for letter in "ABCD":  # 100 expected, with a standard deviation of 8.7
        assert 60 < sum(one.answer == letter for one in found) < 140


@pytest.mark.parametrize("answer", [2, "2", "C"])
def test_mmlu_keeps_the_order_of_its_choices(answer) -> None:
    row = {"question": "Which?", "choices": ["a", "b", "c", "d"], "answer": answer, "subject": "law"}
    found = choices.mmlu(row, WHERE)
    assert found.question == "Which?\n\n(A) a\n(B) b\n(C) c\n(D) d"
    assert (found.answer, found.checker, found.kind) == ("C", "exact", "law")


@pytest.mark.parametrize("wrong", [{"answer": 4}, {"answer": True}, {"answer": "E"}, {"choices": "abcd"}])
def test_wrong_values_of_mmlu_are_named(wrong) -> None:
    row = {"question": "Which?", "choices": ["a", "b", "c", "d"], "answer": 1, **wrong}
    with pytest.raises(UserError, match=f"file, line 1: column '{next(iter(wrong))}' is"):
        choices.mmlu(row, WHERE)


def test_rows_of_mbpp_outside_its_test_split_are_left_out() -> None:
    found = [code.mbpp({**MBPP, "task_id": number}, WHERE) for number in (2, 10, 11, 510, 511, 601)]
    assert [one is not None for one in found] == [False, False, True, True, False, False]
    assert code.mbpp({**MBPP, "task_id": None}, WHERE) is not None
    texts = [code.mbpp({**MBPP, "task_id": number}, WHERE) for number in ("2", "11", 601.0, 510.0)]  # csv, pandas
    assert [one is None for one in texts] == [True, False, True, False]


def test_a_program_is_judged_by_tests_in_each_task_of_code() -> None:
    row = {"prompt": "def f():\n", "entry_point": "f", "test": "def check(g):\n    assert g() == 1\n"}
    problem = TASKS["humaneval"].problem
    assert problem is not None
    found = problem(row, WHERE)
    assert found is not None and found.checker == "code" and TASKS["humaneval"].form == "code"


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.problem])
def test_a_row_without_the_columns_of_a_task_names_them(name) -> None:
    task = TASKS[name]
    assert task.problem is not None
    with pytest.raises(UserError, match=r"file, line 1: no column '.*give a file with the usual columns"):
        task.problem({"unrelated": 1}, WHERE)
