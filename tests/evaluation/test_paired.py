from __future__ import annotations

import itertools

import numpy as np
import pytest

from r1jax.evaluation.paired import changes
from r1jax.report.comparison import comparison_markdown, headline
from tests.helpers.evaluations import outcomes


def test_a_change_has_the_interval_of_every_paired_resample() -> None:
    first, second = np.array([1, 4, 2, 8]), np.array([2, 3, 6, 8])
    found = changes(outcomes(first, list("abcd")), outcomes(second, list("abcd")))
    assert found is not None
    change = found["pass_at_1"]
    means = [np.mean([(second[i] - first[i]) / 8 for i in draw]) for draw in itertools.product(range(4), repeat=4)]
    assert change.value == pytest.approx(np.mean((second - first) / 8))
    assert change.interval == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.02)


def test_problems_are_matched_by_what_they_are_and_not_by_their_order() -> None:
    first, second, order = np.array([1, 4, 2, 8]), np.array([2, 3, 6, 8]), [3, 1, 0, 2]
    names = ["a", "b", "b", "d"]  # one is there twice
    one = changes(outcomes(first, names), outcomes(second, names))
    other = changes(outcomes(first, names), outcomes(second[order], [names[i] for i in order]))
    assert one is not None and one == other
    assert one["pass_at_1"].value == pytest.approx(4 / 32)


@pytest.mark.parametrize("names", [["a", "b", "c"], ["a", "b", "e", "d"], []])
def test_other_problems_are_not_compared(names: list[str]) -> None:
    first = outcomes(np.array([1, 4, 2, 8]), list("abcd"))
    second = outcomes(np.array([2, 5, 3, 8])[: len(names) or 4], names)
    assert changes(first, second) is None
    assert "not comparable" in headline(first, second) and "not comparable" in comparison_markdown(first, second)


def test_pairs_tell_apart_what_intervals_by_themselves_do_not() -> None:
    """Problems differ more than models: a gain of a few points on the same 128 problems, with 8 samples each."""
    rng = np.random.default_rng(0)
    apart, overlapping, by_chance = 0, 0, 0
    for _ in range(10):
        share = rng.beta(0.5, 0.5, 128)
        names = [str(i) for i in range(128)]
        first, again, better = (
            outcomes(rng.binomial(8, np.clip(share + more, 0, 1)), names) for more in (0.0, 0.0, 0.08)
        )
        ends = [one.intervals["pass_at_1"] or (0, 0) for one in (first, better)]
        overlapping += ends[1][0] <= ends[0][1]
        apart += (changes(first, better) or {})["pass_at_1"].excludes_zero
        by_chance += (changes(first, again) or {})["pass_at_1"].excludes_zero
    assert overlapping == 10 and apart >= 8 and by_chance <= 2
