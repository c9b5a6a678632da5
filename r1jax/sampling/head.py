"""The output head of decoding: a token from the final states."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from r1jax.kernels.head import Head, applies, head_of
from r1jax.kernels.head_mosaic import TILE, logits_kernel
from r1jax.kernels.platform import choose
from r1jax.models.config import ModelConfig
from r1jax.models.precision import einsum_f32
from r1jax.sampling.decode import Weights
from r1jax.sampling.processors import Sampling, draw, sample_token
from r1jax.sharding import constrain
from r1jax.traced import enabled, is_array


def next_token(
    weights: Weights, hidden: jax.Array, bits: jax.Array, config: ModelConfig, sampling: Sampling
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """sample_token of the logits of final states [S, D]."""
    head = head_of(config)
    if _in_one_kernel(head, hidden, weights.output, sampling):
        return kernel_token(weights, hidden, bits, head, sampling)
    logits = constrain(einsum_f32("sd,dv->sv", hidden, weights.output), "slots", "vocab")
    return sample_token(logits, bits, sampling, choose(config.kernels))


def _in_one_kernel(head: Head, hidden: jax.Array, output: jax.Array, sampling: Sampling) -> bool:
    """True if one kernel computes logits and the sums of their blocks; few rows would leave its tiles half empty."""
    plain = enabled(sampling.temperature) and not is_array(sampling.temperature) and not sampling.truncates
    return plain and len(hidden) % TILE == 0 and applies(head, hidden, output)


def kernel_token(
    weights: Weights, hidden: jax.Array, bits: jax.Array, head: Head, sampling: Sampling
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """next_token without truncation, with the kernel of logits and sums of their blocks."""
    by_columns = head == "columns"
    matrix = weights.params["embedding"] if by_columns else weights.output
    z, (tops, sums) = logits_kernel(hidden, matrix, by_columns, 1 / sampling.temperature)
    token, normaliser = draw(z, bits, blocks=(tops.T, sums.T))
    policy = jnp.take_along_axis(z, token[:, None], axis=-1)[:, 0] - normaliser
    return token, policy, policy
