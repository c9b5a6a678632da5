from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest

from r1jax.evaluation.estimators import bootstrap_intervals, maj_at_k, pass_at_k


@pytest.mark.parametrize("n", [1, 4, 6])
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample(n: int) -> None:
    correct = np.array(list(itertools.product([False, True], repeat=n)))
    for k in range(1, n + 1):
        expected = [np.mean([any(subset) for subset in itertools.combinations(row, k)]) for row in correct.tolist()]
        np.testing.assert_allclose(pass_at_k(correct, k), expected, atol=1e-12)


def test_pass_at_k_of_many_samples_is_exact() -> None:
    correct = np.zeros((1, 10_000), bool)
    correct[0, 0] = True
    assert pass_at_k(correct, 5_000)[0] == pytest.approx(0.5, rel=1e-9)  # each half holds it equally often


def share_of_votes_won(votes: tuple[int, ...], k: int) -> Fraction:
    """The mean over all subsets of size k of the share of the right class among the winners."""
    won = Fraction(0)
    subsets = list(itertools.combinations(votes, k))
    for subset in subsets:
        sizes = {vote: subset.count(vote) for vote in subset if vote >= 0}
        best = [vote for vote, size in sizes.items() if size == max(sizes.values())]
        won += Fraction(int(0 in best), len(best) or 1)
    return won / len(subsets)


@pytest.mark.parametrize("n", [1, 3, 5])
def test_maj_at_k_is_the_mean_over_all_subsets(n: int) -> None:
    votes = list(itertools.product([-1, 0, 1, 2], repeat=n))
    for k in range(1, n + 1):
        expected = [float(share_of_votes_won(row, k)) for row in votes]
        np.testing.assert_allclose(maj_at_k(np.array(votes), k), expected, atol=1e-12)


def test_maj_at_k_of_larger_votes_is_the_mean_over_all_subsets() -> None:
    votes = np.random.default_rng(0).choice([-1, 0, 1, 2, 3], (4, 11), p=[0.1, 0.3, 0.3, 0.2, 0.1])
    for k in (2, 4, 7, 10):
        expected = [float(share_of_votes_won(tuple(row), k)) for row in votes.tolist()]
        np.testing.assert_allclose(maj_at_k(votes, k), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("votes", "k", "won"),
    [
        ([0, 0, 0, 1, 1], 5, 1),
        ([0, 0, 0, 1, 1], 3, 7 / 10),  # of the ten triples three have two of the wrong answer
        ([1, 0, 0], 1, 2 / 3),  # of the three samples alone, and not of the first
        ([1, 0], 2, 1 / 2),  # a tie
        ([0, 1, 2], 3, 1 / 3),
        ([-1, -1, 0], 3, 1),  # what cannot be read has no vote
        ([-1, -1, -1], 3, 0),
    ],
)
def test_maj_at_k_by_hand(votes: list[int], k: int, won: float) -> None:
    assert maj_at_k(np.array([votes]), k)[0] == pytest.approx(won, rel=1e-12)


def test_maj_at_k_does_not_depend_on_the_order_of_the_samples() -> None:
    votes = np.random.default_rng(0).integers(-1, 4, (1, 12))
    shuffled = np.random.default_rng(1).permuted(votes, axis=1)
    assert [maj_at_k(votes, k)[0] for k in range(1, 13)] == [maj_at_k(shuffled, k)[0] for k in range(1, 13)]


def test_maj_at_k_of_many_samples_is_exact() -> None:
    # 200 right votes against 200 single wrong ones: a pair elects the right answer where it has two right ones, and
    # half the time where it has one.
    votes = np.arange(400)[None] - 200
    votes = np.where(votes < 0, 0, votes + 1)
    two, one = 200 * 199 / (400 * 399), 2 * 200 * 200 / (400 * 399)
    assert maj_at_k(votes, 2)[0] == pytest.approx(two + one / 2, rel=1e-9)
    assert maj_at_k(votes, 400)[0] == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize(("shape", "k"), [((2, 4), 5), ((2, 4), 0), ((0, 4), 1), ((4,), 1)])
def test_a_k_that_cannot_be_estimated_is_refused(shape: tuple[int, ...], k: int) -> None:
    with pytest.raises(ValueError, match=f"k = {k}"):
        pass_at_k(np.zeros(shape, bool), k)
    with pytest.raises(ValueError, match=f"k = {k}"):
        maj_at_k(np.zeros(shape, int), k)


def test_the_interval_is_the_quantiles_of_every_resample() -> None:
    values = np.array([0.0, 0.1, 0.5, 1.0])
    means = [np.mean(draw) for draw in itertools.product(values, repeat=4)]
    for level in (0.5, 0.9):
        expected = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
        found = bootstrap_intervals({"mean": values}, seed=0, level=level, resamples=20_000)["mean"]
        np.testing.assert_allclose(found, expected, atol=0.03)


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    figures = [{"mean": rng.random(60) < 0.3} for _ in range(300)]
    intervals = [bootstrap_intervals(f, seed, level=0.8, resamples=300)["mean"] for seed, f in enumerate(figures)]
    assert None not in intervals and np.mean([low <= 0.3 <= high for low, high in intervals]) == pytest.approx(
        0.8, abs=0.07
    )


def test_the_interval_depends_on_the_seed_alone() -> None:
    values = np.random.default_rng(0).random(30)
    one, same, other = (bootstrap_intervals({"mean": values}, seed) for seed in (1, 1, 2))
    assert one == same != other


def test_one_problem_has_no_interval() -> None:
    assert bootstrap_intervals({"mean": np.array([0.5]), "other": np.array([1.0])}, 0) == {"mean": None, "other": None}
