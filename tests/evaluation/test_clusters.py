"""Bootstrap intervals over clusters."""

from __future__ import annotations

import numpy as np

from r1jax.evaluation.clusters import cluster_interval
from r1jax.evaluation.estimators import bootstrap_intervals


def test_clusters_of_one_problem_give_the_interval_over_problems() -> None:
    values = np.random.default_rng(0).random(60)
    over_clusters = np.array(cluster_interval(values, range(60), seed=1))
    over_problems = np.array(bootstrap_intervals({"x": values}, seed=2)["x"])
    np.testing.assert_allclose(over_clusters, over_problems, atol=0.01)


def test_the_interval_of_unequal_clusters_is_that_of_a_plain_loop() -> None:
    values, clusters = np.array([1.0, 1.0, 0.0, 0.0, 0.5, 1.0]), ["a", "a", "b", "b", "b", "c"]
    rng = np.random.default_rng(5)
    parts = {name: [v for v, c in zip(values, clusters, strict=True) if c == name] for name in "abc"}
    means = [np.concatenate([parts[rng.choice(list("abc"))] for _ in range(3)]).mean() for _ in range(4000)]
    np.testing.assert_allclose(
        np.array(cluster_interval(values, clusters, seed=0)), np.quantile(means, [0.025, 0.975]), atol=0.06
    )


def test_problems_that_agree_within_a_cluster_count_as_one() -> None:
    few = np.array([0.0, 1.0, 1.0, 0.0, 1.0])
    many, clusters = np.repeat(few, 40), np.repeat(np.arange(5), 40)
    wide, narrow = cluster_interval(many, clusters.tolist(), 0), bootstrap_intervals({"x": many}, 0)["x"]
    assert wide and narrow and wide == cluster_interval(few, range(5), 0)
    assert wide[1] - wide[0] > 4 * (narrow[1] - narrow[0])
    assert cluster_interval(many, [0] * 200, 0) is None
