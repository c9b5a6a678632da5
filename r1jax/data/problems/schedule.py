"""Schedule: the problems that each training step asks."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Sequence

import numpy as np

from r1jax.data.problems.problem import Problem


def problem_batch(
    problems: Sequence[Problem],
    step: int,
    size: int,
    seed: int,
    attempt: int = 0,
    attempts_per_step: int = 1,
    earlier: Sequence[int] = (),
) -> list[Problem]:
    """The ``size`` problems of one attempt of one step. The result depends on the arguments alone.

    The first attempts of all steps go through the problems in a random order, one epoch after another: after any step,
    no problem has been asked more than once more often than another. A new random order begins at a step before which
    all problems have been asked equally often, so no step contains parts of two orders. Later attempts of a step start
    at other positions of the same order. A step repeats no problem if there are enough for all its attempts, and an
    attempt repeats none if there are at least ``size``.

    attempt: 0 for the first samples of a step, above 0 when the step samples again.
    attempts_per_step: the largest number of attempts in a step.
    earlier: sizes of the first steps, if they differ from ``size``.
    """
    n = len(problems)
    ends = [0, *itertools.accumulate([*earlier[:step], *[size] * (step - len(earlier))])]  # asked before each step
    orders = sum(end % n == 0 for end in ends[1:])  # orders that are used up
    start = ends[-1] + attempt * max(size, n // attempts_per_step)
    order = _order(n, seed, orders)
    return [problems[order[(start + i) % n]] for i in range(size)]


@functools.lru_cache(maxsize=2)  # consecutive steps have the same order
def _order(n: int, seed: int, orders: int) -> np.ndarray:
    """Random order of ``n`` problems after ``orders`` orders that are used up."""
    return np.random.default_rng((seed, orders)).permutation(n)


def warn_of_repeats(problems: Sequence[Problem], size: int, settings: str) -> None:
    """Warns if a step asks for more problems than there are, and names the settings to change."""
    if len(problems) < size:
        warnings.warn(
            f"a step asks for {size} problems but there are only {len(problems)}, so some repeat within a step: "
            f"lower {settings}, or provide more problems",
            stacklevel=3,
        )
