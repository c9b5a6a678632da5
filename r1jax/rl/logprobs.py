"""Log-probabilities of the tokens of a batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from r1jax.algorithms.logprobs import token_logprobs
from r1jax.models.config import ModelConfig
from r1jax.models.transformer import Extras, hidden_states, prepare, unembedding
from r1jax.sharding import Params
from r1jax.traced import program
from r1jax.training.gradients import split_microbatches


def completion_logprobs(
    params: Params, tokens: jax.Array, config: ModelConfig, temperature: float, chunk: int, first: int
) -> tuple[jax.Array, jax.Array, Extras]:
    """Log-probability of tokens[:, 1:] and entropy [B, T] as token_logprobs; zeros before position ``first``.

    Also what the forward pass computes besides.

    Prompts need no logits, and the output head is the largest product of a small model.
    """
    h, extras = hidden_states(params, tokens[:, :-1], config)
    pair = token_logprobs(h[:, first:], unembedding(params, config), tokens[:, 1 + first :], temperature, chunk)
    logp, entropy = (jnp.pad(x, ((0, 0), (first, 0))) for x in pair)
    return logp, entropy, extras


@program(static_argnames=("config", "temperature", "microbatches", "chunk", "first"))
def batch_logprobs(
    params: Params,
    tokens: jax.Array,
    config: ModelConfig,
    temperature: float,
    microbatches: int,
    chunk: int,
    first: int = 0,
) -> jax.Array:
    """Log-probabilities [B, T] of tokens[:, 1:] without gradient, for the old policy and the reference.

    Zero before position ``first``.
    """
    params = prepare(params, config)

    def one(rows: jax.Array) -> jax.Array:
        return completion_logprobs(params, rows, config, temperature, chunk, first)[0]

    parts = jax.lax.map(one, split_microbatches(tokens, microbatches))  # [n, B/n, T]
    return jnp.swapaxes(parts, 0, 1).reshape(tokens.shape[0], -1)


@jax.jit
def sampler_gap(old: jax.Array, sampler: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sum, count and maximum of |old - sampler| over the tokens [B, T] of the mask: [] float32 each."""
    gap = jnp.where(mask, jnp.abs(old - sampler), 0.0)
    return gap.sum(), mask.sum().astype(jnp.float32), gap.max()
