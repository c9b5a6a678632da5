"""From logits to one token: temperature, truncation, and the draw itself."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from r1jax.errors import UserError
from r1jax.kernels.block_sums import BLOCK, block_sums
from r1jax.kernels.platform import has_kernels, on_one_device
from r1jax.settings import may_change


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
    slots: int = may_change(0)
    """Sequences decoded side by side on all devices; 0 is all of them, or as many as memory holds."""

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

    @property
    def truncates(self) -> bool:
        """Whether some tokens are left out of the distribution."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


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


def draw(logits: jax.Array, bits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A token [S] of softmax(logits [S, V]) for each pair of random words bits [S, 2] uint32, and log sum exp [S].

    The first word chooses a block of tokens, the second a token of the block, each as in _quantile: two random numbers
    a token instead of V, no prefix sum over the vocabulary, and nothing of its size but the logits themselves. A token
    is drawn as often as its probability p says, to within 2^-30 and the rounding of p in float32; never at p = 0.
    """
    S, V = logits.shape
    logits = jnp.pad(logits, ((0, 0), (0, -V % BLOCK)), constant_values=-jnp.inf)
    tops, sums = block_sums(logits, kernel=has_kernels() and on_one_device())
    top = tops.max(axis=-1)
    sums = sums * jnp.exp(tops - top[:, None])
    block = _quantile(sums, bits[:, 0])[:, None]
    inside = jnp.take_along_axis(logits.reshape(S, -1, BLOCK), block[:, :, None], axis=1)[:, 0]
    # Relative to the block's own maximum: far below that of the row, all of a block would round to 0.
    inside = jnp.exp(inside - jnp.take_along_axis(tops, block, axis=-1))
    token = block[:, 0] * BLOCK + _quantile(inside, bits[:, 1])
    return token, top + jnp.log(sums.sum(axis=-1))


def _quantile(weights: jax.Array, bits: jax.Array) -> jax.Array:
    """The entry [S] of weights [S, n] float32 at quantile (bits + 1/2) / 2^32 of their prefix sums; bits [S] uint32.

    The prefix sums are of whole numbers, in units of about 2^-32 of the sum, and so exact: in float32 they would carry
    the rounding of large weights, up to 2^-24, into the small ones that follow. An entry has the units whose midpoints
    lie within its part, and each unit is hit by one or two values of bits.
    """
    # A little less than 2^32 in all, so that rounding of the sum and of the products does not carry beyond it.
    units = weights * ((2.0**32 - 2.0**22) / weights.sum(axis=-1, keepdims=True))
    whole = units.astype(jnp.uint32)
    parts = ((units - whole.astype(jnp.float32)) * 2**16).astype(jnp.uint32)  # of a unit; few enough of them to add up
    whole, parts = jnp.cumsum(jnp.stack([whole, parts]), axis=-1, dtype=jnp.uint32)
    ends = whole + ((parts + 2**15) >> 16)
    return jnp.argmax(ends > _multiply_high(bits, ends[:, -1])[:, None], axis=-1).astype(jnp.int32)


def _multiply_high(a: jax.Array, b: jax.Array) -> jax.Array:
    """floor(a b / 2^32) of uint32, without 64-bit types."""
    low = (a & 0xFFFF) * (b & 0xFFFF)
    middle = (a & 0xFFFF) * (b >> 16) + (low >> 16)
    other = (a >> 16) * (b & 0xFFFF) + (middle & 0xFFFF)
    return (a >> 16) * (b >> 16) + (middle >> 16) + (other >> 16)


def sample_token(logits: jax.Array, bits: jax.Array, sampling: Sampling) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws a token from logits [S, V] float32 with random words bits [S, 2] uint32.

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
    if not sampling.truncates:
        token, normaliser = draw(z, bits)
        policy = chosen(token) - normaliser
        return token, policy, policy
    token, normaliser = draw(truncate(z, sampling), bits)
    return token, chosen(token) - jax.nn.logsumexp(z, axis=-1), chosen(token) - normaliser
