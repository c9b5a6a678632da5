"""Grouped-query attention (arXiv 2305.13245): over whole sequences, and of one new token per slot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from r1jax.errors import UserError
from r1jax.kernels import few_rows, packed_attention
from r1jax.kernels.block_attention import block_attention, fits
from r1jax.kernels.decode_attention import Context, attend_block, attention_kernels, decode_attention, kernels_of
from r1jax.kernels.few_rows_mosaic import product, product_parts
from r1jax.kernels.platform import check_kernels, on_one_device
from r1jax.models.config import ComputeOptions, ModelConfig
from r1jax.models.kinds import Attention, Cached, CacheShape, Rotation
from r1jax.models.norm import rms_norm
from r1jax.models.precision import add_bias
from r1jax.models.rotary import rotate
from r1jax.models.segment_attention import blockwise_attention
from r1jax.sharding import Params, ParamSpec, compiler_mesh, constrain, partition

# Positions of a row up to which segments are a mask [B, 1, T, T]. XLA also has the scores of each head, [B, H, T, T],
# and cuDNN a mask of 16 bits a pair, 0.5 GiB a row here.
LONGEST = {"xla": 4096, "cudnn": 16_384}
PACKED = 4096  # "auto" takes the packed layout of cuDNN for longer rows; for shorter ones a mask is faster


def specs(config: ModelConfig) -> dict[str, ParamSpec]:
    """Parameter specs of one attention block."""
    D, H, G, K = config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim
    tree = {
        "query": ParamSpec((D, H, K), ("embed", "heads", None)),
        "key": ParamSpec((D, G, K), ("embed", "kv_heads", None)),
        "value": ParamSpec((D, G, K), ("embed", "kv_heads", None)),
        "output": ParamSpec((H, K, D), ("heads", None, "embed"), scale=0.02 / (2 * config.num_layers) ** 0.5),
    }
    if config.attention_bias:
        tree["query_bias"] = ParamSpec((H, K), ("heads", None), init="zeros")
        tree["key_bias"] = ParamSpec((G, K), ("kv_heads", None), init="zeros")
        tree["value_bias"] = ParamSpec((G, K), ("kv_heads", None), init="zeros")
    if config.output_bias:
        tree["output_bias"] = ParamSpec((D,), (None,), init="zeros")
    if config.qk_norm:
        for name, heads in (("query_norm", H), ("key_norm", G)):
            joint = config.qk_norm_joint
            tree[name] = ParamSpec((heads, K) if joint else (K,), (None,) * (1 + joint), init="ones")
    return tree


def project(
    x: jax.Array, weights: dict[str, jax.Array], cos: jax.Array, sin: jax.Array, config: ModelConfig
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries [..., H, K], keys and values [..., G, K] of x [..., D], normalised (qk_norm) and rotated."""
    q = jnp.einsum("...d,dhk->...hk", x, weights["query"])
    k = jnp.einsum("...d,dgk->...gk", x, weights["key"])
    v = jnp.einsum("...d,dgk->...gk", x, weights["value"])
    if config.attention_bias:
        q, k, v = (add_bias(x, weights[f"{name}_bias"]) for x, name in ((q, "query"), (k, "key"), (v, "value")))
    if config.qk_norm:
        q = _norm_heads(q, weights["query_norm"], config)
        k = _norm_heads(k, weights["key_norm"], config)
    return rotate(q, cos, sin), rotate(k, cos, sin), v


def _norm_heads(x: jax.Array, weight: jax.Array, config: ModelConfig) -> jax.Array:
    """RMS norm of x [..., heads, K], of each head (weight [K]) or of all together (weight [heads, K])."""
    if not config.qk_norm_joint:
        return rms_norm(x, weight, config.norm_eps)
    return rms_norm(x.reshape(*x.shape[:-2], -1), weight.reshape(-1), config.norm_eps).reshape(x.shape)


def merge_heads(x: jax.Array, weights: dict[str, jax.Array], config: ModelConfig) -> jax.Array:
    """Output projection of heads [..., H, K] to [..., D]."""
    y = jnp.einsum("...hk,hkd->...d", x, weights["output"])
    return add_bias(y, weights["output_bias"]) if config.output_bias else y


def check_attention(options: ComputeOptions) -> None:
    """Raises UserError if the devices of this process do not support the kernels that are asked for by name."""
    check_kernels(options.kernels)
    if options.attention == "cudnn" and jax.default_backend() != "gpu":
        raise UserError("--attention=cudnn needs an NVIDIA GPU: use --attention=auto")
    if options.attention == "packed" and not packed_attention.runs_here():
        raise UserError("--attention=packed needs a Hopper GPU and jax 0.11.2 or newer: use --attention=auto")


def implementation(config: ModelConfig, backend: str = "") -> str:
    """The kernel of causal_attention: "cudnn" or "xla", of the config; for auto, cuDNN if supported and XLA otherwise.

    cuDNN computes gradients of heads of up to 256 numbers on Hopper GPUs, and of up to 128 on others.

    backend: of JAX, on which the model is computed, with Hopper GPUs for "gpu"; "": that of this process.
    """
    if config.attention != "auto":
        return "cudnn" if config.attention == "packed" else config.attention
    size = config.head_dim if config.latent is None else max(config.head_dim, config.latent.value_dim)
    widest = 256 if backend or getattr(jax.devices()[0], "compute_capability", None) == "9.0" else 128
    fits = config.dtype == "bfloat16" and size % 8 == 0 and size <= widest
    return "cudnn" if fits and (backend or jax.default_backend()) == "gpu" else "xla"


def packs(config: ModelConfig, length: int) -> bool:
    """True if rows of several texts with this number of positions are computed text by text (packed_attention)."""
    if config.attention != "auto" or config.latent is not None:
        return config.attention == "packed"
    long = length > PACKED and implementation(config) == "cudnn"
    return long and on_one_device() and packed_attention.runs_here()


def causal_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    config: ModelConfig,
    segments: jax.Array | None = None,
    scale: float | None = None,
) -> jax.Array:
    """softmax(scale q k^T) v over positions up to that of the query: [B, T, H, K] for k, v [B, T, G, K].

    With segments [B, T] int32, whose equal numbers are next to each other, only positions in the segment of the query
    count. The scale is 1 / sqrt(K) if not given.
    """
    q = constrain(q, "batch", None, "heads", None)
    k = constrain(k, "batch", None, "kv_heads", None)
    v = constrain(v, "batch", None, "kv_heads", None)
    kernel: Any = implementation(config)
    packed = packs(config, q.shape[1])
    if segments is not None and not packed and q.shape[1] > LONGEST[kernel]:
        return blockwise_attention(q, k, v, segments, scale or q.shape[3] ** -0.5)
    if kernel == "cudnn" and _split_unequally(q.shape[2], k.shape[2]):
        k, v = (constrain(jnp.repeat(x, q.shape[2] // x.shape[2], 2), "batch", None, "heads", None) for x in (k, v))
    if segments is not None and packed:
        return packed_attention.packed_attention(q, k, v, segments, scale or q.shape[3] ** -0.5)
    if kernel == "cudnn" and q.shape[1] % 2:
        # The backward pass of cuDNN supports only even lengths. No position attends to the padding at the end.
        q, k, v = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (q, k, v))
        segments = None if segments is None else jnp.pad(segments, ((0, 0), (0, 1)), constant_values=-1)
        return _attend(q, k, v, segments, kernel, scale)[:, :-1]
    return _attend(q, k, v, segments, kernel, scale)


def _split_unequally(heads: int, kv_heads: int) -> bool:
    """True if the mesh splits query heads and not key and value heads, which cuDNN refuses."""
    mesh = compiler_mesh()
    return mesh is not None and partition((heads,), ("heads",), mesh) != partition((kv_heads,), ("kv_heads",), mesh)


def _attend(
    q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None, kernel: Any, scale: float | None
) -> jax.Array:
    mask = None if segments is None else segments[:, None, :, None] == segments[:, None, None, :]  # [B, 1, T, T]
    return jax.nn.dot_product_attention(q, k, v, mask=mask, scale=scale, is_causal=True, implementation=kernel)


def _cache(config: ModelConfig) -> tuple[CacheShape, ...]:
    return (CacheShape(config.num_kv_heads, config.head_dim),) * 2  # keys, values


def _attend_sequences(
    h: jax.Array, weights: Params, rotation: Rotation, config: ModelConfig, segments: jax.Array | None
) -> tuple[jax.Array, Cached]:
    q, k, v = project(h, weights, *rotation, config)
    y = causal_attention(q, k, v, config, segments)
    return merge_heads(y, weights, config), (k, v)


def _decoding_weights(weights: Params, config: ModelConfig) -> Params:
    """Joins matrices with the same input: "qkv" [D, G (H/G + 2) K] holds the queries, key and value of each group.

    "qkv_bias" is [G, H/G + 2, K]. All other weights are as in ``specs``, and with stored weights these are, too.
    """
    if not config.copies_layers:
        return weights
    D = config.hidden_size
    qkv = constrain(_group(weights, "", config), None, "kv_heads", None, None)
    kept = {name: w for name, w in weights.items() if name.startswith("output") or name.endswith("norm")}
    joined = {"qkv": qkv.reshape(D, -1), **kept}
    if config.attention_bias:
        joined["qkv_bias"] = _group(weights, "_bias", config)
    return joined


def _group(of: Mapping[str, jax.Array], suffix: str, config: ModelConfig) -> jax.Array:
    """The queries, key and value of each group: [..., G, H/G + 2, K]."""
    queries, keys, values = (of[f"{name}{suffix}"] for name in ("query", "key", "value"))
    queries = queries.reshape(*queries.shape[:-2], config.num_kv_heads, -1, config.head_dim)
    return jnp.concatenate([queries, keys[..., None, :], values[..., None, :]], axis=-2)


def _group_products(
    h: jax.Array, weights: Params, config: ModelConfig, few: bool = False
) -> tuple[jax.Array, jax.Array | None]:
    """The products of h [S, D] with the weights of each group, [S, G, H/G + 2, K], and the bias to be added.

    few: use the kernel of few rows.
    """
    if "qkv" in weights:
        qkv = product(h, weights["qkv"]) if few else h @ weights["qkv"]
        return qkv.reshape(h.shape[0], config.num_kv_heads, -1, config.head_dim), weights.get("qkv_bias")
    products = {name: jnp.einsum("sd,dhk->shk", h, weights[name]) for name in ("query", "key", "value")}
    return _group(products, "", config), _group(weights, "_bias", config) if config.attention_bias else None


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
    few = few_rows.fits(len(h), config)
    qkv, bias = _group_products(h, weights, config, few)
    if config.qk_norm:
        qkv, bias = _norm_groups(qkv if bias is None else qkv + bias, weights, config), None
    y, ring = _kernel(config)(qkv, bias, rotation, prefix, ring, context, entry)
    if few:
        return product_parts(y.reshape(len(y), -1), weights["output"].reshape(-1, config.hidden_size)), ring
    return merge_heads(y.reshape(y.shape[0], config.num_heads, config.head_dim), weights, config), ring


def _decode_block(
    h: jax.Array,
    weights: Params,
    rotation: Rotation,
    prefix: Cached,
    cached: Cached,
    context: Context,
    config: ModelConfig,
) -> tuple[jax.Array, Cached]:
    S, m, G, K = *h.shape[:2], config.num_kv_heads, config.head_dim
    qkv, bias = _group_products(h.reshape(S * m, -1), weights, config)
    if bias is not None:
        qkv = qkv + bias
    if config.qk_norm:
        qkv = _norm_groups(qkv, weights, config)
    qkv = qkv.reshape(S, m, G, -1, K)
    cos, sin = (x[:, :, None] for x in rotation)
    turned = rotate(qkv[:, :, :, :-1], cos, sin)
    keys, values = turned[:, :, :, -1], qkv[:, :, :, -1]  # [S, m, G, K]
    q, kernels = turned[:, :, :, :-1], kernels_of(config) if on_one_device() else "plain"
    if kernels == "plain" or m == 1 or not fits(m * q.shape[3]):
        cached = (write_block(cached[0], keys, context.age), write_block(cached[1], values, context.age))
        y = attend_block(q, prefix, cached, context, K**-0.5)
    else:
        y, cached = block_attention(q, keys, values, prefix, cached, context, kernels)
        new, after = (keys[:, 1:], values[:, 1:]), context.age + 1
        cached = (write_block(cached[0], new[0], after), write_block(cached[1], new[1], after))
    return merge_heads(y.reshape(S, m, config.num_heads, K), weights, config), cached


def write_block(cached: jax.Array, new: jax.Array, age: jax.Array) -> jax.Array:
    """Writes new [S, m, heads, width] to the entries age, ..., age + m - 1 of cached [S, heads, R, width].

    Both may lack the axis of heads. Entries beyond R are dropped. age: [S] int32.
    """

    def write(cached: jax.Array, new: jax.Array, age: jax.Array) -> jax.Array:  # of one slot
        return cached.at[..., age + jnp.arange(new.shape[-2]), :].set(new, mode="drop")

    return jax.vmap(write)(cached, jnp.moveaxis(new, 1, -2), age)


def _norm_groups(qkv: jax.Array, weights: Params, config: ModelConfig) -> jax.Array:
    q, k, v = qkv[:, :, :-2], qkv[:, :, -2], qkv[:, :, -1:]  # [S, G, H/G, K], [S, G, K], [S, G, 1, K]
    q = _norm_heads(q.reshape(q.shape[0], -1, q.shape[-1]), weights["query_norm"], config).reshape(q.shape)
    k = _norm_heads(k, weights["key_norm"], config)
    return jnp.concatenate([q, k[:, :, None], v], axis=2)


def _kernel(config: ModelConfig) -> Callable[..., Any]:
    """decode_attention on the current mesh. The compiler does not partition kernels, so each shard runs its own."""

    def attend(qkv, bias, rotation, prefix, ring, context, entry):
        kernels = attention_kernels(config, qkv.shape[0] * qkv.shape[1])
        return decode_attention(qkv, bias, rotation, prefix, ring, context, entry, kernels)

    mesh = compiler_mesh()
    if kernels_of(config) == "plain" or mesh is None or mesh.size == 1:
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


GROUPED = Attention(specs, _cache, _attend_sequences, _decoding_weights, _decode, _decode_block)
