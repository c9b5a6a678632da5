"""What reinforcement learning changes: the same problems before and after it, over several runs.

DeepSeekMath (arXiv 2402.03300, section 5.2.2) finds that RL raises maj@K and leaves pass@K where it was: it makes right
answers more frequent and adds no ability. The functions here test that on evaluations with many samples per problem.
Intervals are 95% bootstrap intervals over problems of the mean over runs, paired for changes.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from r1jax.evaluation.estimators import bootstrap_intervals, bootstrap_means, pass_at_k
from r1jax.evaluation.summary import Evaluation, Interval, shown_ks
from r1jax.settings import from_json

LEVELS = (0.0, 1 / 64, 1 / 8, 1 / 2, 1.0)  # upper bounds of the levels of difficulty, of the base's pass@1
MARGIN = 0.05  # a change whose interval lies within this distance of 0 is none
_SEED = 0  # of the bootstrap
_ROUNDING = 1e-12

Verdict = Literal["rises", "falls", "unchanged", "inconclusive"]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over problems and runs, its interval (None with one problem), and the mean of each run."""

    value: float
    interval: Interval | None
    runs: tuple[float, ...]

    def verdict(self, margin: float = MARGIN) -> Verdict:
        """Rises or falls if the interval excludes 0, unchanged if it lies within ``margin`` of 0, else inconclusive."""
        if self.interval is None:
            return "inconclusive"
        low, high = self.interval
        if low > 0 or high < 0:
            return "rises" if low > 0 else "falls"
        return "unchanged" if max(-low, high) <= margin else "inconclusive"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A figure before and after RL, and its change."""

    before: Estimate
    after: Estimate
    change: Estimate


@dataclasses.dataclass(frozen=True)
class Crossing:
    """The smallest k at which the model that is better at k = 1 is the worse one; None if there is none."""

    k: int | None
    interval: tuple[int | None, int | None]  # None as an end: no crossing up to the largest k
    share: float  # of the bootstrap resamples in which the curves cross
    runs: tuple[int | None, ...]


@dataclasses.dataclass(frozen=True)
class Solvability:
    """Numbers of problems with no right sample before RL and one after it, and the reverse."""

    became: tuple[int, ...]  # of each run
    lost: tuple[int, ...]
    by_chance: float | None  # became solvable between two evaluations of the same base; None if no base has two
    never_before: tuple[int, ...]  # indices of problems without a right sample in any evaluation before RL
    runs_after: tuple[int, ...]  # for each of these, the number of runs with a right sample after RL


@dataclasses.dataclass(frozen=True)
class Level:
    """The problems of one level of difficulty: the base's pass@1 is above ``above`` and at most ``up_to``."""

    above: float | None  # None: pass@1 is 0
    up_to: float
    problems: int
    pass_at_1: Comparison
    pass_at_n: Comparison


@dataclasses.dataclass(frozen=True)
class RLChange:
    """The whole comparison of P problems with n samples each in S runs."""

    samples: int  # n
    problems: tuple[str, ...]  # [P] hashes, sorted
    correct_before: tuple[tuple[int, ...], ...]  # [S][P] right samples
    correct_after: tuple[tuple[int, ...], ...]
    pass_at: dict[int, Comparison]  # of every k from 1 to n
    maj_at: dict[int, Comparison]  # of the k that tables show
    maj_mean: Comparison  # the mean of maj_at over its k
    entropy: Comparison | None  # None if an evaluation did not record it
    crossing: Crossing
    solvability: Solvability
    levels: tuple[Level, ...]

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> RLChange:
        """The RLChange that ``dataclasses.asdict`` and JSON stored: keys became text and tuples became lists."""
        by_k = {
            name: {int(k): from_json(Comparison, one) for k, one in fields[name].items()}
            for name in ("pass_at", "maj_at")
        }
        hints = typing.get_type_hints(cls)
        return cls(**by_k, **{name: from_json(hints[name], fields[name]) for name in hints if name not in by_k})

    def verdicts(self) -> dict[str, Verdict]:
        """The verdicts on maj@k, as its mean over k, and on pass@n; the claim expects that they rise and stay.

        The mean over k and not maj@n, since the votes of many samples of two models may both be near 100%.
        """
        return {"maj": self.maj_mean.change.verdict(), "pass": self.pass_at[self.samples].change.verdict()}


def rl_change(runs: Sequence[tuple[Evaluation, Evaluation]], bases: Sequence[str] = ()) -> RLChange:
    """Compares evaluations before and after RL.

    runs: one pair for each run, all of the same problems with the same number of samples, in any order of the problems.
    bases: a name of each run's base; runs with equal names evaluated the same weights. Raises ValueError if problems or
    samples differ.
    """
    flat = [one for pair in runs for one in pair]
    hashes, n = sorted(flat[0].problems), flat[0].samples_per_problem
    if not hashes or any(sorted(one.problems) != hashes or one.samples_per_problem != n for one in flat):
        raise ValueError("the evaluations are not of the same problems and samples")
    counts = np.rint(n * _by_problem(runs, "pass_at_1")).astype(int)  # [2, S, P]
    curves = np.stack([[pass_curve(one, n) for one in side] for side in counts])  # [2, S, P, n]
    maj = {k: _by_problem(runs, f"maj_at_{k}") for k in shown_ks(n) if k > 1}
    known = all("entropy" in one.by_problem for one in flat)
    shares = counts[0].mean(axis=0) / n
    return RLChange(
        samples=n,
        problems=tuple(hashes),
        correct_before=tuple(tuple(row) for row in counts[0].tolist()),
        correct_after=tuple(tuple(row) for row in counts[1].tolist()),
        pass_at=_comparisons({k: curves[..., k - 1] for k in range(1, n + 1)}),
        maj_at=_comparisons(maj),
        maj_mean=_comparisons({0: np.mean(list(maj.values()), axis=0)})[0],
        entropy=_comparisons({0: _by_problem(runs, "entropy")})[0] if known else None,
        crossing=_crossing(curves),
        solvability=solvability(counts[0], counts[1], bases),
        levels=tuple(
            Level(
                above=LEVELS[i - 1] if i else None,
                up_to=LEVELS[i],
                problems=int(chosen.sum()),
                **{f"pass_at_{name}": _comparisons({0: curves[:, :, chosen, at]})[0] for name, at in _ENDS},
            )
            for i in range(len(LEVELS))
            if (chosen := levels_of(shares) == i).any()
        ),
    )


_ENDS = (("1", 0), ("n", -1))  # of the curves


def pass_curve(correct: np.ndarray, n: int) -> np.ndarray:
    """pass@k for k = 1..n [P, n] of problems with ``correct`` [P] right samples among n."""
    table = np.arange(n) < np.asarray(correct)[:, None]
    return np.stack([pass_at_k(table, k) for k in range(1, n + 1)], axis=1)


def first_crossing(change: np.ndarray) -> int | None:
    """The smallest k at which change [K] has the opposite sign of that at k = 1; None if there is none.

    change: the difference of two curves at k = 1..K. Curves that meet, as two that reach 100% do, have not crossed.
    """
    change = np.where(np.abs(change) < _ROUNDING, 0.0, change)
    opposite = np.sign(change) * np.sign(change[0]) < 0
    return int(opposite.argmax()) + 1 if opposite.any() else None


def solvability(before: np.ndarray, after: np.ndarray, bases: Sequence[str] = ()) -> Solvability:
    """Which problems became solvable; before, after: [S, P] right samples of S runs; bases as in rl_change."""
    pairs = [(i, j) for i, one in enumerate(bases) for j, other in enumerate(bases) if i != j and one == other]
    chance = [int(((before[i] == 0) & (before[j] > 0)).sum()) for i, j in pairs]
    (never,) = np.nonzero((before == 0).all(axis=0))
    return Solvability(
        became=tuple(((before == 0) & (after > 0)).sum(axis=1).tolist()),
        lost=tuple(((before > 0) & (after == 0)).sum(axis=1).tolist()),
        by_chance=float(np.mean(chance)) if chance else None,
        never_before=tuple(never.tolist()),
        runs_after=tuple((after[:, never] > 0).sum(axis=0).tolist()),
    )


def levels_of(shares: np.ndarray) -> np.ndarray:
    """The level of difficulty of each pass@1 [P]: the index of the first of LEVELS that is not below it."""
    return np.searchsorted(LEVELS, np.asarray(shares) - _ROUNDING)


def _by_problem(runs: Sequence[tuple[Evaluation, Evaluation]], figure: str) -> np.ndarray:
    """A figure [2, S, P] of the evaluations before and after, problems sorted by their hashes."""
    return np.array(
        [
            [np.array(pair[side].by_problem[figure])[np.argsort(pair[side].problems, kind="stable")] for pair in runs]
            for side in (0, 1)
        ]
    )


def _comparisons(figures: dict[int, np.ndarray]) -> dict[int, Comparison]:
    """name -> [2, S, P] as comparisons; all resample the same problems."""
    parts = {
        (name, side): values
        for name, (before, after) in figures.items()
        for side, values in (("before", before), ("after", after), ("change", after - before))
    }
    named = {f"{name} {side}": values.mean(axis=0) for (name, side), values in parts.items()}
    intervals = bootstrap_intervals(named, _SEED)
    estimates = {
        (name, side): Estimate(float(values.mean()), intervals[f"{name} {side}"], tuple(values.mean(axis=1).tolist()))
        for (name, side), values in parts.items()
    }
    return {name: Comparison(*(estimates[name, side] for side in ("before", "after", "change"))) for name in figures}


def _crossing(curves: np.ndarray) -> Crossing:
    """curves: [2, S, P, n], pass@k before and after."""
    change = curves[1] - curves[0]
    found = [first_crossing(row) for row in bootstrap_means(change.mean(axis=0), _SEED)]
    order = sorted(found, key=lambda k: np.inf if k is None else k)
    ends = (int(0.025 * (len(order) - 1)), int(np.ceil(0.975 * (len(order) - 1))))
    return Crossing(
        k=first_crossing(change.mean(axis=(0, 1))),
        interval=(order[ends[0]], order[ends[1]]),
        share=float(np.mean([k is not None for k in found])),
        runs=tuple(first_crossing(one.mean(axis=0)) for one in change),
    )
