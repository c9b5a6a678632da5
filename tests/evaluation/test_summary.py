from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from r1jax.evaluation.paired import changes
from r1jax.evaluation.summary import Evaluation, Outcomes, summarise
from tests.helpers.evaluations import evaluation, outcomes


def test_an_evaluation_holds_the_mean_of_each_figure_and_an_interval_around_it() -> None:
    found, arrays = evaluation(0.3, 0)
    assert found.figures() == pytest.approx(
        {
            "pass_at_1": arrays["correct"].mean(),
            "pass_at_4": arrays["correct"].any(1).mean(),
            "maj_at_4": arrays["correct"].any(1).mean(),  # nothing else has a vote
            "format_rate": arrays["well_formed"].mean(),
            "readable_correct": (arrays["readable"] & arrays["correct"]).mean(),
            "mean_length": arrays["lengths"].mean(),
            "truncated_share": arrays["truncated"].mean(),
        }
    )
    assert (found.n_problems, found.samples_per_problem) == (20, 4)
    assert found.pass_at.keys() == {1, 4} and found.maj_at.keys() == {4}
    assert found.intervals.keys() == found.figures().keys()
    for name, value in found.figures().items():
        low, high = found.intervals[name] or (1, 0)
        assert low <= value <= high


def test_an_evaluation_of_an_older_version_is_read_and_not_compared() -> None:
    one = outcomes(np.array([2, 3]), ["a", "b"])
    fields = json.loads(json.dumps(dataclasses.asdict(one)))
    for name in ("problems", "by_problem"):
        del fields[name]
    old = Evaluation.from_json(fields)
    assert old.figures() == one.figures() and changes(old, one) is None


def test_rewards_that_judge_a_part_are_means_of_that_part_alone() -> None:
    ones = np.ones((2, 2), bool)
    rewards = {"all": ones * 0.5, "some": np.array([[0.2, 0.4], [np.nan] * 2]), "none": np.full((2, 2), np.nan)}
    found = summarise(["a", "b"], Outcomes(ones * 0, *[ones] * 5, rewards), {}, ks=(1, 2), seed=0)
    assert found.rewards == pytest.approx({"all": 0.5, "some": 0.3})
    assert found.by_problem["reward_all"] == (0.5, 0.5) and "reward_some" not in found.by_problem
