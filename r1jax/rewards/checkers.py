"""Rules that judge an answer; a problem names the one that fits it."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable
from typing import Any

from r1jax.data import countdown, gym
from r1jax.data.number import read_number
from r1jax.data.problem import Checker, Problem


def check(problem: Problem, answer: str) -> float:
    """The score of an answer by the problem's checker: 0 or 1, between them only for tasks with part credit."""
    return float(_CHECKERS[problem.checker](problem, answer))


def prepare(problem: Problem) -> None:
    """Imports what the problem's checker needs, seconds for some, so that no deadline has to allow for it."""
    if problem.checker == "math":
        _math_verify()
    elif problem.checker == "gym":
        gym.scorer(json.loads(problem.metadata)["task"])


def _number(problem: Problem, answer: str) -> bool:
    given, expected = read_number(answer), read_number(problem.answer)
    return given is not None and expected is not None and given.equals(expected)


def _exact(problem: Problem, answer: str) -> bool:
    return answer.strip() == problem.answer.strip()


def _contains(problem: Problem, answer: str) -> bool:
    return problem.answer.casefold() in answer.casefold()


def _math(problem: Problem, answer: str) -> bool:
    if _exact(problem, answer):
        return True
    library = _math_verify()
    # Without its own time limits: they use signals, which the deadline of the worker makes needless.
    expected, given = (library.parse(_as_latex(text), parsing_timeout=0) for text in (problem.answer, answer))
    return library.verify(expected, given, timeout_seconds=0)


def _as_latex(text: str) -> str:
    """math-verify reads an expression such as x^2+1 whole only inside a formula."""
    return text if "$" in text or "\\boxed" in text else f"${text}$"


@functools.cache
def _math_verify() -> Any:
    import math_verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its time limits are off
    parsed = math_verify.parse("$1+x$", parsing_timeout=0)  # the first use loads its grammars
    math_verify.verify(parsed, parsed, timeout_seconds=0)
    return math_verify


def _countdown(problem: Problem, answer: str) -> bool:
    return countdown.solves(answer, **json.loads(problem.metadata))


def _gym(problem: Problem, answer: str) -> float:
    return gym.score(answer, problem.metadata)


_CHECKERS: dict[Checker, Callable[[Problem, str], float]] = {
    "number": _number,
    "math": _math,
    "exact": _exact,
    "contains": _contains,
    "countdown": _countdown,
    "gym": _gym,
}
