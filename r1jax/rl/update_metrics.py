"""The figures of the updates of a step."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from r1jax.training.metrics import Metrics, merge, reduce_metrics

Maxima = dict[str, jax.Array]  # name -> [] float32, whose maximum over the updates is logged


def reduce_updates(sums: Sequence[Metrics], maxima: Sequence[Maxima]) -> dict[str, float]:
    """Weighted means and maxima over the updates of a step; waits for the updates."""
    names = {name for one in maxima for name in one}
    return reduce_metrics(merge(sums)) | {n: max(float(one[n]) for one in maxima if n in one) for n in names}
