"""The updates of a rollout: one for each of its minibatches in each of its epochs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from r1jax.rl.batch import Batch, minibatches, split_minibatches
from r1jax.rl.config import RLConfig
from r1jax.rl.metrics import Maxima
from r1jax.training.metrics import Metrics

# (models, part of the batch) -> models after the update, metrics, maxima
UpdateOnPart = Callable[[Any, Batch], tuple[Any, Metrics, Maxima]]


def update_on_parts(
    one: UpdateOnPart, models: Any, batch: Batch, key: jax.Array, config: RLConfig
) -> tuple[Any, list[tuple[Metrics, Maxima]]]:
    """The models after all updates of a batch, and the metrics and maxima of the updates.

    Each epoch has other minibatches. Inside a traced function the updates are one loop, which is compiled once, and
    their metrics are added up.
    """
    keys = [jax.random.fold_in(key, epoch) for epoch in range(config.inner_epochs)]
    if config.updates == 1 or not isinstance(batch.tokens, Tracer):
        found = []
        for of_epoch in keys:
            for part in minibatches(batch, of_epoch, config.minibatches, config.microbatch_size):
                models, *metrics = one(models, part)
                found.append(tuple(metrics))
        return models, found

    def body(models: Any, rows: jax.Array) -> tuple[Any, tuple[Metrics, Maxima]]:
        part = batch if config.minibatches == 1 else jax.tree.map(lambda x: x[rows], batch)
        models, sums, largest = one(models, part)
        return models, (sums, largest)

    counts = batch.mask.any(axis=1)
    rows = jnp.concatenate([split_minibatches(of_epoch, counts, config.minibatches) for of_epoch in keys])
    models, (sums, largest) = jax.lax.scan(body, models, rows)
    return models, [(jax.tree.map(lambda x: x.sum(axis=0), sums), jax.tree.map(lambda x: x.max(axis=0), largest))]
