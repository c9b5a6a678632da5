"""Rewards: rules that judge completions, and worker processes that apply them under a deadline.

A file of your own holds a reward as soon as it says::

    from r1jax.rewards import Completion, Problem, reward

    @reward
    def brevity(problem: Problem, completion: Completion) -> float:
        return 1.0 if completion.tokens < 100 else 0.0
"""

from r1jax.data.problems.problem import Problem
from r1jax.rewards.base import Completion, RewardError, reward

__all__ = ["Completion", "Problem", "RewardError", "reward"]
