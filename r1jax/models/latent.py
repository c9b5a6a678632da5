"""Multi-head latent attention (arXiv 2405.04434): over whole sequences, and of one new token per slot."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from r1jax.kernels.decode_attention import Context
from r1jax.models.attention import causal_attention
from r1jax.models.config import Latent, ModelConfig
from r1jax.models.kinds import Attention, Cached, CacheShape, Rotation
from r1jax.models.norm import rms_norm
from r1jax.models.rotary import rotate
from r1jax.sharding import Params, ParamSpec


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
    return (CacheShape(1, _latent(config).kv_rank + _latent(config).rope_dim),)  # compressed vector, rotated key


def _queries(h: jax.Array, weights: Params, rotation: Rotation, config: ModelConfig) -> tuple[jax.Array, jax.Array]:
    """Queries [..., H, nope] and rotated queries [..., H, rope] of h [..., D]."""
    own = _latent(config)
    if own.query_rank:
        h = rms_norm(jnp.einsum("...d,dr->...r", h, weights["query_down"]), weights["query_norm"], config.norm_eps)
        q = jnp.einsum("...r,rhk->...hk", h, weights["query_up"])
    else:
        q = jnp.einsum("...d,dhk->...hk", h, weights["query"])
    plain, turned = jnp.split(q, [own.nope_dim], axis=-1)
    return plain, rotate(turned, *rotation)


def _compressed(h: jax.Array, weights: Params, rotation: Rotation, config: ModelConfig) -> jax.Array:
    """What is cached of h [..., D]: the normalised compressed vector and the rotated key, [..., 1, R + rope]."""
    x = jnp.einsum("...d,dr->...r", h, weights["kv_down"])
    vector, key = jnp.split(x, [_latent(config).kv_rank], axis=-1)
    vector = rms_norm(vector, weights["kv_norm"], config.norm_eps)[..., None, :]
    return jnp.concatenate([vector, rotate(key[..., None, :], *rotation)], axis=-1)


def _attend(
    h: jax.Array, weights: Params, rotation: Rotation, config: ModelConfig, segments: jax.Array | None
) -> tuple[jax.Array, Cached]:
    own, H = _latent(config), config.num_heads
    q = jnp.concatenate(_queries(h, weights, rotation, config), axis=-1)
    cached = _compressed(h, weights, rotation, config)
    vector, key = jnp.split(cached, [own.kv_rank], axis=-1)
    up = jnp.einsum("...r,rhk->...hk", vector[..., 0, :], weights["kv_up"])
    k, v = jnp.split(up, [own.nope_dim], axis=-1)
    k = jnp.concatenate([k, jnp.broadcast_to(key, (*key.shape[:-2], H, own.rope_dim))], axis=-1)
    # The kernels take values of the size of the keys.
    v = jnp.pad(v, [(0, 0)] * (v.ndim - 1) + [(0, max(0, k.shape[-1] - own.value_dim))])
    y = causal_attention(q, k, v, config, segments)[..., : own.value_dim]
    return jnp.einsum("...hk,hkd->...d", y, weights["output"]), (cached,)


def _decoding_weights(weights: Params, config: ModelConfig) -> Params:
    return weights


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
    raise NotImplementedError


LATENT = Attention(specs, _cache, _attend, _decoding_weights, _decode)
