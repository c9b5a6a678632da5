"""What a reward is: a pure function of a problem and a completion."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable

from r1jax.data.problems.problem import Problem
from r1jax.data.text.template import Template
from r1jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Completion:
    """One sampled text.

    text: the assistant's whole text, what the prompt gave of it included.
    tokens: sampled tokens, the end token included.
    limit: the most tokens it could have had.
    finished: it ended by itself and not at the limit.
    """

    text: str
    tokens: int
    limit: int
    finished: bool
    template: Template

    @property
    def answer(self) -> str | None:
        """The answer by the template's rule; None without an answer, or if the limit may have cut its number."""
        if not (self.finished or self.template.tags) and self.text[-1:].isdigit():
            return None
        return self.template.answer(self.text)


@dataclasses.dataclass(frozen=True)
class Reward:
    """A function that ``@reward`` marked; it is still called as before."""

    function: Callable[[Problem, Completion], float]

    @property
    def name(self) -> str:
        """The function's name, under which it is configured and reported."""
        return self.function.__name__

    def __call__(self, problem: Problem, completion: Completion) -> float:
        """The reward of a completion."""
        return self.function(problem, completion)


class RewardError(UserError):
    """A reward raised, or returned something other than one finite number; notes hold the worker's traceback."""


def reward(function: Callable[[Problem, Completion], float]) -> Reward:
    """Marks a function of (problem, completion) as a reward.

    It returns one finite number, and depends on its arguments alone: it is called in worker processes, in any order.
    Raises UserError for a function that takes other arguments.
    """
    try:
        inspect.signature(function).bind(None, None)
    except TypeError as error:
        raise UserError(f"reward {function.__name__!r} must take (problem, completion): {error}") from error
    return Reward(function)
