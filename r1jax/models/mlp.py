"""The gated feed-forward block."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from r1jax.kernels import few_rows
from r1jax.kernels.few_rows_mosaic import product_parts
from r1jax.models.config import ModelConfig
from r1jax.models.kinds import FeedForward
from r1jax.models.precision import add_bias
from r1jax.sharding import Params, ParamSpec, compiler_mesh, constrain


def specs(config: ModelConfig) -> dict[str, ParamSpec]:
    """Parameter specs of one feed-forward block."""
    D, F = config.hidden_size, config.intermediate_size
    tree = {
        "gate": ParamSpec((D, F), ("embed", "mlp")),
        "up": ParamSpec((D, F), ("embed", "mlp")),
        "down": ParamSpec((F, D), ("mlp", "embed"), scale=0.02 / (2 * config.num_layers) ** 0.5),
    }
    if config.mlp_bias:
        tree["gate_bias"] = ParamSpec((F,), ("mlp",), init="zeros")
        tree["up_bias"] = ParamSpec((F,), ("mlp",), init="zeros")
        tree["down_bias"] = ParamSpec((D,), (None,), init="zeros")
    return tree


@jax.checkpoint  # the backward pass stores only gate and up
def gated(gate: jax.Array, up: jax.Array) -> jax.Array:
    """silu(gate) * up."""
    return jax.nn.silu(gate) * up


def _apply(x: jax.Array, weights: Params, config: ModelConfig, replay: jax.Array | None) -> tuple[jax.Array, None]:
    """down(silu(gate x) * up x), each with a bias if config.mlp_bias: [..., D] (SwiGLU, arXiv 2002.05202)."""
    gate = jnp.einsum("...d,df->...f", x, weights["gate"])
    up = jnp.einsum("...d,df->...f", x, weights["up"])
    if config.mlp_bias:
        gate, up = add_bias(gate, weights["gate_bias"]), add_bias(up, weights["up_bias"])
    y = jnp.einsum("...f,fd->...d", gated(gate, up), weights["down"])
    return (add_bias(y, weights["down_bias"]) if config.mlp_bias else y), None


def _decoding_weights(weights: Params, config: ModelConfig) -> Params:
    """Joins "gate_up" [D, 2 F], for each shard of the model axis its part of gate and of up; "gate_up_bias" [2 F].

    Where there are kernels of products, which read its transpose, it is "gate_up_transposed" [2 F, D] instead. Stored
    weights are as in ``specs``.
    """
    if not config.copies_layers:
        return weights
    if few_rows.chosen(config):
        both = [weights[name].T for name in ("gate", "up")]
        return {"gate_up_transposed": jnp.concatenate(both), "down": weights["down"]}

    def halves(*names: str) -> jax.Array:  # two [..., F] -> [..., 2 F]
        split = [weights[name].reshape(*weights[name].shape[:-1], _model_shards(config), -1) for name in names]
        both = jnp.stack(split, axis=-2).reshape(*weights[names[0]].shape[:-1], -1)
        return constrain(both, *[None] * (both.ndim - 1), "mlp")

    joined = {"gate_up": halves("gate", "up"), "down": weights["down"]}
    if config.mlp_bias:
        joined |= {"gate_up_bias": halves("gate_bias", "up_bias"), "down_bias": weights["down_bias"]}
    return joined


def _model_shards(config: ModelConfig) -> int:
    mesh = compiler_mesh()
    shards = 1 if mesh is None else mesh.shape["model"]
    return 1 if config.intermediate_size % shards else shards


def _decode(h: jax.Array, weights: Params, config: ModelConfig) -> tuple[jax.Array, None]:
    if "gate_up_transposed" in weights:
        y, few = _gated_product(h, weights["gate_up_transposed"], config), few_rows.fits(len(h), config)
        return product_parts(y, weights["down"]) if few else y @ weights["down"], None
    if "gate_up" not in weights:
        return _apply(h, weights, config, None)
    gate_up = h @ weights["gate_up"]
    if config.mlp_bias:
        gate_up = gate_up + weights["gate_up_bias"]
    gate_up = gate_up.reshape(h.shape[0], _model_shards(config), 2, -1)
    y = gated(gate_up[:, :, 0], gate_up[:, :, 1]).reshape(h.shape[0], -1) @ weights["down"]
    return (y + weights["down_bias"] if config.mlp_bias else y), None


def _gated_product(h: jax.Array, w: jax.Array, config: ModelConfig) -> jax.Array:
    """silu(h w_gate^T) * h w_up^T for h [S, D] and w [2 F, D]: [S, F]."""
    kernel = few_rows.gated_kernel(len(h), config)
    return gated(*jnp.split(h @ w.T, 2, axis=1)) if kernel is None else kernel(h, w)


DENSE = FeedForward(specs, _apply, _decoding_weights, _decode)
