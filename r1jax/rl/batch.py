"""From samples and rewards to the batch that the update reads."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from r1jax.algorithms.logprobs import token_logprobs
from r1jax.models.config import ModelConfig
from r1jax.models.transformer import hidden_states, prepare, unembedding
from r1jax.sharding import Params, batch_sharding, constrain


@flax.struct.dataclass
class Rollout:
    """Sequences to learn from. Position t of every [B, T] field speaks of the token tokens[:, t + 1]."""

    tokens: jax.Array  # [B, T + 1] int32: prompt, completion, then padding
    mask: jax.Array  # [B, T] bool: the completion's tokens, of the sequences that count
    advantages: jax.Array  # [B] float32
    sampler_logprobs: jax.Array  # [B, T] float32, the sampler's word for the policy's log-probabilities
    sampling_logprobs: jax.Array  # [B, T] float32, of the distribution that was drawn from
    old_logprobs: jax.Array  # [B, T] float32, the trainer's, before the first update; zeros until known
    reference_logprobs: jax.Array  # [B, T] float32; zeros until known
    first: int = flax.struct.field(pytree_node=False, default=0)  # the mask is false before this position in every row


def width_bucket(width: int, longest: int) -> int:
    """Positions that a batch is padded to: quarters of the longest possible, so that few programs are compiled.

    Multiples of 8, which attention kernels want, up to at most 7 more than ``longest``.
    """
    quarter = -(-longest // 4)
    return -(-min(-(-width // quarter) * quarter, longest) // 8) * 8


def build_rollout(
    prompts: Sequence[Sequence[int]],
    tokens: np.ndarray,
    lengths: np.ndarray,
    logprobs: np.ndarray,
    sampling_logprobs: np.ndarray,
    advantages: np.ndarray,
    counts: np.ndarray,
    longest: int,
) -> Rollout:
    """Lays out sequences as prompt and completion side by side, and moves them to the devices split over ``data``.

    Args:
      prompts: B prompts as token ids.
      tokens: [B, M] completions.
      lengths: [B] their tokens.
      logprobs: [B, M] the sampler's, under the policy.
      sampling_logprobs: [B, M] the sampler's, under the distribution drawn from.
      advantages: [B].
      counts: [B] bool; a sequence that does not count gives no loss and enters no mean.
      longest: tokens of the longest possible prompt and completion together.
    """
    B = len(prompts)
    chex.assert_shape([lengths, advantages, counts], (B,))
    starts = np.array([len(p) for p in prompts])
    T = width_bucket(int((starts + lengths).max()) - 1, longest - 1)
    rows = np.zeros((B, T + 1), np.int32)
    mask = np.zeros((B, T), bool)
    policy = np.zeros((B, T), np.float32)
    drawn = np.zeros((B, T), np.float32)
    for i, (prompt, n) in enumerate(zip(prompts, lengths, strict=True)):
        start = len(prompt)
        rows[i, :start] = prompt
        rows[i, start : start + n] = tokens[i, :n]
        span = slice(start - 1, start - 1 + n)
        mask[i, span] = counts[i]
        policy[i, span] = logprobs[i, :n]
        drawn[i, span] = sampling_logprobs[i, :n]
    nothing = np.zeros((B, T), np.float32)
    fields: dict[str, Any] = {
        "tokens": rows,
        "mask": mask,
        "advantages": advantages.astype(np.float32),
        "sampler_logprobs": policy,
        "sampling_logprobs": drawn,
        "old_logprobs": nothing,
        "reference_logprobs": nothing,
    }
    # In steps of 32, since every other value is another program.
    first = (int(starts.min()) - 1) // 32 * 32
    return jax.device_put(Rollout(**fields, first=first), batch_sharding())


def split_microbatches(tree, n: int):
    """Leading axis [B, ...] as [n, B/n, ...], each part spread over the data axis."""

    def split(x: jax.Array) -> jax.Array:
        # Row b goes to part b % n: a part then takes rows from every device and moves none.
        x = jnp.swapaxes(x.reshape(-1, n, *x.shape[1:]), 0, 1)
        return constrain(x, None, "batch", *[None] * (x.ndim - 2))

    return jax.tree.map(split, tree)


@partial(jax.jit, static_argnames="n")
def split_minibatches(key: jax.Array, counts: jax.Array, n: int) -> jax.Array:
    """Rows of a rollout in a random order, dealt to n minibatches: [n, B / n] int32 for counts [B] bool.

    The K rows that count are dealt first, so that a minibatch has K / n of them, rounded down or up, and min(K, n) have
    some. The others fill up the shapes.
    """
    order = jax.random.permutation(key, len(counts))
    order = order[jnp.argsort(~counts[order], stable=True)]
    return constrain(order.reshape(-1, n).T, None, None)  # whole on every host


def completion_logprobs(
    params: Params, tokens: jax.Array, config: ModelConfig, temperature: float, chunk: int, first: int
) -> tuple[jax.Array, jax.Array]:
    """Log-probability of tokens[:, 1:] and entropy [B, T], as token_logprobs; zeros before position ``first``.

    The output head is the dearest product of a small model, and prompts need none of it.
    """
    h, _ = hidden_states(params, tokens[:, :-1], config)
    pair = token_logprobs(h[:, first:], unembedding(params, config), tokens[:, 1 + first :], temperature, chunk)
    logp, entropy = (jnp.pad(x, ((0, 0), (first, 0))) for x in pair)
    return logp, entropy


@partial(jax.jit, static_argnames=("config", "temperature", "microbatches", "chunk", "first"))
def score(
    params: Params,
    tokens: jax.Array,
    config: ModelConfig,
    temperature: float,
    microbatches: int,
    chunk: int,
    first: int = 0,
) -> jax.Array:
    """The trainer's log-probabilities [B, T] of tokens[:, 1:], for the old policy and the reference; no gradient.

    Zero before position ``first``.
    """
    params = prepare(params, config)

    def one(rows: jax.Array) -> jax.Array:
        return completion_logprobs(params, rows, config, temperature, chunk, first)[0]

    parts = jax.lax.map(one, split_microbatches(tokens, microbatches))  # [n, B/n, T]
    return jnp.swapaxes(parts, 0, 1).reshape(tokens.shape[0], -1)
