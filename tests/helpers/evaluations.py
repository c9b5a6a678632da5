"""Small evaluations with random or given outcomes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from r1jax.evaluation.summary import Evaluation, Outcomes, summarise


def evaluation(share: float, seed: int) -> tuple[Evaluation, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    arrays = {
        "correct": rng.random((20, 4)) < share,
        "well_formed": rng.random((20, 4)) < 0.9,
        "lengths": rng.integers(5, 50, (20, 4)),
        "truncated": rng.random((20, 4)) < 0.2,
        "readable": rng.random((20, 4)) < 0.5,
    }
    votes = np.where(arrays["correct"], 0, -1)
    names = [f"problem {i}" for i in range(20)]
    return summarise(names, Outcomes(votes, **arrays, rewards={}), {}, ks=(1, 4), seed=0), arrays


def outcomes(right: np.ndarray, names: list[str], n: int = 8, ks: Sequence[int] = (1,)) -> Evaluation:
    """An evaluation in which the first ``right[i]`` samples of problem i are right."""
    correct = np.arange(n) < right[:, None]
    ones = np.ones(correct.shape, bool)
    outcomes = Outcomes(
        votes=np.where(correct, 0, 1),
        correct=correct,
        well_formed=ones,
        readable=ones,
        lengths=ones * 10,
        truncated=~ones,
        rewards={},
    )
    return summarise(names, outcomes, {}, ks=ks, seed=0)
