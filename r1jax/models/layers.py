"""The layers of a decoder: runs of equal layers, each stacked for scan."""

from __future__ import annotations

import dataclasses

from r1jax.models import attention, experts, latent, mlp
from r1jax.models.config import ModelConfig
from r1jax.models.kinds import Attention, CacheShape, FeedForward


@dataclasses.dataclass(frozen=True)
class Run:
    """Equal layers in sequence. Their weights are stacked on a leading axis in the entry ``name`` of the tree."""

    name: str
    layers: int
    attention: Attention
    feed_forward: FeedForward


def runs(config: ModelConfig) -> tuple[Run, ...]:
    """The runs of a decoder, from the first layer to the last."""
    kind = attention.GROUPED if config.latent is None else latent.LATENT
    if config.experts is None:
        return (Run("layers", config.num_layers, kind, mlp.DENSE),)
    dense = config.experts.dense_layers
    routed = Run("layers", config.num_layers - dense, kind, experts.ROUTED)
    return (Run("dense_layers", dense, kind, mlp.DENSE), routed) if dense else (routed,)


def mtp_run(config: ModelConfig) -> Run | None:
    """The layers of multi-token prediction, of the kinds of the last run; None without such layers.

    They are no part of ``runs``: a layer reads the states of the one before and the embedding of a later token.
    """
    return dataclasses.replace(runs(config)[-1], name="mtp", layers=config.mtp_layers) if config.mtp_layers else None


def cache_shapes(config: ModelConfig) -> tuple[tuple[CacheShape, ...], ...]:
    """What is kept of each token, for each layer."""
    return tuple(run.attention.cache(config) for run in runs(config) for _ in range(run.layers))


def mtp_cache_shapes(config: ModelConfig) -> tuple[tuple[CacheShape, ...], ...]:
    """What is kept of each token, for each layer of multi-token prediction."""
    run = mtp_run(config)
    return () if run is None else (run.attention.cache(config),) * run.layers
