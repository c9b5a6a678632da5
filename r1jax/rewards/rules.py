"""The built-in rewards."""

from __future__ import annotations

from r1jax.data.problem import Problem
from r1jax.rewards.base import Completion, reward
from r1jax.rewards.checkers import check


@reward
def accuracy(problem: Problem, completion: Completion) -> float:
    """The score of the answer by the problem's checker; 0 where the template finds no answer."""
    answer = completion.answer
    return 0.0 if answer is None else check(problem, answer)


@reward
def format(problem: Problem, completion: Completion) -> float:
    """1 where the text is well formed by the template, else 0 (arXiv 2501.12948, section 2.2)."""
    return float(completion.template.well_formed(completion.text))


@reward
def length(problem: Problem, completion: Completion) -> float:
    """-tokens / limit, from 0 down to -1 for a completion that fills its limit."""
    return -completion.tokens / completion.limit


RULES = {rule.name: rule for rule in (accuracy, format, length)}
