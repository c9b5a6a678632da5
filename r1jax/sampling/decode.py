"""One decoding step for all slots: the decoder of models.transformer with caches and weights in a decoding layout."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from r1jax.kernels.add_norm import add_norm
from r1jax.kernels.decode_attention import Context, decode_attention, has_kernel
from r1jax.kernels.platform import on_one_device
from r1jax.models import attention, rotary
from r1jax.models.cache import Prefix, Ring
from r1jax.models.config import ModelConfig
from r1jax.models.mlp import gated
from r1jax.models.norm import rms_norm
from r1jax.models.transformer import embed
from r1jax.sharding import Params, compiler_mesh, constrain, partition


def decoding_layers(params: Params, config: ModelConfig) -> tuple[Params, ...]:
    """Splits the weights into layers: the decoding loop over layers is unrolled so that each cache is updated in place.

    Matrices with the same input are joined: "qkv" [D, G (H/G + 2) K] holds the queries, key and value of each group,
    with "qkv_bias" [G, H/G + 2, K]; "gate_up" [D, 2 F] holds, for each shard of the model axis, its part of gate and of
    up, with "gate_up_bias" [2 F]. All other weights are as in param_specs.
    """
    # Split first, then join: the reverse order would need memory for another copy of the joined weights.
    apart = (jax.tree.map(lambda w, i=i: w[i], params["layers"]) for i in range(config.num_layers))
    return tuple(_decoding_layer(weights, config) for weights in apart)


def _decoding_layer(layer: Params, config: ModelConfig) -> Params:
    D, G = config.hidden_size, config.num_kv_heads
    weights = layer["attention"]

    def group(queries: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:  # [..., H, K], 2 x [..., G, K]
        queries = queries.reshape(*queries.shape[:-2], G, -1, config.head_dim)
        return jnp.concatenate([queries, keys[..., None, :], values[..., None, :]], axis=-2)

    qkv = constrain(group(weights["query"], weights["key"], weights["value"]), None, "kv_heads", None, None)
    mlp = layer["mlp"]

    def halves(*names: str) -> jax.Array:  # two [..., F] -> [..., 2 F]
        split = [mlp[name].reshape(*mlp[name].shape[:-1], _model_shards(config), -1) for name in names]
        both = jnp.stack(split, axis=-2).reshape(*mlp[names[0]].shape[:-1], -1)
        return constrain(both, *[None] * (both.ndim - 1), "mlp")

    joined: Params = {
        "attention_norm": layer["attention_norm"],
        "qkv": qkv.reshape(D, -1),
        "attention": {name: w for name, w in weights.items() if name.startswith("output") or name.endswith("norm")},
        "mlp_norm": layer["mlp_norm"],
        "gate_up": halves("gate", "up"),
        "down": mlp["down"],
    }
    if config.attention_bias:
        joined["qkv_bias"] = group(weights["query_bias"], weights["key_bias"], weights["value_bias"])
    if config.mlp_bias:
        joined |= {"gate_up_bias": halves("gate_bias", "up_bias"), "down_bias": mlp["down_bias"]}
    return joined


def _model_shards(config: ModelConfig) -> int:
    mesh = compiler_mesh()
    shards = 1 if mesh is None else mesh.shape["model"]
    return 1 if config.intermediate_size % shards else shards


def decode_step(
    params: Params,
    layers: tuple[Params, ...],
    tokens: jax.Array,
    prefix: Prefix,
    ring: Ring,
    context: Context,
    step: jax.Array,
    config: ModelConfig,
) -> tuple[jax.Array, Ring]:
    """Decodes one token per slot.

    Args:
      params: the parameters, for the embedding and the final norm.
      layers: decoding_layers(params).
      tokens: [S] newest token of each slot.
      prefix: keys and values of the prompts.
      ring: keys and values of the new tokens.
      context: prompt and sequence of each slot.
      step: [] number of the call, which determines the ring entry to write.
      config: the model.

    Returns:
      The final normalised states [S, D], and the ring with this token.
    """
    rotation = rotary.tables(context.prefix_length + context.age, config)
    x = embed(params, tokens, config)
    normed = partial(add_norm, eps=config.norm_eps, kernel=has_kernel(config) and on_one_device())
    keys, values = list(ring.keys), list(ring.values)
    entry = step % keys[0].shape[2]
    attend = _attention(config)
    h = rms_norm(x, layers[0]["attention_norm"], config.norm_eps)
    following = [*(layer["attention_norm"] for layer in layers[1:]), params["final_norm"]]
    for i, weights in enumerate(layers):
        qkv = (h @ weights["qkv"]).reshape(h.shape[0], config.num_kv_heads, -1, config.head_dim)
        bias = weights.get("qkv_bias")
        if config.qk_norm:
            qkv, bias = _norm_heads(qkv if bias is None else qkv + bias, weights["attention"], config), None
        cached = (prefix.keys[i], prefix.values[i])
        y, (keys[i], values[i]) = attend(qkv, bias, rotation, cached, (keys[i], values[i]), context, entry)
        y = y.reshape(y.shape[0], config.num_heads, config.head_dim)
        x, h = normed(x, attention.merge_heads(y, weights["attention"], config), weights["mlp_norm"])
        x, h = normed(x, _mlp(h, weights, config), following[i])
        x, h = constrain(x, "slots", None), constrain(h, "slots", None)
    return h, Ring(keys=tuple(keys), values=tuple(values))


def _mlp(h: jax.Array, weights: Params, config: ModelConfig) -> jax.Array:
    """models.mlp.mlp of h [S, D] with the weights of decoding_layers."""
    gate_up = h @ weights["gate_up"]
    if config.mlp_bias:
        gate_up = gate_up + weights["gate_up_bias"]
    gate_up = gate_up.reshape(h.shape[0], _model_shards(config), 2, -1)
    y = gated(gate_up[:, :, 0], gate_up[:, :, 1]).reshape(h.shape[0], -1) @ weights["down"]
    return y + weights["down_bias"] if config.mlp_bias else y


def _norm_heads(qkv: jax.Array, weights: Params, config: ModelConfig) -> jax.Array:
    q = rms_norm(qkv[:, :, :-2], weights["query_norm"], config.norm_eps)
    k = rms_norm(qkv[:, :, -2:-1], weights["key_norm"], config.norm_eps)
    return jnp.concatenate([q, k, qkv[:, :, -1:]], axis=2)


def _attention(config: ModelConfig) -> Callable[..., Any]:
    """decode_attention on the current mesh. The compiler does not partition kernels, so each shard runs its own."""
    attend = partial(decode_attention, kernel=has_kernel(config))
    mesh = compiler_mesh()
    if not has_kernel(config) or mesh is None or mesh.size == 1:
        return attend

    def on_shards(qkv, bias, rotation, prefix, ring, context, entry):
        slots, heads = partition(qkv.shape[:2], ("slots", "kv_heads"), mesh)
        S, SG, prompts = P(slots), P(slots, heads), P(None, heads)
        return jax.shard_map(
            attend,
            in_specs=(SG, P(heads), (S, S), (prompts, prompts), (SG, SG), S, P()),
            out_specs=(SG, (SG, SG)),
            check_vma=False,
        )(qkv, bias, rotation, prefix, ring, context, entry)

    return on_shards
