"""Processing of logits: temperature, truncation, and the random draw of a token."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from r1jax.errors import UserError
from r1jax.kernels.block_sums import BLOCK, block_sums
from r1jax.kernels.platform import Kernels, on_one_device
from r1jax.settings import may_change
from r1jax.traced import enabled

Draft = Literal["none", "mtp", "ngram"]


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the sampler draws tokens."""

    temperature: float = 1.0
    """Divide logits by this temperature; 0 decodes greedily."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all tokens."""
    top_p: float = 1.0
    """Keep the smallest set of most likely tokens whose total probability reaches this value (arXiv 1904.09751)."""
    min_p: float = 0.0
    """Drop tokens whose probability is below this fraction of the highest one (arXiv 2407.01082)."""
    max_tokens: int = 128
    """Sample at most this many tokens per completion, including the end token."""
    slots: int = may_change(0)
    """Decode this many sequences in parallel, over all devices; 0 decodes all, or as many as fit into memory."""
    draft: Draft = may_change("none")
    """Propose next tokens and verify them in the step that decodes the one before: the samples are the same in fewer
    steps. mtp proposes one token with the model's layer of multi-token prediction. ngram needs no layer: it proposes
    what followed the newest tokens in the prompt, in the completion, or in other completions of the prompt. none
    decodes one token per step."""
    draft_tokens: int = may_change(3)
    """Propose up to this many tokens per step with draft=ngram."""
    draft_slots: int = may_change(32)
    """Use draft=ngram once at most this many sequences per device are left: with more of them, a step is limited by
    computation and proposals do not save time."""

    def __post_init__(self) -> None:
        def check(ok: bool, message: str) -> None:
            if not ok:
                raise UserError(message)

        check(self.temperature >= 0, f"temperature {self.temperature} must be at least 0 (0 is greedy)")
        check(self.top_k >= 0, f"top-k {self.top_k} must be at least 0 (0 keeps all tokens)")
        check(0 < self.top_p <= 1, f"top-p {self.top_p} must be above 0 and at most 1")
        check(0 <= self.min_p < 1, f"min-p {self.min_p} must be at least 0 and below 1")
        check(self.max_tokens >= 1, f"max-tokens {self.max_tokens} must be at least 1")
        check(self.draft in get_args(Draft), f"draft {self.draft} is not one of {', '.join(get_args(Draft))}")
        for name, value in (("draft-tokens", self.draft_tokens), ("draft-slots", self.draft_slots)):
            check(value >= 1, f"{name} {value} must be at least 1")
        few = self.draft != "ngram" or self.draft_tokens <= self.max_tokens
        check(few, f"draft-tokens {self.draft_tokens} must be at most max-tokens {self.max_tokens}")
        check(self.slots >= 0, f"slots {self.slots} must be at least 0 (0 selects the number)")

    @property
    def proposals(self) -> int:
        """Tokens that a step with a draft verifies; 0 without one."""
        return {"none": 0, "mtp": 1, "ngram": self.draft_tokens}[self.draft]

    @property
    def policy_temperature(self) -> float:
        """Temperature of the policy in training; 1 for greedy decoding."""
        return self.temperature if enabled(self.temperature) else 1.0

    @property
    def truncates(self) -> bool:
        """True if top-k, top-p or min-p drop tokens."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


def draws_in_shares(sampling: Sampling, vocab_size: int, devices: int) -> bool:
    """True if devices that divide the vocabulary draw a token without the logits of each other.

    Each has whole blocks of ``draw``, and neither truncation nor the highest logit is asked for.
    """
    return not vocab_size % (devices * BLOCK) and enabled(sampling.temperature) and not sampling.truncates


def truncate(logits: jax.Array, sampling: Sampling) -> jax.Array:
    """Logits [S, V], already divided by the temperature, with -inf where top-k, top-p or min-p drop the token.

    Each of the three applies to the whole distribution, and a token is kept if all three keep it. The most likely token
    is always kept.
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
            before = jnp.cumsum(p, axis=-1) - p  # total probability of the tokens that are more likely
            kept = jnp.sum(before < sampling.top_p, axis=-1, keepdims=True)
            keep &= logits >= jnp.take_along_axis(descending, jnp.maximum(kept - 1, 0), axis=-1)
    return jnp.where(keep, logits, -jnp.inf)


def draw(
    logits: jax.Array, bits: jax.Array, kernels: Kernels = "plain", blocks: tuple[jax.Array, jax.Array] | None = None
) -> tuple[jax.Array, jax.Array]:
    """Draws a token [S] from softmax(logits [S, V]) with random words bits [S, 2] uint32; also returns log sum exp [S].

    The first word selects a block of tokens and the second a token of the block, both with _quantile. This needs two
    random numbers per token instead of V, no prefix sum over the vocabulary, and no array of its size except the
    logits. The probability of each token is exact to within 2^-30 and its rounding in float32; 0 stays 0.

    blocks: the block_sums of the logits, if they are known.
    """
    S, V = logits.shape
    logits = jnp.pad(logits, ((0, 0), (0, -V % BLOCK)), constant_values=-jnp.inf)
    blocks = block_sums(logits, kernels if on_one_device() else "plain") if blocks is None else blocks

    def read(block: jax.Array) -> jax.Array:
        return jnp.take_along_axis(logits.reshape(S, -1, BLOCK), block[:, :, None], axis=1)[:, 0]

    return draw_from_blocks(*blocks, bits, read)[:2]


def draw_from_blocks(
    tops: jax.Array, sums: jax.Array, bits: jax.Array, read: Callable[[jax.Array], jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``draw`` with the block_sums of the logits, and the logit [S] of the token.

    read: gives the logits [S, BLOCK] of a block of each row, whose numbers are [S, 1].
    """
    top = tops.max(axis=-1)
    sums = sums * jnp.exp(tops - top[:, None])
    block = _quantile(sums, bits[:, 0])[:, None]
    logits = read(block)
    # Relative to the maximum of the block: relative to that of the row, a whole block could round to 0.
    place = _quantile(jnp.exp(logits - jnp.take_along_axis(tops, block, axis=-1)), bits[:, 1])
    logit = jnp.take_along_axis(logits, place[:, None], axis=-1)[:, 0]
    return block[:, 0] * BLOCK + place, top + jnp.log(sums.sum(axis=-1)), logit


def _quantile(weights: jax.Array, bits: jax.Array) -> jax.Array:
    """Index [S] of weights [S, n] float32 at quantile (bits + 1/2) / 2^32 of their prefix sums; bits [S] uint32.

    The prefix sums are integers in units of about 2^-32 of the sum and therefore exact. In float32, the rounding of
    large weights, up to 2^-24, would shift the small weights that follow. An entry gets the units whose midpoints lie
    within its interval, and each unit is selected by one or two values of bits.
    """
    # Slightly less than 2^32 in total, so that rounding of the sum and of the products cannot overflow.
    units = weights * ((2.0**32 - 2.0**22) / weights.sum(axis=-1, keepdims=True))
    whole = units.astype(jnp.uint32)
    parts = ((units - whole.astype(jnp.float32)) * 2**16).astype(jnp.uint32)  # in 2^-16 units; no overflow
    whole, parts = jnp.cumsum(jnp.stack([whole, parts]), axis=-1, dtype=jnp.uint32)
    ends = whole + ((parts + 2**15) >> 16)
    return jnp.argmax(ends > _multiply_high(bits, ends[:, -1])[:, None], axis=-1).astype(jnp.int32)


def _multiply_high(a: jax.Array, b: jax.Array) -> jax.Array:
    """floor(a b / 2^32) of uint32, without 64-bit types."""
    low = (a & 0xFFFF) * (b & 0xFFFF)
    middle = (a & 0xFFFF) * (b >> 16) + (low >> 16)
    other = (a >> 16) * (b & 0xFFFF) + (middle & 0xFFFF)
    return (a >> 16) * (b >> 16) + (middle >> 16) + (other >> 16)


def sample_token(
    logits: jax.Array, bits: jax.Array, sampling: Sampling, kernels: Kernels = "plain"
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws a token from logits [S, V] float32 with random words bits [S, 2] uint32.

    Returns:
      The token [S] int32; its log-probability [S] under the policy softmax(logits / temperature); and its
      log-probability [S] under the truncated and renormalised distribution it was drawn from (0 if greedy).
    """
    z = logits / sampling.policy_temperature

    def chosen(token: jax.Array) -> jax.Array:
        return jnp.take_along_axis(z, token[:, None], axis=-1)[:, 0]

    if not enabled(sampling.temperature):
        token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        policy = chosen(token) - jax.nn.logsumexp(z, axis=-1)
        return token, policy, jnp.zeros_like(policy)
    if not sampling.truncates:
        token, normaliser = draw(z, bits, kernels)
        policy = chosen(token) - normaliser
        return token, policy, policy
    token, normaliser = draw(truncate(z, sampling), bits, kernels)
    return token, chosen(token) - jax.nn.logsumexp(z, axis=-1), chosen(token) - normaliser
