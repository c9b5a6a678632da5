"""Means over random seeds with 95% t-intervals, and differences that are paired by seed."""

from __future__ import annotations

import numpy as np

from r1jax.evaluation.paired import Change

_LEVEL = 0.95


def half_width(values: np.ndarray) -> np.ndarray:
    """Half the width of the 95% t-interval of the mean over S seeds: t(0.975, S - 1) s / sqrt(S).

    values: [S, ...] float, of trainings that differ in the seed alone; s is their sample standard deviation. Returns
    [...] float64, nan for one seed. A percentile bootstrap of a few seeds would be too narrow.
    """
    values = np.asarray(values, np.float64)
    count = len(values)
    if count < 2:
        return np.full(values.shape[1:], np.nan)
    from scipy.special import stdtrit  # takes half a second, which commands without seeds need not wait for

    return stdtrit(count - 1, (1 + _LEVEL) / 2) * values.std(axis=0, ddof=1) / np.sqrt(count)


def over_seeds(values: np.ndarray) -> Change:
    """The mean of values [S], and its interval by half_width; None with one seed.

    For two settings, the values are the differences of the trainings with the same seed: what the seed does to both
    cancels.
    """
    mean, half = float(np.mean(values)), float(half_width(values))
    return Change(mean, None if np.isnan(half) else (mean - half, mean + half))
