"""Figures of n sampled answers to each of P problems, in NumPy.

pass_at_k and maj_at_k return one value a problem: their mean is the figure, and bootstrap_interval gives its error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np


def pass_at_k(correct: np.ndarray, k: int) -> np.ndarray:
    """Chance that one of k samples drawn from a problem's n without replacement is correct: 1 - C(n-c, k) / C(n, k).

    correct: [P, n] bool, of which c are true in a row. Returns [P] float64, unbiased for the model's own pass@k
    (arXiv 2107.03374, equation 1). Raises ValueError unless 1 <= k <= n.
    """
    correct = _checked(correct, k)
    n = correct.shape[1]
    wrong = n - correct.sum(1)
    # C(n-c, k) / C(n, k) as a product of k factors, without large factorials; one of them is 0 where n - c < k.
    drawn = np.arange(k)
    return 1.0 - np.prod((wrong[:, None] - drawn) / (n - drawn), axis=1)


def maj_at_k(answers: Sequence[Sequence[str | None]], correct: np.ndarray, k: int) -> np.ndarray:
    """Whether the most frequent answer among a problem's first k samples is correct (majority vote, arXiv 2203.11171).

    answers: [P][n] in normal form, so that equal answers are equal strings; None where none could be read, which wins
    only where no sample has an answer. A tie goes to the answer seen first. correct: [P, n] bool. Returns [P] float64.
    Raises ValueError unless 1 <= k <= n.
    """
    correct = _checked(correct, k)
    value = np.zeros(len(correct))
    for row, (given, right) in enumerate(zip(answers, correct, strict=True)):
        votes = Counter(answer for answer in given[:k] if answer is not None)
        winner = max(votes, key=votes.__getitem__) if votes else None  # max and Counter keep the order of arrival
        value[row] = right[list(given).index(winner)]
    return value


def bootstrap_interval(
    values: np.ndarray, seed: int, level: float = 0.95, resamples: int = 2000
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of values [P], drawing problems with replacement.

    Problems are drawn and not samples, since samples of one problem are not independent. ``level`` is the share of the
    interval, for example 0.95; the same seed gives the same interval. (Efron and Tibshirani 1993, chapter 13.)
    """
    values = np.asarray(values, float)
    rng = np.random.default_rng(seed)
    # One resample at a time: thousands of problems times thousands of resamples would not fit otherwise.
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _checked(correct: np.ndarray, k: int) -> np.ndarray:
    correct = np.asarray(correct, bool)
    if correct.ndim != 2 or not len(correct) or not 1 <= k <= correct.shape[1]:
        raise ValueError(f"k = {k} for {correct.shape}: expected [problems, samples], one problem or more, 1 <= k <= n")
    return correct
