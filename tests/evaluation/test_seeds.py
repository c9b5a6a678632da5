"""Means over seeds: hand-worked t-intervals, their coverage, and differences in pairs."""

import numpy as np
import pytest

from r1jax.evaluation.seeds import half_width, over_seeds


def test_the_interval_of_three_seeds_by_hand():
    """s = 1, and t(0.975, 2) = 4.302653: 4.302653 / sqrt(3) = 2.484138."""
    change = over_seeds(np.array([1.0, 2.0, 3.0]))
    assert change.value == 2 and change.interval == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-6)
    assert not change.excludes_zero
    np.testing.assert_allclose(
        half_width(np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])), [2.484138, 24.84138], 1e-6
    )


def test_one_seed_has_no_interval_and_equal_seeds_a_narrow_one():
    assert over_seeds(np.array([0.5])).interval is None
    assert np.isnan(half_width(np.array([[0.5, 0.1]]))).all()
    assert over_seeds(np.array([0.5, 0.5])).interval == (0.5, 0.5)


@pytest.mark.parametrize("seeds", [3, 8])
def test_the_intervals_cover_the_mean_as_often_as_they_say(seeds):
    draws = np.random.default_rng(seeds).normal(1.0, 2.0, (seeds, 4000))
    covered = np.abs(draws.mean(axis=0) - 1.0) <= half_width(draws)
    assert covered.mean() == pytest.approx(0.95, abs=0.015)


def test_a_difference_in_pairs_is_found_beside_larger_differences_of_seeds():
    seeds = np.array([0.1, 0.9, 0.4, 0.6])
    better = seeds + np.array([0.05, 0.04, 0.06, 0.05])
    assert over_seeds(better - seeds).excludes_zero
    assert over_seeds(better).interval[0] < seeds.mean()
