"""Decoding of several tokens per slot in one pass, as the verification of proposed tokens needs it."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from r1jax.kernels.decode_attention import Context
from r1jax.kernels.few_rows import whole
from r1jax.models import rotary
from r1jax.models.cache import Prefix, SlotCache
from r1jax.models.config import ModelConfig
from r1jax.models.kinds import Cached, Rotation
from r1jax.models.layers import Run, runs
from r1jax.models.norm import rms_norm
from r1jax.models.transformer import embed
from r1jax.sharding import Params, constrain, sum_over_model


def block_rotation(context: Context, m: int, config: ModelConfig) -> Rotation:
    """The rotation of m new tokens of each slot: [S, m, K/2] each."""
    return rotary.tables((context.prefix_length + context.age)[:, None] + jnp.arange(m), config)


def decode_block(
    params: Params,
    layers: tuple[Params, ...],
    tokens: jax.Array,
    prefix: Prefix,
    cache: SlotCache,
    context: Context,
    config: ModelConfig,
) -> tuple[jax.Array, SlotCache, jax.Array | None]:
    """Decodes m tokens per slot, each of which attends to those up to itself.

    Args:
      params: the parameters, for the embedding and the final norm.
      layers: decode.decoding_layers(params).
      tokens: [S, m] in sequence: the newest token of each slot, and tokens that are proposed to follow it.
      prefix: what is kept of the prompts. Layers after those of the decoder are not read.
      cache: what is kept of the tokens of each slot. Layers after those of the decoder do not change.
      context: prompt and sequence of each slot, whose age does not include the m tokens.
      config: the model.

    Returns:
      The final normalised states [S, m, D], the cache with the m tokens, and the experts [S, m, L, k] of the tokens in
      the layers with experts, or None.
    """
    S, m = tokens.shape
    rotation = block_rotation(context, m, config)
    x = constrain(embed(params, tokens, config), "slots", None, None)
    kinds = [run for run in runs(config) for _ in range(run.layers)]
    written: list[Cached] = []
    experts: list[jax.Array] = []
    for kind, weights, read, own in zip(kinds, layers, prefix.layers, cache.layers, strict=False):
        x, own, routing = block_layer(x, weights, kind, rotation, read, own, context, config)
        written.append(own)
        if routing is not None:
            experts.append(routing.experts.reshape(S, m, -1))
    cache = SlotCache((*written, *cache.layers[len(written) :]))
    return rms_norm(x, params["final_norm"], config.norm_eps), cache, jnp.stack(experts, axis=2) if experts else None


@partial(jax.jit, static_argnames=("kind", "config"))  # traced and lowered once for all layers of a run
def block_layer(
    x: jax.Array,
    weights: Params,
    kind: Run,
    rotation: Rotation,
    prefix: Cached,
    cached: Cached,
    context: Context,
    config: ModelConfig,
) -> tuple[jax.Array, Cached, Any]:
    """One layer over m tokens of each slot: x [S, m, D], what is cached, and the routing of the S * m tokens."""
    h = rms_norm(x, weights["attention_norm"], config.norm_eps)
    y, cached = kind.attention.decode_block(h, weights["attention"], rotation, prefix, cached, context, config)
    x = constrain(x + sum_over_model(y), "slots", None, None)
    h = rms_norm(x, weights["mlp_norm"], config.norm_eps)
    y, routing = kind.feed_forward.decode(h.reshape(-1, h.shape[-1]), weights["mlp"], config)
    y = sum_over_model(whole(y, x.dtype))
    return constrain(x + y.reshape(x.shape), "slots", None, None), cached, routing
