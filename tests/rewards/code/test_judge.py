"""Verdicts on honest programs: functions with cases, standard input and output, and test code."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from r1jax.data.problems.problem import Problem
from r1jax.errors import UserError
from r1jax.rewards.base import Completion, RewardError
from r1jax.rewards.code.config import CodeConfig
from r1jax.rewards.code.isolation import choose_level
from r1jax.rewards.code.judge import judge, same_output, same_value
from r1jax.rewards.code.sandbox import Sandboxes
from r1jax.rewards.code.tests import Case, read_tests
from r1jax.rewards.config import parse_rewards
from r1jax.rewards.pool import RewardPool
from tests.rewards.helpers import answered, completion


@pytest.fixture(scope="module")
def sandboxes() -> Iterator[Sandboxes]:
    config = CodeConfig()
    found = Sandboxes(choose_level(config), config, ahead=2)
    yield found
    found.close()


def score(sandboxes: Sandboxes, program: str, credit: Any = "share", seconds: float = 20.0, **tests: Any) -> float:
    return judge(program, read_tests(json.dumps(tests)), sandboxes, seconds, credit)


def test_functions_are_compared_by_value_and_type(sandboxes: Sandboxes) -> None:
    values = [1, True, None, 2.5, "é\ud800\n", [1, [2]], {"tuple": [1, {"set": [2, 3]}]}, {"dict": [[1, "a"]]}, 10**30]
    cases = [{"args": [i], "expected": value} for i, value in enumerate(values)]
    program = "V = [1, True, None, 2.5, 'é\\ud800\\n', [1, [2]], (1, {2, 3}), {1: 'a'}, 10**30]\ndef f(i): return V[i]"
    assert score(sandboxes, program, function="f", cases=cases) == 1.0
    wrong = "V = [True, 1, 0, 2.0, 'é', [1, (2, 3)], [1, {2, 3}], {True: 'a'}, 10**30 + 1]\ndef f(i): return V[i]"
    assert score(sandboxes, wrong, function="f", cases=cases) == 0.0


@pytest.mark.parametrize(
    ("given", "expected", "same"),
    [
        (1, 1.0, True),
        (True, 1, False),
        (1, True, False),
        (None, None, True),
        (0, None, False),
        ((1, 2), [1, 2], True),
        ([1, 2], (1, 2), False),
        ([True], [1], False),
        (float("nan"), float("nan"), True),
        ({1: 2}, {True: 2}, False),
        ({1: 2}, {1: 2.0}, True),
        ({1, 2}, frozenset((1, 2)), False),
        ({True}, {1}, False),
        ("a", b"a", False),
    ],
)
def test_values(given: Any, expected: Any, same: bool) -> None:
    assert same_value(given, expected) == same


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("a b\n", "a b", True),
        ("a  \nb\n\n", "a\nb", True),
        ("1.0 2\n", "1 2.00", True),
        ("a\n\nb", "a\nb", False),
        (" a  b", "a b", True),
        ("1 2", "12", False),
        ("nan", "nan", True),
        ("sNaN", "nan", False),
        ("1e9999999", "1e9999998", False),
        ("yes", "YES", False),
        ("", "", True),
    ],
)
def test_outputs(printed: str, expected: str, same: bool) -> None:
    assert same_output(printed, expected) == same


def test_programs_read_standard_input(sandboxes: Sandboxes) -> None:
    tests = [{"input": "3\n1 2 3\n", "output": "6"}, {"input": "1\n5\n", "output": "5"}]
    program = "import sys\nn = int(input())\nprint(sum(map(int, sys.stdin.readline().split())))"
    assert score(sandboxes, program, tests=tests) == 1.0
    assert score(sandboxes, f"{program}\nsys.exit(0)", tests=tests) == 1.0
    assert score(sandboxes, f"{program}\nsys.exit(1)", tests=tests) == 0.0
    assert score(sandboxes, f"if __name__ == '__main__':\n    print(6)\n    {'pass'}", tests=tests) == 0.5
    assert score(sandboxes, "print(6)", tests=tests, credit="all") == 0.0


def test_a_slow_test_leaves_the_earlier_ones(sandboxes: Sandboxes) -> None:
    cases = [{"args": [i], "expected": i} for i in range(4)]
    program = "def f(i):\n    while i == 2: pass\n    return i"
    assert score(sandboxes, program, function="f", cases=cases, seconds=0.5) == 0.5
    assert score(sandboxes, program, function="f", cases=cases, seconds=0.5, credit="all") == 0.0


HUMANEVAL = """
def check(candidate):
    assert candidate([1.0, 2.0]) == 1.5
    assert abs(candidate([0.1] * 3) - 0.1) < 1e-9
    try:
        candidate([])
    except ZeroDivisionError:
        return
    assert False
"""
PREFIX = 'from typing import List\n\n\ndef mean(values: List[float]) -> float:\n    """ The mean. """\n'


@pytest.mark.parametrize(
    ("program", "passes"),
    [
        ("    return sum(values) / len(values)\n", True),
        ("return sum(values) / len(values)", True),  # an answer in tags is stripped
        ("    return sum(values) / len(values)\n\nprint(mean([1]))\n\ndef other(:", True),
        ("def mean(values: List[float]):\n    return sum(values) / len(values)", True),
        ("def mean(values):\n    return 1.5", False),
        ("    return sum(values) / len(values) if values else 0\n", False),
    ],
)
def test_test_code_that_calls_a_candidate(sandboxes: Sandboxes, program: str, passes: bool) -> None:
    tests = {"asserts": ["check(mean)"], "setup": HUMANEVAL, "prefix": PREFIX, "entry_point": "mean"}
    assert score(sandboxes, program, **tests) == passes


def test_functions_before_the_entry_point_are_the_question_s_own(sandboxes: Sandboxes) -> None:
    """As in HumanEval/38, whose test encodes texts with a function of the prompt."""
    prefix = "def encode(s):\n    return s[::-1]\n\n\ndef decode(s):\n    ''' The inverse. '''\n"
    tests = {"asserts": ["check(decode)"], "prefix": prefix, "entry_point": "decode"}
    tests["setup"] = "def check(candidate):\n    assert candidate(encode('abc')) == 'abc'"
    assert score(sandboxes, "    return s[::-1]\n", **tests) == 1.0
    assert score(sandboxes, "def encode(s): return s\ndef decode(s): return s", **tests) == 0.0


def test_asserts_are_counted(sandboxes: Sandboxes) -> None:
    asserts = ["assert set(f([3, 4])) == {3, 4}", "assert f([1]) == [2]", "assert f(x) == 1", "assert f([1])"]
    assert score(sandboxes, "def f(x): return x", asserts=asserts) == 0.5
    # Objects that do not cross can be handed back to the candidate, as in MBPP/601.
    asserts = ["assert longest([Pair(5, 24), Pair(15, 25)]) == 2", "assert Pair(1, 2).a == 1", "assert Pair(1, 2)"]
    program = (
        "class Pair:\n    def __init__(self, a, b): self.a = a\ndef longest(pairs): return sum(p.a > 1 for p in pairs)"
    )
    assert score(sandboxes, program, asserts=asserts) == pytest.approx(1 / 3)


def test_simple_asserts_need_no_sandbox_of_their_own() -> None:
    tests = read_tests(json.dumps({"asserts": ["assert f((1, 2), -3) == {'a': [1]}"]}))
    assert tests.single == (Case("f", ((1, 2), -3), {"a": [1]}, strict=False),) and not tests.asserts
    for other in (
        "assert f(1) == g(1)",
        "assert f(x) == 1",
        "assert f(1) != 1",
        "assert f(1) == 1, 'no'\nx = 1",
        "f(:",
    ):
        assert read_tests(json.dumps({"asserts": [other]})).asserts == (other,)


def test_methods_of_a_solution_class_are_called(sandboxes: Sandboxes) -> None:
    program = "class Solution:\n    def add(self, a: List[int]) -> int:\n        return sum(a)"
    cases = [{"args": [[1, 2]], "expected": 3}]
    assert score(sandboxes, program, function="add", cases=cases, prefix="from typing import *\n") == 1.0


@pytest.mark.parametrize(
    "metadata",
    [
        *("", "{}", "[]", '{"tests": []}', '{"tests": [{"input": "a"}]}', '{"cases": [1]}'),
        '{"function": "f", "wrapped": true, "cases": [{"args": [], "expected": [1, 2]}]}',
    ],
)
def test_metadata_without_tests_is_refused(metadata: str) -> None:
    with pytest.raises(ValueError, match="metadata has no tests"):
        read_tests(metadata)


def code_problem(**tests: Any) -> Problem:
    return Problem("Double x.", "", "code", "code", json.dumps(tests))


DOUBLE = code_problem(function="f", cases=[{"args": [1], "expected": 2}, {"args": [2], "expected": 4}])
BLOCK = "```python\ndef f(x):\n    return {}\n```"


def test_the_pool_judges_programs_by_accuracy_and_by_code() -> None:
    texts: list[tuple[Completion, float]] = [
        (completion(f"Here:\n{BLOCK.format('2 * x')}\nDone.", "code"), 1),
        (completion(BLOCK.format("2"), "code"), 0.5),
        (answered(BLOCK.format("x + x")), 1),
        (answered("def f(x): return x * 2"), 1),
        (completion(f"<think>{BLOCK.format('2 * x')}</think> I am done.", "r1"), 0),
        (completion(f"<think>hm</think>{BLOCK.format('2 * x')}", "r1"), 1),
        (completion(f"{BLOCK.format('2 * x')}\n{BLOCK.format('x')}", "code"), 0),  # the last block counts
        (completion("<think>hm</think>~~~py\ndef f(x): return x * 2\n~~~", "r1"), 1),
        (completion(f"<think>{BLOCK.format('2 * x')}</think> I am done.", "code"), 0),
        (completion(f"{BLOCK.format('2 * x')}</think> I am done.", "code"), 0),  # the prompt opened the reasoning
        (completion(f"<think>{BLOCK.format('2 * x')}", "code"), 0),  # the reasoning was cut
        (completion(f"<think>{BLOCK.format('x')}</think>{BLOCK.format('2 * x')}", "code"), 1),
        (completion("", "code"), 0),
        (completion("def f(x): return y", "code"), 0),
    ]
    with RewardPool(parse_rewards(["accuracy", "code", "format=0"]), 2, 20.0, CodeConfig(credit="share")) as pool:
        scores = pool.score([DOUBLE] * len(texts), [one for one, _ in texts])
        np.testing.assert_allclose(scores.values[:, 0], [value for _, value in texts])
        np.testing.assert_allclose(scores.values[:, 1], [value for _, value in texts])
        np.testing.assert_array_equal(scores.values[:3, 2], [1, 1, 1])
        np.testing.assert_array_equal(scores.values[[6, -2, -1], 2], 0)
        np.testing.assert_allclose(pool.check([DOUBLE] * 2, [BLOCK.format("2 * x"), "x"]), [1, 0])
        with pytest.raises(RewardError, match=r"Double x.*cannot be judged by tests: its metadata has no tests"):
            pool.score([code_problem()], [texts[0][0]])


def test_settings_of_the_code_reward_change_results() -> None:
    """Time and memory; a deadline of the pool does not include the time of the tests."""
    slow = completion(BLOCK.format("__import__('time').sleep(0.6) or 2 * x"), "code")
    large = completion(BLOCK.format("len(bytearray(100 * 2**20)) and 2 * x"), "code")
    hasty, small = CodeConfig(seconds=1.0, memory=256), CodeConfig(memory=96, isolation="rlimits")
    for config, expected in ((hasty, [0, 1]), (small, [1, 0])):
        with RewardPool(parse_rewards(["code"]), 1, 0.5, config) as pool:
            scores = pool.score([DOUBLE] * 2, [slow, large])
            np.testing.assert_array_equal(scores.values[:, 0], expected)
            assert scores.timeouts == 0
            children = psutil.Process().children()
        # The worker removed the folders of the sandboxes that were ahead.
        assert not [
            one for child in children for one in Path(tempfile.gettempdir()).glob(f"r1jax-sandbox-{child.pid}-*")
        ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"seconds": 0.0}, "above 0"), ({"seconds": float("inf")}, "finite"), ({"memory": 10}, "at least 64 megabytes")],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CodeConfig(**settings)


def test_a_level_that_is_demanded_and_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from r1jax.rewards.code import isolation

    monkeypatch.setattr(isolation, "missing", lambda level: "" if level == "rlimits" else f"no {level} here")
    with pytest.raises(UserError, match=r"code.isolation=bwrap does not work here \(no bwrap here\)"):
        choose_level(CodeConfig(isolation="bwrap"))
    with pytest.warns(UserWarning, match="under limits alone.*no bwrap here.*no unshare here"):
        assert choose_level(CodeConfig()) == "rlimits"
    assert choose_level(CodeConfig(isolation="rlimits")) == "rlimits"
