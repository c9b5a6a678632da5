"""Bootstrap intervals for problems that come in clusters, such as the problems of one template."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


def cluster_interval(
    values: np.ndarray, clusters: Sequence[Hashable], seed: int, level: float = 0.95, resamples: int = 2000
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the mean of values [P], drawing whole clusters with replacement.

    clusters: [P], the cluster of each problem. A resample's mean is that of all values in the drawn clusters. The
    interval covers problems of clusters that were not seen; bootstrap_intervals, which draws problems, covers other
    problems of the same clusters. None for fewer than two clusters. (Field and Welsh 2007, the cluster bootstrap.)
    """
    names = {name: index for index, name in enumerate(dict.fromkeys(clusters))}
    if len(names) < 2:
        return None
    index = np.array([names[name] for name in clusters])
    sums, sizes = np.bincount(index, weights=np.asarray(values, float)), np.bincount(index)
    drawn = np.random.default_rng(seed).integers(len(names), size=(resamples, len(names)))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
