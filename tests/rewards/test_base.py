"""Functions marked as rewards."""

from __future__ import annotations

from r1jax.data.problems.problem import Problem
from r1jax.rewards.base import Completion, reward
from tests.rewards.helpers import SUM, completion


def test_a_reward_can_be_called_like_its_function() -> None:
    @reward
    def constant(problem: Problem, completion: Completion) -> float:
        return 0.25

    assert constant.name == "constant" and constant(SUM, completion("")) == 0.25
