"""The share of a dense decoder that a device of the model axis computes by itself, inside shard_map.

A device has its part of the query heads, their key and value heads with the cache, and of the hidden units of the
feed-forward block. It is described by a config with fewer heads and units, so the functions of a whole model compute
it. What a part of the heads or units adds to the states is joined with sharding.sum_over_model.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from r1jax.models.config import ModelConfig
from r1jax.models.layers import mtp_run, runs
from r1jax.sharding import Params, model_devices


def divides(config: ModelConfig, devices: int) -> bool:
    """True if each of ``devices`` devices can compute a share of the model by itself.

    Their number divides the query heads and hidden units, and it divides the key and value heads or is a multiple of
    them: then several devices have the same one. Latent attention, experts and a norm of all heads together
    (qk_norm_joint) are not computed in shares.
    """
    if devices == 1:
        return True
    heads, kv_heads = config.num_heads, config.num_kv_heads
    splits = not heads % devices and not config.intermediate_size % devices
    joint = config.qk_norm and config.qk_norm_joint
    whole = config.latent is not None or config.experts is not None or joint
    return splits and not whole and (not kv_heads % devices or not devices % kv_heads)


def shared_kv_heads(config: ModelConfig, devices: int) -> int:
    """Key and value heads of a device of a model that ``devices`` devices divide."""
    return max(1, config.num_kv_heads // devices)


def share(params: Params, config: ModelConfig) -> tuple[Params, ModelConfig]:
    """Inside shard_map, the weights and the config of this device's share; both unchanged if model_devices is 1.

    Args:
      params: the parts of the weights after sharding.decoding_partition.
      config: the whole model, which ``divides``.

    Returns:
      The weights, and a config in which only the numbers of heads and hidden units are those of the share. Biases that
      are added to a sum over devices are zero on all devices but the first.
    """
    devices = model_devices()
    if devices == 1:
        return params, config
    own = dataclasses.replace(
        config,
        num_heads=config.num_heads // devices,
        num_kv_heads=shared_kv_heads(config, devices),
        intermediate_size=config.intermediate_size // devices,
    )
    place = jax.lax.axis_index("model")

    def one(name: str, weight: jax.Array) -> jax.Array:
        if name in ("output_bias", "down_bias"):
            return jnp.where(place == 0, weight, 0)
        if name in ("key", "value", "key_bias", "value_bias") and weight.shape[-2] > own.num_kv_heads:
            head = place * config.num_kv_heads // devices
            return jax.lax.dynamic_slice_in_dim(weight, head, own.num_kv_heads, axis=-2)
        return weight

    layers = {
        run.name: params[run.name]
        | {part: {n: one(n, w) for n, w in params[run.name][part].items()} for part in ("attention", "mlp")}
        for run in (*runs(config), mtp_run(config))
        if run is not None
    }
    return {**params, **layers}, own
