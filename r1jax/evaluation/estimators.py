"""Estimators for n sampled answers to each of P problems, in NumPy.

pass_at_k and maj_at_k return one value per problem. The figure is their mean, and bootstrap_intervals gives its error.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Mapping

import numpy as np

MOST_SAMPLES = 1000  # per problem: above it, the counts of subsets in maj_at_k overflow float64


def pass_at_k(correct: np.ndarray, k: int) -> np.ndarray:
    """Chance that one of k samples drawn from a problem's n without replacement is correct: 1 - C(n-c, k) / C(n, k).

    correct: [P, n] bool; c is the number of true entries in a row. Returns [P] float64, an unbiased estimate of the
    model's pass@k (arXiv 2107.03374, equation 1). Raises ValueError unless 1 <= k <= n.
    """
    correct = np.asarray(correct, bool)
    _check(correct, k)
    n = correct.shape[1]
    wrong = n - correct.sum(1)
    # C(n-c, k) / C(n, k) as a product of k factors, without large factorials; one of them is 0 where n - c < k.
    drawn = np.arange(k)
    return 1.0 - np.prod((wrong[:, None] - drawn) / (n - drawn), axis=1)


def maj_at_k(votes: np.ndarray, k: int) -> np.ndarray:
    """Chance that the right answer wins the majority vote of k samples drawn from a problem's n without replacement.

    votes: [P, n] int, the class of equivalent answers that each sample belongs to, from r1jax.evaluation.voting: 0 for
    right answers, positive for wrong ones, negative for samples without an answer, which do not vote. The result is the
    mean over all C(n, k) subsets, computed exactly from the sizes of the classes; if t classes tie for the most votes,
    each wins 1/t, as if the tie were broken at random. Returns [P] float64 (majority vote: arXiv 2203.11171). Raises
    ValueError unless 1 <= k <= n <= MOST_SAMPLES.
    """
    votes = np.asarray(votes)
    _check(votes, k)
    if votes.shape[1] > MOST_SAMPLES:
        raise ValueError(f"{votes.shape[1]} samples of a problem: the vote is computed for at most {MOST_SAMPLES}")
    value = np.zeros(len(votes))
    for row, given in enumerate(votes.tolist()):
        sizes = Counter(vote for vote in given if vote >= 0)
        right = sizes.pop(0, 0)
        value[row] = _chances_of_winning(right, tuple(sorted(sizes.values())), len(given))[k]
    return value


@functools.lru_cache(maxsize=4096)
def _chances_of_winning(right: int, wrong: tuple[int, ...], n: int) -> np.ndarray:
    """maj@k for k = 0..n [n + 1]; ``right`` of n samples vote for the right class, ``wrong`` for each other class."""
    total = np.zeros(n + 1)
    silent = n - right - sum(wrong)
    for j in range(1, right + 1):  # votes for the right class among the drawn samples
        # ways[t, d]: selections of d samples outside the right class in which t classes have j votes and none has more.
        ways = np.zeros((1 + sum(size >= j for size in wrong), n + 1))
        ways[0, : silent + 1] = [math.comb(silent, d) for d in range(silent + 1)]
        for size in wrong:
            before, ways = ways, np.zeros_like(ways)
            for votes in range(min(size, j) + 1):
                ties = int(votes == j)
                grown = float(math.comb(size, votes)) * before[: len(ways) - ties, : n + 1 - votes]
                ways[ties:, votes:] += grown
        shared = (ways / (1 + np.arange(len(ways)))[:, None]).sum(0)  # t others at j votes: one win in t + 1
        total[j:] += float(math.comb(right, j)) * shared[: n + 1 - j]
    return total / [float(math.comb(n, k)) for k in range(n + 1)]


def bootstrap_intervals(
    values: Mapping[str, np.ndarray], seed: int, level: float = 0.95, resamples: int = 2000
) -> dict[str, tuple[float, float] | None]:
    """Percentile bootstrap intervals of the means of figures, drawing problems with replacement.

    values: name -> [P]. Problems are drawn instead of samples, since samples of one problem are not independent; all
    figures use the same draws. level: the coverage, for example 0.95. The same seed gives the same intervals. The
    intervals are None if P is 1, since one problem does not show how problems vary. (Efron and Tibshirani 1993, chapter
    13.)
    """
    columns = np.array([np.asarray(column, float) for column in values.values()]).T  # [P, figures]
    if len(columns) < 2:
        return dict.fromkeys(values)
    means = bootstrap_means(columns, seed, resamples)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return {name: (float(a), float(b)) for name, a, b in zip(values, low, high, strict=True)}


def bootstrap_means(values: np.ndarray, seed: int, resamples: int = 2000) -> np.ndarray:
    """Means over problems of values [P, figures] in bootstrap resamples of the problems: [resamples, figures]."""
    count, rng = len(values), np.random.default_rng(seed)
    # One resample at a time: thousands of problems times thousands of resamples would not fit into memory.
    means = [np.bincount(rng.integers(count, size=count), minlength=count) @ values / count for _ in range(resamples)]
    return np.array(means)


def _check(table: np.ndarray, k: int) -> None:
    if table.ndim != 2 or not len(table) or not 1 <= k <= table.shape[1]:
        raise ValueError(f"k = {k} for {table.shape}: expected [problems, samples], one problem or more, 1 <= k <= n")
