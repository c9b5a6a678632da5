"""Rows of HumanEval, MBPP, LiveCodeBench and verl as code problems."""

from __future__ import annotations

import base64
import json
import os
import pickle
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from r1jax.data.problems.code_rows import humaneval_problem, livecodebench_problem, mbpp_problem, verl_code_problem
from r1jax.data.problems.problem import Problem
from r1jax.errors import UserError
from r1jax.rewards.code.config import CodeConfig
from r1jax.rewards.code.isolation import choose_level
from r1jax.rewards.code.judge import judge
from r1jax.rewards.code.sandbox import Sandboxes
from r1jax.rewards.code.tests import read_tests


@pytest.fixture(scope="module")
def sandboxes() -> Iterator[Sandboxes]:
    found = Sandboxes(choose_level(CodeConfig()), CodeConfig(), ahead=2)
    yield found
    found.close()


def passes(problem: Problem, program: str, sandboxes: Sandboxes) -> bool:
    assert problem.checker == "code"
    return judge(program, read_tests(problem.metadata), sandboxes, 20.0, "all") == 1.0


HUMANEVAL = {
    "task_id": "HumanEval/900",
    "prompt": 'def add_one(n: int) -> int:\n    """ Adds one.\n    >>> add_one(1)\n    2\n    """\n',
    "canonical_solution": "    return n + 1\n",
    "test": "METADATA = {}\n\n\ndef check(candidate):\n    assert candidate(1) == 2\n    assert candidate(-1) == 0\n",
    "entry_point": "add_one",
}
MBPP = {
    "task_id": 900,
    "text": "Write a function to sum the pairs.",
    "code": "def helper(x):\n  return x\ndef sum(a, b):\n  return a + b",
    "test_list": ["assert sum(1, 2) == 3", "assert sum(10, -2) == 8"],
    "test_setup_code": "",
}


def lcb(testtype: str, public: Any, private: Any, **more: Any) -> dict[str, Any]:
    def cases(pairs: Any) -> list[dict[str, str]]:
        return [{"input": a, "output": b, "testtype": testtype} for a, b in pairs]

    packed = base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases(private))))).decode()
    row = {"question_content": "Solve it.", "public_test_cases": json.dumps(cases(public)), "difficulty": "easy"}
    return row | {"private_test_cases": packed, "starter_code": "", "metadata": "{}"} | more


def test_humaneval(sandboxes: Sandboxes) -> None:
    problem = humaneval_problem(HUMANEVAL)
    assert problem.question == HUMANEVAL["prompt"] and problem.kind == "humaneval"
    assert passes(problem, str(HUMANEVAL["canonical_solution"]), sandboxes)
    assert not passes(problem, "    return 2\n", sandboxes)


def test_mbpp_finds_the_function_that_its_tests_call(sandboxes: Sandboxes) -> None:
    """The name may be that of a function of Python, as in some of its problems."""
    problem = mbpp_problem(MBPP)
    assert "assert sum(10, -2) == 8" in problem.question and json.loads(problem.metadata)["entry_point"] == "sum"
    assert passes(problem, str(MBPP["code"]), sandboxes)
    assert not passes(problem, "def sum(a, b): return 3", sandboxes)
    row = MBPP | {"test_list": ["assert math.isclose(sum(1, 2), 3.0)"], "test_imports": ["import math"]}
    assert passes(mbpp_problem(row), str(MBPP["code"]), sandboxes)
    assert not passes(mbpp_problem(row), "def sum(a, b): return a - b", sandboxes)


def test_livecodebench_with_standard_input_and_with_functions(sandboxes: Sandboxes) -> None:
    problem = livecodebench_problem(lcb("stdin", [("3\n", "9\n")], [("4\n", "16\n"), ("-2\n", "4\n")]))
    assert passes(problem, "print(int(input()) ** 2)", sandboxes) and problem.kind == "easy"
    assert not passes(problem, "print(9)", sandboxes)
    starter = "class Solution:\n    def pairs(self, a: List[int], b: str) -> List[str]:\n        "
    row = lcb("functional", [('[1, 2]\n"x"', '["1x", "2x"]')], [('[]\n"y"', "[]")], starter_code=starter)
    problem = livecodebench_problem(row | {"metadata": '{"func_name": "pairs"}'})
    assert starter in problem.question
    assert passes(problem, f"{starter}return [f'{{x}}{{b}}' for x in a]", sandboxes)
    assert not passes(problem, f"{starter}return []", sandboxes)


def test_a_pickle_that_calls_something_is_refused_and_not_executed() -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return os.system, ("touch /tmp/r1jax-bomb",)

    for thing, found in ((Bomb(), "STACK_GLOBAL|GLOBAL"), ({"a": 1}, "EMPTY_DICT"), (b"[]", "BYTES")):
        packed = base64.b64encode(zlib.compress(pickle.dumps(thing))).decode()
        with pytest.raises(UserError, match=f"line 3: column 'private_test_cases' .*({found}).*give the tests as JSON"):
            livecodebench_problem(lcb("stdin", [("a", "b")], []) | {"private_test_cases": packed}, "line 3")
    assert not os.path.exists("/tmp/r1jax-bomb")


VERL = {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Square it."}]}


@pytest.mark.parametrize(
    ("truth", "right", "wrong"),
    [
        ({"inputs": ["3\n", "4\n"], "outputs": ["9", "16"]}, "print(int(input()) ** 2)", "print(9)"),
        ({"inputs": [["2", "3"]], "outputs": [["5"]]}, "print(int(input()) + int(input()))", "print()"),
        ({"fn_name": "f", "inputs": [[3], [4]], "outputs": [9, 16]}, "def f(x): return x * x", "def f(x): return 9"),
        (["assert f(3) == 9", "assert f(4) == 16"], "def f(x): return x * x", "def f(x): return 9"),
        ({"functional": "def check(g):\n    assert g(3) == 9\ncheck(f)"}, "def f(x): return x * x", "def f(x): pass"),
    ],
)
def test_verl(sandboxes: Sandboxes, truth: Any, right: str, wrong: str) -> None:
    row = VERL | {"reward_model": {"style": "rule", "ground_truth": json.dumps(truth)}, "data_source": "taco"}
    problem = verl_code_problem(row)
    assert (problem.question, problem.kind) == ("Square it.", "taco")
    assert passes(problem, right, sandboxes) and not passes(problem, wrong, sandboxes)


@pytest.mark.parametrize(
    ("read", "row", "message"),
    [
        (humaneval_problem, {"prompt": "a", "test": "b"}, "row 5: no text in column 'entry_point'"),
        (mbpp_problem, MBPP | {"test_list": []}, "row 5: no asserts in column 'test_list'"),
        (mbpp_problem, {"test_list": ["a"]}, "row 5: no text in column 'prompt'"),
        (livecodebench_problem, {"question_content": "a"}, "no text in column 'public_test_cases'"),
        (livecodebench_problem, lcb("stdin", [], []) | {"public_test_cases": "{"}, "'public_test_cases' is not JSON"),
        (livecodebench_problem, lcb("stdin", [], []) | {"private_test_cases": "a!"}, "neither JSON nor a packed text"),
        (livecodebench_problem, lcb("functional", [("1", "1")], []), "no func_name"),
        (livecodebench_problem, lcb("stdin", [], []) | {"public_test_cases": '[{"input": "a"}]'}, "cannot be read"),
        (verl_code_problem, VERL, "no column 'reward_model.ground_truth'"),
        (verl_code_problem, {"prompt": []}, "column 'prompt' has no message of the user"),
        (verl_code_problem, VERL | {"reward_model": {"ground_truth": "4"}}, "neither inputs and outputs nor asserts"),
    ],
)
def test_wrong_rows_are_one_line(read: Any, row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(row, "row 5")
