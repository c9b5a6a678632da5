"""Changes by RL, against enumeration and cases worked by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from r1jax.evaluation.rl_change import Estimate, first_crossing, levels_of, pass_curve, rl_change, solvability
from tests.helpers.evaluations import outcomes

NAMES = list("abcd")


def evaluations(*counts: list[int], n: int = 8):
    return [outcomes(np.array(one), NAMES, n, ks=range(1, n + 1)) for one in counts]


def test_the_curve_of_pass_at_k_counts_the_subsets_with_a_right_sample() -> None:
    found = pass_curve(np.array([0, 2, 5]), 5)
    for row, right in zip(found, (0, 2, 5), strict=True):
        for k in range(1, 6):
            subsets = list(itertools.combinations(range(5), k))
            assert row[k - 1] == pytest.approx(np.mean([min(one) < right for one in subsets]))


@pytest.mark.parametrize(
    ("change", "k"),
    [
        ([0.3, 0.1, -0.1, 0.2], 3),  # the first of two crossings
        ([0.3, 0.0, 0.1], None),
        ([0.3, 0.0, -0.1], 3),
        ([0.3, -1e-16, 0.0], None),  # equal up to rounding
        ([-0.1, -0.1, 0.1], 3),
        ([0.3, 0.2, 0.1], None),
        ([0.0, 0.2, -0.1], None),
    ],
)
def test_curves_cross_where_the_better_one_at_first_is_the_worse_one(change, k) -> None:
    assert first_crossing(np.array(change)) == k


def test_the_crossing_and_its_interval_are_those_of_every_resample() -> None:
    """Base: each problem right in 1 of 8 samples. After RL: half of the problems always, the others never."""
    before, after = evaluations([1, 1, 1, 1], [8, 8, 0, 0])
    found = rl_change([(before, after)])
    assert found.crossing.k == 5  # pass@k of the base is k/8, and of the other 1/2
    solved = [np.mean([i < 2 for i in draw]) for draw in itertools.product(range(4), repeat=4)]
    # Without any solved problem the base is better at every k, and with all of them nowhere.
    ks = sorted(next((k for k in range(1, 9) if share < k / 8), math.inf) if share else math.inf for share in solved)
    assert found.crossing.interval == (ks[6], None) and ks[6] == 3 and ks[249] == math.inf
    assert found.crossing.share == pytest.approx(14 / 16, abs=0.03)
    assert found.pass_at[4].change.value == pytest.approx(0.0)


def test_runs_are_averaged_by_problem_before_problems_are_resampled() -> None:
    before, first, second = evaluations([0, 2, 4, 8], [2, 2, 8, 8], [0, 6, 8, 8])
    found = rl_change([(before, first), (before, second)])
    change = found.pass_at[1].change
    assert change.runs == pytest.approx((6 / 32, 8 / 32)) and change.value == pytest.approx(7 / 32)
    by_problem = np.array([1, 2, 4, 0]) / 8
    means = [np.mean([by_problem[i] for i in draw]) for draw in itertools.product(range(4), repeat=4)]
    assert change.interval == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.02)
    assert found.maj_at.keys() == {2, 4, 8} and found.entropy is None
    assert found.maj_mean.change.value == pytest.approx(np.mean([one.change.value for one in found.maj_at.values()]))
    assert found.pass_at[1].after.value - found.pass_at[1].before.value == pytest.approx(change.value)


def test_problems_are_matched_by_what_they_are() -> None:
    before, after = evaluations([0, 2, 4, 8], [2, 2, 8, 8])
    turned = outcomes(np.array([8, 8, 2, 2]), NAMES[::-1], ks=range(1, 9))
    assert rl_change([(before, turned)]) == rl_change([(before, after)])
    others = outcomes(np.array([8, 8, 2, 2]), list("abce"), ks=range(1, 9))
    with pytest.raises(ValueError, match="same problems"):
        rl_change([(before, others)])
    with pytest.raises(ValueError, match="same problems and samples"):
        rl_change([(before, evaluations([1, 1, 1, 1], n=4)[0])])


def test_problems_become_solvable_and_are_lost_by_run_and_by_chance() -> None:
    before = np.array([[0, 0, 3, 1, 0], [0, 1, 0, 1, 0]])
    after = np.array([[5, 0, 0, 8, 0], [0, 8, 0, 0, 2]])
    found = solvability(before, after, ["base", "base"])
    assert (found.became, found.lost) == ((1, 1), (1, 1))
    assert found.by_chance == 1.0  # problem 1 from the first to the second evaluation, problem 2 the other way
    assert (found.never_before, found.runs_after) == ((0, 4), (1, 1))
    assert solvability(before, after, ["one", "other"]).by_chance is None
    assert solvability(before, after).by_chance is None


def test_levels_of_difficulty_hold_every_problem_once() -> None:
    assert levels_of(np.array([0, 1 / 256, 1 / 64, 1 / 8, 0.13, 0.5, 0.51, 1])).tolist() == [0, 1, 1, 2, 3, 3, 4, 4]
    before, after = evaluations([0, 1, 4, 8], [4, 1, 8, 8])
    found = rl_change([(before, after)]).levels
    assert [(one.above, one.up_to, one.problems) for one in found] == [
        (None, 0.0, 1),
        (1 / 64, 1 / 8, 1),
        (1 / 8, 1 / 2, 1),
        (1 / 2, 1.0, 1),
    ]
    assert [one.pass_at_1.change.value for one in found] == pytest.approx([0.5, 0.0, 0.5, 0.0])
    assert [one.pass_at_n.change.value for one in found] == pytest.approx([1.0, 0.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((0.01, 0.2), "rises"),
        ((-0.2, -0.01), "falls"),
        ((-0.04, 0.03), "unchanged"),
        ((-0.04, 0.06), "inconclusive"),
        (None, "inconclusive"),
    ],
)
def test_a_verdict_needs_an_interval_that_excludes_zero_or_is_close_to_it(interval, verdict) -> None:
    assert Estimate(0.0, interval, ()).verdict() == verdict


def test_the_claim_holds_where_rl_makes_right_answers_frequent_and_finds_no_others() -> None:
    names = [str(i) for i in range(40)]
    rng = np.random.default_rng(0)
    base = np.where(np.arange(40) < 20, 0, rng.integers(3, 6, 40))
    sharpened, extended = np.where(base > 0, 16, 0), np.full(40, 16)
    first, second, third = (outcomes(one, names, 16, ks=range(1, 17)) for one in (base, sharpened, extended))
    assert rl_change([(first, second)]).verdicts() == {"maj": "rises", "pass": "unchanged"}
    assert rl_change([(first, third)]).verdicts() == {"maj": "rises", "pass": "rises"}
    assert rl_change([(third, first)]).verdicts() == {"maj": "falls", "pass": "falls"}
    assert math.isclose(rl_change([(first, third)]).pass_at[16].change.value, 0.5)
