"""Checkers: rules that judge an answer; each problem names its checker."""

from __future__ import annotations

import json
from collections.abc import Callable

from r1jax.data.problems import countdown, gym
from r1jax.data.problems.problem import Checker, Problem
from r1jax.data.text.numbers import read_number
from r1jax.rewards import expressions, mathematics
from r1jax.rewards.code.service import SERVICE


def check(problem: Problem, answer: str) -> float:
    """The score of an answer by the problem's checker: 0 or 1, or between them for tasks that give partial credit."""
    return float(_CHECKERS[problem.checker](problem, answer))


def prepare(problem: Problem) -> None:
    """Imports the libraries of the problem's checker, and starts its sandboxes, which no deadline should include."""
    if problem.checker == "math":
        expressions.library()
    elif problem.checker == "gym":
        gym.score_function(json.loads(problem.metadata)["task"])
    elif problem.checker == "code":
        SERVICE.start()


def _number(problem: Problem, answer: str) -> bool:
    given, expected = read_number(answer), read_number(problem.answer)
    return given is not None and expected is not None and given.equals(expected)


def _exact(problem: Problem, answer: str) -> bool:
    return bool(answer.strip()) and answer.strip() == problem.answer.strip()


def _contains(problem: Problem, answer: str) -> bool:
    return problem.answer.casefold() in answer.casefold()


def _math(problem: Problem, answer: str) -> bool:
    return mathematics.equivalent(problem.answer, answer)


def _countdown(problem: Problem, answer: str) -> bool:
    return countdown.solves(answer, **json.loads(problem.metadata))


def _gym(problem: Problem, answer: str) -> float:
    return gym.score(answer, problem.metadata)


def _code(problem: Problem, answer: str) -> float:
    return SERVICE.score(problem, answer)


_CHECKERS: dict[Checker, Callable[[Problem, str], float]] = {
    "number": _number,
    "math": _math,
    "exact": _exact,
    "contains": _contains,
    "countdown": _countdown,
    "gym": _gym,
    "code": _code,
}
