"""Grouped-query attention: projections, and causal attention for training and prefill."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from r1jax.errors import UserError
from r1jax.models.config import ComputeOptions, ModelConfig
from r1jax.models.norm import rms_norm
from r1jax.models.precision import add_bias
from r1jax.models.rotary import rotate
from r1jax.sharding import ParamSpec, compiler_mesh, constrain, partition


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
        tree["query_norm"] = ParamSpec((K,), (None,), init="ones")
        tree["key_norm"] = ParamSpec((K,), (None,), init="ones")
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
        q = rms_norm(q, weights["query_norm"], config.norm_eps)
        k = rms_norm(k, weights["key_norm"], config.norm_eps)
    return rotate(q, cos, sin), rotate(k, cos, sin), v


def merge_heads(x: jax.Array, weights: dict[str, jax.Array], config: ModelConfig) -> jax.Array:
    """Output projection of heads [..., H, K] to [..., D]."""
    y = jnp.einsum("...hk,hkd->...d", x, weights["output"])
    return add_bias(y, weights["output_bias"]) if config.output_bias else y


def check_attention(options: ComputeOptions) -> None:
    """Raises UserError if the devices of this process do not support the attention kernel."""
    if options.attention == "cudnn" and jax.default_backend() != "gpu":
        raise UserError("--attention=cudnn needs an NVIDIA GPU: use --attention=auto")


def implementation(config: ModelConfig) -> str:
    """The kernel of causal_attention: that of the config; for auto, cuDNN if it is supported and XLA otherwise."""
    if config.attention != "auto":
        return config.attention
    fits = config.dtype == "bfloat16" and config.head_dim % 8 == 0 and config.head_dim <= 128
    return "cudnn" if fits and jax.default_backend() == "gpu" else "xla"


def causal_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, config: ModelConfig, segments: jax.Array | None = None
) -> jax.Array:
    """softmax(q k^T / sqrt(K)) v over positions up to that of the query: [B, T, H, K] for k, v [B, T, G, K].

    With segments [B, T] int32, only positions in the segment of the query count.
    """
    q = constrain(q, "batch", None, "heads", None)
    k = constrain(k, "batch", None, "kv_heads", None)
    v = constrain(v, "batch", None, "kv_heads", None)
    kernel: Any = implementation(config)
    if kernel == "cudnn" and _split_unequally(q.shape[2], k.shape[2]):
        k, v = (constrain(jnp.repeat(x, q.shape[2] // x.shape[2], 2), "batch", None, "heads", None) for x in (k, v))
    if kernel == "cudnn" and q.shape[1] % 2:
        # The backward pass of cuDNN supports only even lengths. No position attends to the padding at the end.
        q, k, v = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (q, k, v))
        segments = None if segments is None else jnp.pad(segments, ((0, 0), (0, 1)), constant_values=-1)
        return _attend(q, k, v, segments, kernel)[:, :-1]
    return _attend(q, k, v, segments, kernel)


def _split_unequally(heads: int, kv_heads: int) -> bool:
    """True if the mesh splits query heads and not key and value heads, which cuDNN refuses."""
    mesh = compiler_mesh()
    return mesh is not None and partition((heads,), ("heads",), mesh) != partition((kv_heads,), ("kv_heads",), mesh)


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None, kernel: Any) -> jax.Array:
    mask = None if segments is None else segments[:, None, :, None] == segments[:, None, None, :]  # [B, 1, T, T]
    return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=True, implementation=kernel)
