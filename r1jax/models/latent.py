"""Multi-head latent attention (arXiv 2405.04434): over whole sequences, and of one new token per slot."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from r1jax.kernels.decode_attention import Context, attend_block, attend_cached
from r1jax.models.attention import causal_attention, write_block
from r1jax.models.config import Latent, ModelConfig
from r1jax.models.kinds import Attention, Cached, CacheShape, Rotation
from r1jax.models.norm import rms_norm
from r1jax.models.rotary import rotate, score_factor
from r1jax.sharding import Params, ParamSpec, constrain

NORM_EPS = 1e-6  # of the norms of compressed vectors: DeepSeek's code gives them the default, whatever norm_eps is


def _latent(config: ModelConfig) -> Latent:
    assert config.latent is not None
    return config.latent


def specs(config: ModelConfig) -> dict[str, ParamSpec]:
    """Parameter specs of one layer.

    "query_down" [D, Rq], "query_norm" [Rq] and "query_up" [Rq, H, nope + rope] compress the queries; without
    compression there is "query" [D, H, nope + rope]. "kv_down" [D, R + rope] gives the compressed vector and the
    shared rotated key, "kv_norm" [R] normalises the former, "kv_up" [R, H, nope + value] computes keys and values.
    """
    D, H, own = config.hidden_size, config.num_heads, _latent(config)
    K = own.nope_dim + own.rope_dim
    if own.query_rank:
        tree = {
            "query_down": ParamSpec((D, own.query_rank), ("embed", None)),
            "query_norm": ParamSpec((own.query_rank,), (None,), init="ones"),
            "query_up": ParamSpec((own.query_rank, H, K), ("embed", "heads", None)),
        }
    else:
        tree = {"query": ParamSpec((D, H, K), ("embed", "heads", None))}
    return tree | {
        "kv_down": ParamSpec((D, own.kv_rank + own.rope_dim), ("embed", None)),
        "kv_norm": ParamSpec((own.kv_rank,), (None,), init="ones"),
        "kv_up": ParamSpec((own.kv_rank, H, own.nope_dim + own.value_dim), ("embed", "heads", None)),
        "output": ParamSpec(
            (H, own.value_dim, D), ("heads", None, "embed"), scale=0.02 / (2 * config.num_layers) ** 0.5
        ),
    }


def _cache(config: ModelConfig) -> tuple[CacheShape, ...]:
    return (CacheShape(None, _latent(config).kv_rank + _latent(config).rope_dim),)  # compressed vector, rotated key


def _scale(config: ModelConfig) -> float:
    """Factor on the scores: 1 / sqrt(nope + rope), times that of YaRN."""
    return config.head_dim**-0.5 * score_factor(config)


def _queries(x: jax.Array, weights: Params, rotation: Rotation, config: ModelConfig) -> tuple[jax.Array, jax.Array]:
    """Queries [..., H, nope] and rotated queries [..., H, rope].

    x is [..., Rq], the compressed queries before their norm, or [..., D] without compression.
    """
    own = _latent(config)
    if own.query_rank:
        x = rms_norm(x, weights["query_norm"], NORM_EPS)
    q = jnp.einsum("...r,rhk->...hk", x, weights["query_up" if own.query_rank else "query"])
    plain, turned = jnp.split(q, [own.nope_dim], axis=-1)
    return plain, rotate(turned, *rotation)


def _kept(x: jax.Array, weights: Params, rotation: Rotation, config: ModelConfig) -> jax.Array:
    """What is cached of a token: its compressed vector, normalised, and its rotated key, [..., R + rope].

    x is [..., R + rope], the product with "kv_down".
    """
    vector, key = jnp.split(x, [_latent(config).kv_rank], axis=-1)
    vector = rms_norm(vector, weights["kv_norm"], NORM_EPS)
    return jnp.concatenate([vector, rotate(key[..., None, :], *rotation)[..., 0, :]], axis=-1)


def _attend(
    h: jax.Array, weights: Params, rotation: Rotation, config: ModelConfig, segments: jax.Array | None
) -> tuple[jax.Array, Cached]:
    own, H = _latent(config), config.num_heads

    def down(name: str) -> jax.Array:  # the same on all devices of the model axis: all heads read all of it
        return constrain(jnp.einsum("...d,dr->...r", h, weights[name]), "batch", None, None)

    q = jnp.concatenate(_queries(down("query_down") if own.query_rank else h, weights, rotation, config), axis=-1)
    kept = _kept(down("kv_down"), weights, rotation, config)
    vector, key = jnp.split(kept, [own.kv_rank], axis=-1)
    k, v = jnp.split(jnp.einsum("...r,rhk->...hk", vector, weights["kv_up"]), [own.nope_dim], axis=-1)
    key = jnp.broadcast_to(key[..., None, :], (*key.shape[:-1], H, own.rope_dim))
    k = jnp.concatenate([k, key], axis=-1)
    # The kernels take keys and values of one size. Zeros at the end of queries and keys add nothing to the scores.
    size = max(config.head_dim, own.value_dim)
    q, k, v = (jnp.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, size - a.shape[-1])]) for a in (q, k, v))
    y = causal_attention(q, k, v, config, segments, _scale(config))[..., : own.value_dim]
    return jnp.einsum("...hk,hkd->...d", y, weights["output"]), (kept,)


def _decoding_weights(weights: Params, config: ModelConfig) -> Params:
    """Splits "kv_up" into "key_up" [H, nope, R] and "value_up" [H, R, value], which decode absorbs.

    If queries are compressed, "down" [D, Rq + R + rope] joins "query_down" and "kv_down", which have the same input.
    All other weights are as in ``specs``.
    """
    own = _latent(config)
    key_up, value_up = jnp.split(weights["kv_up"], [own.nope_dim], axis=-1)
    split = {
        "key_up": constrain(key_up.transpose(1, 2, 0), "heads", None, None),
        "value_up": constrain(value_up.transpose(1, 0, 2), "heads", None, None),
    }
    if own.query_rank:
        split["down"] = jnp.concatenate([weights["query_down"], weights["kv_down"]], axis=-1)
    replaced = ("kv_up", "query_down", "kv_down") if own.query_rank else ("kv_up",)
    return {name: w for name, w in weights.items() if name not in replaced} | split


def _decode(
    h: jax.Array,
    weights: Params,
    rotation: Rotation,
    prefix: Cached,
    ring: Cached,
    context: Context,
    entry: jax.Array,
    config: ModelConfig,
) -> tuple[jax.Array, Cached]:
    """Attention with one key head, whose values are the first R numbers of the keys.

    With kv_up = (W_k, W_v), q . (W_k c) = (W_k^T q) . c, and the sum of w_t W_v c_t is W_v applied to that of w_t c_t.
    """
    q, kept = _absorbed(h, weights, rotation, config)
    ring = (jax.lax.dynamic_update_slice_in_dim(ring[0], kept[:, None], entry, axis=1),)
    # The weighted sum of the whole keys costs rope / R more than that of the values, which would be copied.
    y = attend_cached(q, prefix, ring, context, entry, _scale(config))
    return _output(y, weights, config), ring


def _decode_block(
    h: jax.Array,
    weights: Params,
    rotation: Rotation,
    prefix: Cached,
    cached: Cached,
    context: Context,
    config: ModelConfig,
) -> tuple[jax.Array, Cached]:
    q, kept = _absorbed(h, weights, rotation, config)
    cached = (write_block(cached[0], kept, context.age),)
    return _output(attend_block(q, prefix, cached, context, _scale(config)), weights, config), cached


def _absorbed(h: jax.Array, weights: Params, rotation: Rotation, config: ModelConfig) -> tuple[jax.Array, jax.Array]:
    """Queries [..., H, R + rope] for what is cached of tokens, and what is cached of h [..., D]."""
    own = _latent(config)
    if own.query_rank:
        x, kept = jnp.split(h @ weights["down"], [own.query_rank], axis=-1)
    else:
        x, kept = h, h @ weights["kv_down"]
    plain, turned = _queries(x, weights, rotation, config)
    q = jnp.concatenate([jnp.einsum("...hk,hkr->...hr", plain, weights["key_up"]), turned], axis=-1)
    return q, _kept(kept, weights, rotation, config)


def _output(y: jax.Array, weights: Params, config: ModelConfig) -> jax.Array:
    """The result [..., D] of weighted sums [..., H, R + rope] of what is cached."""
    y = jnp.einsum("...hr,hrk->...hk", y[..., : _latent(config).kv_rank], weights["value_up"])
    return jnp.einsum("...hk,hkd->...d", y, weights["output"])


LATENT = Attention(specs, _cache, _attend, _decoding_weights, _decode, _decode_block)
