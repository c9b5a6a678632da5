"""The gated feed-forward block."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from r1jax.models.config import ModelConfig
from r1jax.models.precision import add_bias
from r1jax.sharding import ParamSpec


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


def mlp(x: jax.Array, weights: dict[str, jax.Array], config: ModelConfig) -> jax.Array:
    """down(silu(gate x) * up x), each with a bias if config.mlp_bias: [..., D] (SwiGLU, arXiv 2002.05202)."""
    gate = jnp.einsum("...d,df->...f", x, weights["gate"])
    up = jnp.einsum("...d,df->...f", x, weights["up"])
    if config.mlp_bias:
        gate, up = add_bias(gate, weights["gate_bias"]), add_bias(up, weights["up_bias"])
    y = jnp.einsum("...f,fd->...d", gated(gate, up), weights["down"])
    return add_bias(y, weights["down_bias"]) if config.mlp_bias else y
