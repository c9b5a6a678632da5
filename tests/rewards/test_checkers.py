"""Answers judged by the checker of their problem."""

from __future__ import annotations

import json

import pytest

from r1jax.data.problems import gym
from r1jax.data.problems.problem import Problem
from r1jax.rewards.rules import accuracy
from tests.rewards.helpers import answered


@pytest.mark.parametrize(
    ("expected", "answer", "right"),
    [
        ("85", "85", True),
        ("85", " 85. ", True),
        ("85", "85.0", True),
        ("85", "170/2", True),
        ("1234", "1,234", True),
        ("1,234", "1234", True),
        ("0.5", "1/2", True),
        ("-5", "\N{MINUS SIGN}5", True),
        ("85", "-85", False),
        ("85", "8 5", False),
        ("85", "about 85", False),
        ("0.3333", "1/3", False),
        ("9007199254740993", "9007199254740992", False),  # equal as floats
        ("85", "", False),
        ("100000", "1e5", True),
        ("5", "1e5", False),
        ("6", "10^6", False),
        ("18", "18 cm^2", True),
        ("2", "18 cm^2", False),
        ("5", "1,2345", False),
        ("5 km", "5 m", False),
        ("18 dollars", "$18", True),
        ("1.5", "1 1/2", True),
        ("50", "50%", True),
        ("0.5", "50%", True),
        ("5", "50%", False),
        ("0.00002", "2e-05", True),
        ("1e20", "100000000000000000000", True),
    ],
)
def test_numbers_are_compared_by_value(expected: str, answer: str, right: bool) -> None:
    assert accuracy(Problem("q", expected, "test", "number"), answered(answer)) == right


@pytest.mark.parametrize(
    ("expected", "answer", "right"),
    [
        ("1/2", r"\frac{2}{4}", True),
        ("x^2 + 2x + 1", "(x+1)^2", True),
        (r"$\sqrt{8}$", r"2\sqrt{2}", True),
        ("12", r"\boxed{12}", True),
        (r"\{1, 2\}", r"\{2, 1\}", True),
        ("(1, 2)", "(2, 1)", False),
        ("x^2 + 1", "x^2 - 1", False),
        ("12", "13", False),
        ("12", "", False),
        ("12", r"\frac{", False),
    ],
)
def test_mathematics_is_compared_by_meaning(expected: str, answer: str, right: bool) -> None:
    assert accuracy(Problem("q", expected, "test", "math"), answered(answer)) == right


def test_exact_answers_are_compared_character_by_character() -> None:
    problem = Problem("q", "Paris\n", "test", "exact")
    assert accuracy(problem, answered(" Paris ")) == 1
    assert accuracy(problem, answered("paris")) == 0


def test_countdown_answers_are_any_solution() -> None:
    metadata = json.dumps({"numbers": [3, 4, 5], "target": 35, "operations": "+-*/"})
    problem = Problem("q", "(3 + 4) * 5", "countdown", "countdown", metadata)
    assert accuracy(problem, answered("5 * (4 + 3)")) == 1
    assert accuracy(problem, answered("35")) == 0


def test_gym_answers_are_judged_by_their_task() -> None:
    _, problem = next(gym.generate("spell_backward", seed=0))
    assert accuracy(problem, answered(problem.answer)) == 1
    # This task gives partial credit for correct letters, unlike the other checkers.
    assert 0 < accuracy(problem, answered(problem.answer[:-1] + "#")) < 1
