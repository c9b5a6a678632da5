"""The rewards of a batch of completions, and the interfaces of the objects that compute them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from r1jax.data.problems.problem import Problem
from r1jax.rewards.base import Completion

FULL_SCORE = 0.999  # a score above this counts as 1, which allows for rounding


@dataclasses.dataclass(frozen=True)
class Scores:
    """The rewards of N completions by R reward functions.

    values: [N, R] float32, without weights. NaN if a reward does not apply to the kind of problem; zeros if the
      completion's worker was killed at the deadline or died.
    total: [N] float32, the weighted sum of the rewards.
    names: R names of the rewards.
    timeouts, crashes: the numbers of completions that passed the deadline, and that ended their worker process.
    resolution: [N] float32 or a scalar; totals that differ by less are equal up to rounding (0: they are exact).
    """

    values: np.ndarray
    total: np.ndarray
    names: tuple[str, ...]
    timeouts: int
    crashes: int
    resolution: np.ndarray | float = 0.0

    @property
    def correct(self) -> np.ndarray:
        """[N] bool: True where the reward "accuracy" is 1. Partial credit, which some tasks give, is not correct."""
        return self.values[:, self.names.index("accuracy")] > FULL_SCORE


class Scorer(Protocol):
    """Computes all rewards of completions: a RewardPool, or RoutedRewards around one."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the rewards, in the order of Scores.values."""
        ...

    def score(self, problems: Sequence[Problem], completions: Sequence[Completion]) -> Scores:
        """The rewards of each problem's completion, in the same order."""
        ...

    def check(self, problems: Sequence[Problem], answers: Sequence[str]) -> np.ndarray:
        """[N] float32: the score of each answer by its problem's checker, NaN if that takes too long."""
        ...


class BatchReward(Protocol):
    """One reward that is computed for many completions at once on the device, such as a reward model's score.

    It may have an attribute ``resolution``: scores that differ by less are equal up to rounding. Without it, scores are
    exact.
    """

    name: str

    def score(self, problems: Sequence[Problem], completions: Sequence[Completion]) -> np.ndarray:
        """[N] float32: the reward of each problem's completion."""
        ...
