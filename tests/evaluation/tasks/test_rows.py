"""Rows in the usual columns of each data set, and the problems that they become."""

from __future__ import annotations

import base64
import json
import pickle
import zlib

import pytest

from r1jax.errors import UserError
from r1jax.evaluation.tasks import choices, code, maths
from r1jax.evaluation.tasks.table import TASKS

WHERE = "file, line 1"

HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'def twice(x: int) -> int:\n    """Two times x."""\n',
    "entry_point": "twice",
    "canonical_solution": "    return 2 * x\n",
    "test": "import math\n\nMETADATA = {'author': 'x'}\n\n\ndef check(candidate):\n    # a comment\n"
    "    assert True, 'ok'\n    assert candidate(1) == 2, 'one'\n    assert math.isclose(candidate(candidate(2)), 8)\n",
}
LOOP = "def check(candidate):\n    for i in range(9):\n        assert candidate(i) == 2 * i\n"
MBPP = {
    "task_id": 11,
    "text": "Write a function to add.",
    "code": "def add(a, b): return a + b",
    "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0"],
    "test_setup_code": "",
    "challenge_test_list": [],
}
STDIN = {
    "question_content": "Read a number, print its double.",
    "starter_code": "",
    "difficulty": "easy",
    "public_test_cases": json.dumps([{"input": "1\n", "output": "2\n", "testtype": "stdin"}]),
    "private_test_cases": json.dumps([{"input": "5\n", "output": "10\n", "testtype": "stdin"}]),
    "metadata": "{}",
}


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def packed(value) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


def metadata(problem):
    return json.loads(problem.metadata)


def test_gsm8k_takes_the_number_after_the_marks() -> None:
    found = maths.gsm8k({"question": "How many?", "answer": "48/2 = <<48/2=24>>24\n#### 1,024"}, WHERE)
    assert (found.question, found.answer, found.checker) == ("How many?", "1024", "number")
    with pytest.raises(UserError, match="file, line 1: column 'answer' ends in 'many'"):
        maths.gsm8k({"question": "How many?", "answer": "#### many"}, WHERE)


def test_math500_is_judged_by_equivalence_and_grouped_by_subject() -> None:
    found = maths.math500({"problem": "x?", "answer": r"\frac{1}{2}", "subject": "Algebra", "level": 5}, WHERE)
    assert (found.answer, found.checker, found.kind) == (r"\frac{1}{2}", "math", "Algebra")


@pytest.mark.parametrize("row", [{"problem": "x?", "answer": "073"}, {"Problem": "x?", "Answer": 73}])
def test_aime24_is_a_whole_number(row) -> None:
    assert maths.aime24(row, WHERE).answer == "73"
    with pytest.raises(UserError, match="write a whole number from 0 to 999"):
        maths.aime24({"problem": "x?", "answer": "1/2"}, WHERE)


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


def test_the_assertions_of_humaneval_stand_alone_with_the_code_that_they_need() -> None:
    found = metadata(code.humaneval(HUMANEVAL, WHERE))
    assert found["asserts"] == ["assert twice(1) == 2, 'one'", "assert math.isclose(twice(twice(2)), 8)"]
    assert found["setup"] == "import math"
    space: dict = {}
    exec(found["prefix"] + HUMANEVAL["canonical_solution"] + found["setup"], space)
    for line in found["asserts"]:
        exec(line, space)
    with pytest.raises(AssertionError):
        exec(found["asserts"][0], {"twice": lambda x: x})


def test_other_tests_of_humaneval_are_called_whole() -> None:
    found = metadata(code.humaneval({**HUMANEVAL, "test": LOOP}, WHERE))
    assert (found["asserts"], found["setup"]) == (["check(twice)"], LOOP)
    for test, message in (("def check(", "is not Python"), ("x = 1", "defines no function check")):
        with pytest.raises(UserError, match=message):
            code.humaneval({**HUMANEVAL, "test": test}, WHERE)


def test_mbpp_shows_its_tests_and_leaves_out_rows_of_other_splits() -> None:
    found = code.mbpp({**MBPP, "test_imports": ["import math"], "test_setup_code": "x = 1"}, WHERE)
    assert found is not None and all(test in found.question for test in MBPP["test_list"])
    assert metadata(found) == {"asserts": MBPP["test_list"], "setup": "import math\nx = 1"}
    assert code.mbpp({**MBPP, "task_id": 601}, WHERE) is None
    assert code.mbpp({**MBPP, "task_id": 2}, WHERE) is None


@pytest.mark.parametrize("pack", [lambda text: text, packed])
def test_livecodebench_joins_public_and_private_tests(pack) -> None:
    found = code.livecodebench({**STDIN, "private_test_cases": pack(STDIN["private_test_cases"])}, WHERE)
    tests = [{"input": "1\n", "output": "2\n"}, {"input": "5\n", "output": "10\n"}]
    assert metadata(found) == {"tests": tests}
    assert found.kind == "easy" and "standard input" in found.question


def test_livecodebench_calls_the_function_of_a_starter() -> None:
    case = {"input": "[1, 2]\n3", "output": "true", "testtype": "functional"}
    row = {
        **STDIN,
        "starter_code": "class Solution:\n    def has(self, xs, x):\n        ",
        "public_test_cases": json.dumps([case]),
        "private_test_cases": "",
        "metadata": json.dumps({"func_name": "has"}),
    }
    found = code.livecodebench(row, WHERE)
    assert metadata(found) == {"function": "has", "cases": [{"args": [[1, 2], 3], "expected": True}]}
    assert "class Solution" in found.question
    with pytest.raises(UserError, match="names no 'func_name'"):
        code.livecodebench({**row, "metadata": "{}"}, WHERE)


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        (packed(Evil()), "neither JSON nor packed tests"),
        ("not base64!", "neither JSON nor packed tests"),
        (json.dumps({"input": "1"}), "write a list of tests"),
        (json.dumps([{"input": "1"}]), "write a list of tests"),
    ],
)
def test_packed_tests_that_are_none_are_refused_and_run_nothing(tests, message, capsys) -> None:
    with pytest.raises(UserError, match=message):
        code.livecodebench({**STDIN, "private_test_cases": tests}, WHERE)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.problem])
def test_a_row_without_the_columns_of_a_task_names_them(name) -> None:
    task = TASKS[name]
    assert task.problem is not None
    with pytest.raises(UserError, match=r"file, line 1: no column '.*give a file with the task's usual columns"):
        task.problem({"unrelated": 1}, WHERE)
