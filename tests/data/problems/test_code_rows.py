"""Rows of HumanEval, MBPP, LiveCodeBench and verl as code problems."""

from __future__ import annotations

import base64
import json
import os
import pickle
import zlib
from collections.abc import Iterator
from decimal import Decimal
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


def packed(value: Any) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


def lcb(testtype: str, public: Any, private: Any, **more: Any) -> dict[str, Any]:
    def cases(pairs: Any) -> list[dict[str, str]]:
        return [{"input": a, "output": b, "testtype": testtype} for a, b in pairs]

    hidden = packed(json.dumps(cases(private)))
    row = {"question_content": "Solve it.", "public_test_cases": json.dumps(cases(public)), "difficulty": "easy"}
    return row | {"private_test_cases": hidden, "starter_code": "", "metadata": "{}"} | more


def test_humaneval(sandboxes: Sandboxes) -> None:
    problem = humaneval_problem(HUMANEVAL)
    assert str(HUMANEVAL["prompt"]).rstrip() in problem.question and problem.kind == "humaneval"
    assert problem.answer == HUMANEVAL["canonical_solution"]
    assert passes(problem, str(HUMANEVAL["canonical_solution"]), sandboxes)
    assert not passes(problem, "    return 2\n", sandboxes)


def test_the_assertions_of_humaneval_are_tests_of_their_own_with_the_code_that_they_need() -> None:
    test = (
        "import math\n\nMETADATA = {'author': 'x'}\n\n\ndef check(candidate):\n    # a comment\n    'a text'\n"
        "    assert True, 'ok'\n    assert candidate(1) == 2, 'one'\n"
        "    assert math.isclose(candidate(candidate(2)), 4)\n"
    )
    found = json.loads(humaneval_problem(HUMANEVAL | {"test": test}).metadata)
    assert found["asserts"] == ["assert add_one(1) == 2, 'one'", "assert math.isclose(add_one(add_one(2)), 4)"]
    assert found["setup"] == "import math"
    space: dict[str, Any] = {}
    exec(found["prefix"] + str(HUMANEVAL["canonical_solution"]) + found["setup"], space)
    for line in found["asserts"]:
        exec(line, space)
    with pytest.raises(AssertionError):
        exec(found["asserts"][0], {"add_one": lambda x: x})
    assert read_tests(humaneval_problem(HUMANEVAL).metadata).count == 2


@pytest.mark.parametrize("first", ["for i in range(9):\n        assert candidate(i) == i + 1", "random.seed(0)"])
def test_other_tests_of_humaneval_are_called_whole(first: str, sandboxes: Sandboxes) -> None:
    test = f"import random\n\n\ndef check(candidate):\n    {first}\n    assert candidate(3) == 4\n"
    problem = humaneval_problem(HUMANEVAL | {"test": test})
    found = json.loads(problem.metadata)
    assert (found["asserts"], found["setup"]) == (["check(add_one)"], test)
    assert passes(problem, "    return n + 1", sandboxes) and not passes(problem, "    return n", sandboxes)


def test_mbpp_finds_the_function_that_its_tests_call(sandboxes: Sandboxes) -> None:
    """The name may be that of a function of Python, as in some of its problems."""
    problem = mbpp_problem(MBPP)
    assert all(test in problem.question for test in MBPP["test_list"])
    assert json.loads(problem.metadata)["entry_point"] == "sum"
    assert passes(problem, str(MBPP["code"]), sandboxes)
    assert not passes(problem, "def sum(a, b): return 3", sandboxes)
    more = {"test_imports": ["import math"], "test_setup_code": "x = 3.0"}
    row = MBPP | {"test_list": ["assert math.isclose(sum(1, 2), x)"]} | more
    assert json.loads(mbpp_problem(row).metadata)["setup"] == "import math\nx = 3.0"
    assert passes(mbpp_problem(row), str(MBPP["code"]), sandboxes)
    assert not passes(mbpp_problem(row), "def sum(a, b): return a - b", sandboxes)


def test_livecodebench_with_standard_input_and_with_functions(sandboxes: Sandboxes) -> None:
    problem = livecodebench_problem(lcb("stdin", [("3\n", "9\n")], [("4\n", "16\n"), ("-2\n", "4\n")]))
    pairs = [("3\n", "9\n"), ("4\n", "16\n"), ("-2\n", "4\n")]
    assert json.loads(problem.metadata) == {"tests": [{"input": a, "output": b} for a, b in pairs]}
    assert "standard input" in problem.question
    assert passes(problem, "print(int(input()) ** 2)", sandboxes) and problem.kind == "easy"
    assert not passes(problem, "print(9)", sandboxes)
    starter = "class Solution:\n    def pairs(self, a: List[int], b: str) -> List[str]:\n        "
    row = lcb("functional", [('[1, 2]\n"x"', '["1x", "2x"]')], [('[]\n"y"', "[]")], starter_code=starter)
    problem = livecodebench_problem(row | {"metadata": '{"func_name": "pairs"}'})
    assert starter.rstrip() in problem.question and "standard input" not in problem.question
    assert passes(problem, f"{starter}return [f'{{x}}{{b}}' for x in a]", sandboxes)
    assert not passes(problem, f"{starter}return []", sandboxes)


def test_livecodebench_takes_tests_as_json_as_lists_and_packed() -> None:
    rows = [lcb("stdin", [("a", "b")], [("c", "d")])]
    cases = [{"input": "c", "output": "d", "testtype": "stdin"}]
    rows += [rows[0] | {"private_test_cases": given} for given in (json.dumps(cases), cases)]
    rows.append(rows[0] | {"private_test_cases": [{"input": "c", "output": "d"}]})  # the type is that of most tests
    found = [livecodebench_problem(row) for row in rows]
    assert found == found[:1] * 4 and len(json.loads(found[0].metadata)["tests"]) == 2
    called = lcb("functional", [('["\u2028"]\n\n3', "true")], [], metadata='{"func_name": "Solution.has"}')
    (case,) = json.loads(livecodebench_problem(called).metadata)["cases"]
    assert case == {"args": [["\u2028"], 3], "expected": True}


def test_a_pickle_that_calls_something_is_refused_and_not_executed() -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return os.system, ("touch /tmp/r1jax-bomb",)

    for thing, found in ((Bomb(), "STACK_GLOBAL|GLOBAL"), ({"a": 1}, "EMPTY_DICT"), (b"[]", "BYTES")):
        row = lcb("stdin", [("a", "b")], []) | {"private_test_cases": packed(thing)}
        with pytest.raises(UserError, match=f"line 3: column 'private_test_cases' .*({found}).*give the tests as JSON"):
            livecodebench_problem(row, "line 3")
    assert not os.path.exists("/tmp/r1jax-bomb")


def rewarded(given: Any) -> dict[str, Any]:
    return {"reward_model": {"ground_truth": json.dumps(given)}}


PAIR = rewarded({"inputs": ["1"], "outputs": ["1"]})
VERL = {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Square it."}]}


@pytest.mark.parametrize(
    ("truth", "right", "wrong"),
    [
        ({"inputs": ["3\n", "4\n"], "outputs": ["9", "16"]}, "print(int(input()) ** 2)", "print(9)"),
        ({"inputs": [["2", "3"]], "outputs": [["5"]]}, "print(int(input()) + int(input()))", "print()"),
        ({"fn_name": "f", "inputs": [[3], [4]], "outputs": [9, 16]}, "def f(x): return x * x", "def f(x): return 9"),
        (
            {"fn_name": "f", "inputs": [[3], [4]], "outputs": [[9], [16]]},
            "def f(x): return x * x",
            "def f(x): return 9",
        ),
        (
            {"fn_name": "f", "inputs": [[3], [4]], "outputs": [[9], [16]]},
            "def f(x): return [x * x]",
            "def f(x): return 9,",
        ),
        ({"fn_name": "f", "inputs": [[3]], "outputs": [[[3, 3]]]}, "def f(x): return [x, x]", "def f(x): return x"),
        (
            {"fn_name": "f", "inputs": [[3], [4]], "outputs": [[9], []]},
            "def f(x): return [9] * (x < 4)",
            "def f(x): return 9",
        ),
        (["assert f(3) == 9", "assert f(4) == 16"], "def f(x): return x * x", "def f(x): return 9"),
        ({"functional": "def check(g):\n    assert g(3) == 9\ncheck(f)"}, "def f(x): return x * x", "def f(x): pass"),
    ],
)
def test_verl(sandboxes: Sandboxes, truth: Any, right: str, wrong: str) -> None:
    row = VERL | {"reward_model": {"style": "rule", "ground_truth": json.dumps(truth)}, "data_source": "taco"}
    problem = verl_code_problem(row)
    assert problem is not None and problem == verl_code_problem(row | {"reward_model": {"ground_truth": truth}})
    assert (problem.question, problem.kind) == ("Square it.", "taco")
    assert passes(problem, right, sandboxes) and not passes(problem, wrong, sandboxes)


@pytest.mark.parametrize("truth", ["4", "[0, 1)", "[0, 1]", '["a", "b"]', ["x+1"], "{x}", '{"a": 1}', 4, None])
def test_an_answer_in_verl_s_layout_is_no_code_problem(truth: Any) -> None:
    assert verl_code_problem(VERL | {"reward_model": {"ground_truth": truth}}) is None


def test_numbers_that_a_reader_gives_as_decimals_become_numbers_of_tests() -> None:
    truth = {"fn_name": "f", "inputs": [[Decimal("0.5")]], "outputs": [Decimal("1.5")]}
    problem = verl_code_problem(VERL | {"reward_model": {"ground_truth": truth}})
    assert problem is not None
    assert json.loads(problem.metadata)["cases"] == [{"args": [0.5], "expected": 1.5}]


@pytest.mark.parametrize(
    ("read", "row", "message"),
    [
        (humaneval_problem, {"prompt": "a", "test": "b"}, "row 5: no column 'entry_point'"),
        (humaneval_problem, HUMANEVAL | {"test": "def check("}, "row 5: column 'test' is not Python"),
        (humaneval_problem, HUMANEVAL | {"test": "x = 1"}, r"defines no function check\(candidate\)"),
        (mbpp_problem, MBPP | {"test_list": []}, "row 5: no asserts in column 'test_list'"),
        (mbpp_problem, MBPP | {"test_list": "assert"}, "row 5: column 'test_list' is 'assert': write a list of texts"),
        (mbpp_problem, MBPP | {"test_imports": [1]}, "row 5: column 'test_imports' is .*: write a list of texts"),
        (mbpp_problem, {"test_list": ["a"]}, r"row 5: no column 'prompt' \(or 'text'\)"),
        (livecodebench_problem, {"question_content": "a"}, "no column 'public_test_cases'"),
        (livecodebench_problem, lcb("stdin", [], []), "no test in 'public_test_cases' and 'private_test_cases'"),
        (
            livecodebench_problem,
            lcb("stdin", [], []) | {"public_test_cases": "{"},
            "'public_test_cases' is neither JSON",
        ),
        (livecodebench_problem, lcb("stdin", [], []) | {"private_test_cases": "a!"}, "neither JSON nor packed tests"),
        (
            livecodebench_problem,
            lcb("stdin", [], []) | {"private_test_cases": '{"input": "1"}'},
            "write a list of test",
        ),
        (
            livecodebench_problem,
            lcb("stdin", [], []) | {"public_test_cases": [{"input": 1, "output": 2}]},
            "write text",
        ),
        (livecodebench_problem, lcb("functional", [("1", "1")], []), "names no 'func_name'"),
        (livecodebench_problem, lcb("functional", [("1", "1")], [], metadata="{"), "'metadata' is not JSON"),
        (
            livecodebench_problem,
            lcb("functional", [("a", "1")], [], metadata='{"func_name": "f"}'),
            "'a', which is not JSON",
        ),
        (
            livecodebench_problem,
            lcb("stdin", [], []) | {"public_test_cases": '[{"input": "a"}]'},
            "write a list of tests",
        ),
        (verl_code_problem, {"prompt": []} | PAIR, r"column 'prompt' is \[\]: write some text"),
        (verl_code_problem, {"prompt": VERL["prompt"] * 2} | PAIR, "messages of the roles system, user, system, user"),
        (verl_code_problem, VERL | rewarded({"inputs": ["1"], "outputs": []}), "no output for each of its inputs"),
        (verl_code_problem, VERL | rewarded({"inputs": [1], "outputs": [1], "fn_name": "f"}), "that are no lists"),
        (verl_code_problem, VERL | rewarded({"asserts": 1}), "ground_truth.asserts' is 1: write a list of texts"),
    ],
)
def test_wrong_rows_are_one_line(read: Any, row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(row, "row 5")
