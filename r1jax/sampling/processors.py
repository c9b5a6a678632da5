"""From logits to one token: temperature, truncation, and the draw itself."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from r1jax.errors import UserError
from r1jax.kernels.block_sums import BLOCK, block_sums
from r1jax.kernels.platform import has_kernels, on_one_device


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How tokens are drawn."""

    temperature: float = 1.0
    """0 is greedy."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of most likely tokens whose probability reaches this (arXiv 1904.09751)."""
    min_p: float = 0.0
    """Drop tokens less likely than this share of the most likely one (arXiv 2407.01082)."""
    max_tokens: int = 128
    """Longest completion, in tokens, the end token included."""
    slots: int = 0
    """Sequences decoded side by side; 0 is all of them, or as many as memory holds."""

    def __post_init__(self) -> None:
        def check(ok: bool, message: str) -> None:
            if not ok:
                raise UserError(message)

        check(self.temperature >= 0, f"temperature {self.temperature} is below 0 (0 is greedy)")
        check(self.top_k >= 0, f"top-k {self.top_k} is below 0 (0 keeps all tokens)")
        check(0 < self.top_p <= 1, f"top-p {self.top_p} must lie above 0 and at most at 1")
        check(0 <= self.min_p < 1, f"min-p {self.min_p} must lie from 0 to below 1")
        check(self.max_tokens >= 1, f"max-tokens {self.max_tokens} must be at least 1")
        check(self.slots >= 0, f"slots {self.slots} is below 0 (0 chooses)")

    @property
    def policy_temperature(self) -> float:
        """Temperature of the policy that the trainer sees: greedy decoding still has the policy of temperature 1."""
        return self.temperature or 1.0


def truncate(logits: jax.Array, sampling: Sampling) -> jax.Array:
    """Logits [S, V], already divided by the temperature, with -inf where top-k, top-p or min-p drop the token.

    The three apply to the whole distribution, not one to what another left: a token stays if each of them keeps it.
    The most likely token always stays.
    """
    keep = jnp.ones(logits.shape, bool)
    if sampling.min_p > 0:
        keep &= logits >= logits.max(axis=-1, keepdims=True) + jnp.log(sampling.min_p)
    top_k = min(sampling.top_k, logits.shape[-1])
    if sampling.top_p < 1 or top_k:
        descending = -jnp.sort(-logits, axis=-1)
        if top_k:
            keep &= logits >= descending[:, top_k - 1, None]
        if sampling.top_p < 1:
            p = jax.nn.softmax(descending, axis=-1)
            before = jnp.cumsum(p, axis=-1) - p  # mass of all tokens more likely than this one
            kept = jnp.sum(before < sampling.top_p, axis=-1, keepdims=True)
            keep &= logits >= jnp.take_along_axis(descending, jnp.maximum(kept - 1, 0), axis=-1)
    return jnp.where(keep, logits, -jnp.inf)


def draw(logits: jax.Array, uniform: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Token [S] at quantile ``uniform`` [S] in [0, 1) of softmax(logits [S, V]), and log sum exp logits [S].

    The inverse of the cumulative distribution, found among sums of blocks and then inside one block: one random number
    a token instead of V, no prefix sum over the vocabulary, and nothing of its size but the logits themselves.
    """
    S, V = logits.shape
    logits = jnp.pad(logits, ((0, 0), (0, -V % BLOCK)), constant_values=-jnp.inf)
    tops, sums = block_sums(logits, kernel=has_kernels() and on_one_device())
    top = tops.max(axis=-1, keepdims=True)
    sums = sums * jnp.exp(tops - top)
    cumulative = jnp.cumsum(sums, axis=-1)
    mass = cumulative[:, -1]
    # Rounding must not carry the target to the very end, past the last token with mass.
    target = jnp.minimum(uniform * mass, jnp.nextafter(mass, 0.0))[:, None]
    block = jnp.argmax(cumulative > target, axis=-1)[:, None]
    inside = jnp.exp(jnp.take_along_axis(logits.reshape(S, -1, BLOCK), block[:, :, None], axis=1)[:, 0] - top)
    within = jnp.cumsum(inside, axis=-1)
    rest = target - (jnp.take_along_axis(cumulative, block, axis=-1) - jnp.take_along_axis(sums, block, axis=-1))
    rest = jnp.minimum(jnp.maximum(rest, 0.0), jnp.nextafter(within[:, -1:], 0.0))
    token = (block[:, 0] * BLOCK + jnp.argmax(within > rest, axis=-1)).astype(jnp.int32)
    return token, top[:, 0] + jnp.log(mass)


def sample_token(logits: jax.Array, uniform: jax.Array, sampling: Sampling) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws a token from logits [S, V] float32 with uniform [S] in [0, 1).

    Returns:
      token [S] int32; its log-probability [S] under the policy softmax(logits / temperature); and under the
      distribution it was drawn from, truncated and renormalised (0 when greedy).
    """
    z = logits / sampling.policy_temperature

    def chosen(token: jax.Array) -> jax.Array:
        return jnp.take_along_axis(z, token[:, None], axis=-1)[:, 0]

    if sampling.temperature == 0:
        token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        policy = chosen(token) - jax.nn.logsumexp(z, axis=-1)
        return token, policy, jnp.zeros_like(policy)
    if not _truncates(sampling):
        token, normaliser = draw(z, uniform)
        policy = chosen(token) - normaliser
        return token, policy, policy
    token, normaliser = draw(truncate(z, sampling), uniform)
    return token, chosen(token) - jax.nn.logsumexp(z, axis=-1), chosen(token) - normaliser


def _truncates(sampling: Sampling) -> bool:
    return sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0
