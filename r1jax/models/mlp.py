"""The gated feed-forward block."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from r1jax.models.config import ModelConfig
from r1jax.sharding import ParamSpec


def specs(config: ModelConfig) -> dict[str, ParamSpec]:
    """Weights of one feed-forward block."""
    D, F = config.hidden_size, config.intermediate_size
    return {
        "gate": ParamSpec((D, F), ("embed", "mlp")),
        "up": ParamSpec((D, F), ("embed", "mlp")),
        "down": ParamSpec((F, D), ("mlp", "embed"), scale=0.02 / (2 * config.num_layers) ** 0.5),
    }


@jax.checkpoint  # the backward pass keeps gate and up alone
def gated(gate: jax.Array, up: jax.Array) -> jax.Array:
    """silu(gate) * up."""
    return jax.nn.silu(gate) * up


def mlp(x: jax.Array, weights: dict[str, jax.Array]) -> jax.Array:
    """down(silu(gate x) * up x): [..., D] (SwiGLU, arXiv 2002.05202)."""
    gate = jnp.einsum("...d,df->...f", x, weights["gate"])
    up = jnp.einsum("...d,df->...f", x, weights["up"])
    return jnp.einsum("...f,fd->...d", gated(gate, up), weights["down"])
