"""Countdown problems and the check of their solutions."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from typing import Any

import pytest

from r1jax.data.problems import countdown
from r1jax.data.problems.dataset import ProblemsConfig, load_problems
from r1jax.data.problems.problem import Problem


@pytest.mark.parametrize(
    ("expression", "solved"),
    [
        ("(3 + 4) * 5", True),
        ("5*(3+4)", True),
        ("5 \N{MULTIPLICATION SIGN} (4 + 3)", True),
        ("5 * 3 + 4 * 5", False),  # 35, but it uses 5 twice
        ("3 + 4 * 5", False),  # 23, by precedence
        ("35", False),  # not one of the numbers
        ("(3 + 4) * 5 = 35", False),
        ("(3 + 4) * 5)", False),
        ("((3 + 4) * 5", False),
        ("(3 + 4) 5", False),
        ("3 / (4 - 4)", False),
        ("(3 + 4) ** 5", False),
        ("__import__('os')", False),
        ("", False),
        ("(" * 5000, False),
    ],
)
def test_countdown_expressions(expression: str, solved: bool) -> None:
    assert countdown.solves(expression, [3, 4, 5], 35) is solved


def test_countdown_steps_may_be_fractions_and_numbers_may_repeat() -> None:
    assert countdown.solves("8 / (3 - 8 / 3)", [3, 3, 8, 8], 24)
    assert not countdown.solves("8 / (3 - 8 / 3)", [3, 8, 8], 24)
    assert not countdown.solves("4 * 6", [4, 6], 24, operations="+-")


@pytest.mark.parametrize(("digits", "operations", "terms"), [(1, "+-", 2), (2, "+-*/", 4), (3, "+*", 6)])
def test_countdown_problems_have_a_solution_with_all_their_numbers(digits: int, operations: str, terms: int) -> None:
    problems = load_problems(ProblemsConfig("countdown", None, digits, operations, terms, 100, 20))
    for problem in problems.train + problems.held_out:
        target, *numbers = map(int, re.findall(r"\d+", problem.question))
        assert eval(problem.answer) == target  # every step is a whole number, so floats are exact
        assert Counter(map(int, re.findall(r"\d+", problem.answer))) == Counter(numbers)
        assert len(numbers) == terms and max(numbers) < 10**digits and target not in numbers
        assert set(re.findall(r"[-+*/]", problem.answer)) <= set(operations)
        assert countdown.solves(problem.answer, **json.loads(problem.metadata))


def test_held_out_numbers_are_not_trained_on_in_any_order() -> None:
    def form(problem: Problem) -> tuple[Any, ...]:
        data = json.loads(problem.metadata)
        return data["target"], *sorted(data["numbers"])

    config = ProblemsConfig("countdown", digits=1, terms=3, train_size=2000, held_out_size=500)
    sets = [load_problems(dataclasses.replace(config, seed=seed)) for seed in (0, 1)]
    train = {form(p) for s in sets for p in s.train}
    held_out = {form(p) for s in sets for p in s.held_out}
    assert len(held_out) > 20 and not train & held_out
