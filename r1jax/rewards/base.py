"""Rewards: pure functions of a problem and a completion."""

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

    text: the assistant's whole text, including its start in the prompt.
    tokens: the number of sampled tokens, including the end token.
    limit: the largest number of tokens it could have.
    finished: True if it ended with an end token, not at the limit.
    template: the template of the prompt, which reads the answer and the reasoning from the text.
    """

    text: str
    tokens: int
    limit: int
    finished: bool
    template: Template

    @property
    def answer(self) -> str | None:
        """The answer that the template finds in the text; None without one, or if the limit may have cut its number."""
        if not (self.finished or self.template.tags) and self.text[-1:].isdigit():
            return None
        return self.template.answer(self.text)


@dataclasses.dataclass(frozen=True)
class Reward:
    """A function that ``@reward`` marks; it can still be called."""

    function: Callable[[Problem, Completion], float]

    @property
    def name(self) -> str:
        """The name of the function, which configs and metrics use."""
        return self.function.__name__

    def __call__(self, problem: Problem, completion: Completion) -> float:
        """The reward of a completion."""
        return self.function(problem, completion)


class RewardError(UserError):
    """A reward raised an exception, or did not return one finite number; a note holds the worker's traceback."""


def reward(function: Callable[[Problem, Completion], float]) -> Reward:
    """Marks a function of (problem, completion) as a reward.

    The function must return one finite number that depends only on its arguments, since worker processes call it in any
    order.

    Raises:
      UserError: if the function takes other arguments.
    """
    try:
        inspect.signature(function).bind(None, None)
    except TypeError as error:
        raise UserError(f"reward {function.__name__!r} must take (problem, completion): {error}") from error
    return Reward(function)
