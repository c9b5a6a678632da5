"""Changes between two evaluations of the same problems, paired by problem."""

from __future__ import annotations

import dataclasses

import numpy as np

from r1jax.evaluation.estimators import bootstrap_intervals
from r1jax.evaluation.summary import Evaluation, Interval

_SEED = 0  # of the bootstrap, the same for every pair of models


@dataclasses.dataclass(frozen=True)
class Change:
    """The mean of (second - first) over problems or seeds, and its 95% interval; None with one problem or seed."""

    value: float
    interval: Interval | None

    @property
    def excludes_zero(self) -> bool:
        """True if there is an interval and 0 is outside it."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


def changes(first: Evaluation, second: Evaluation) -> dict[str, Change] | None:
    """The changes of the figures that both evaluations have by problem; None if reason_not_paired gives a reason.

    The bootstrap resamples problems and takes both models' values of each, so that the difficulty of a problem, which
    both models share, cancels: the interval is narrower than those of the two figures. Problems are matched by their
    hashes, in any order.
    """
    if reason_not_paired(first, second):
        return None
    orders = [np.argsort(one.problems, kind="stable") for one in (first, second)]
    differences = {
        name: np.array(second.by_problem[name])[orders[1]] - np.array(values)[orders[0]]
        for name, values in first.by_problem.items()
        if name in second.by_problem
    }
    intervals = bootstrap_intervals(differences, _SEED)
    return {name: Change(float(values.mean()), intervals[name]) for name, values in differences.items()}


def reason_not_paired(first: Evaluation, second: Evaluation) -> str:
    """Why two evaluations cannot be compared problem by problem; "" if they can."""
    if not (first.problems and second.problems):
        return "evaluated by an older version, which kept no figures by problem"
    return "" if sorted(first.problems) == sorted(second.problems) else "on other problems"
