"""Log-probabilities and entropy of tokens, in chunks: [tokens, vocabulary] is never in memory.

The update, the old and reference log-probabilities and the tests of the sampler use the same function, so the policy
is softmax(logits / temperature) in all of them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from r1jax.kernels.head import Head, applies, fused_gradient, fused_logprobs, gradients_of_kept
from r1jax.kernels.head_mosaic import TILE
from r1jax.models.precision import einsum_f32
from r1jax.sharding import constrain, data_devices
from r1jax.traced import is_array


def token_logprobs(
    hidden: jax.Array,
    unembedding: jax.Array,
    targets: jax.Array,
    temperature: float = 1.0,
    chunk: int = 2048,
    head: Head = "plain",
) -> tuple[jax.Array, jax.Array]:
    """Log-probability of each target and entropy of its distribution, in nats.

    With z = hidden @ unembedding / temperature and q = softmax(z): logp = log q[target], entropy = -sum_v q_v log q_v.
    Each device of the data axis takes ``chunk`` tokens at a time, forward and backward, so the largest array is
    [chunk, V] in float32. With kernels, the only array of this shape is the gradient, in the type of the states; if one
    chunk has all tokens, it is made in the forward pass, unless the entropy has a gradient, too. The number of chunks
    does not grow with the number of devices: the gradient of the unembedding is summed over the devices once a chunk.

    Args:
      hidden: [B, T, D] final states.
      unembedding: [D, V].
      targets: [B, T] int32, the token that follows each state.
      temperature: of the policy, above 0.
      chunk: tokens whose logits are in memory at one time on a device (at least one column of the batch).
      head: the kernels to use where they apply, from head_of.

    Returns:
      logp [B, T] and entropy [B, T], float32.
    """
    logp, entropy = _of_tokens(hidden, unembedding, targets, temperature, chunk, False, head)
    return logp, entropy


def token_predictions(
    hidden: jax.Array, unembedding: jax.Array, targets: jax.Array, temperature: float = 1.0, chunk: int = 2048
) -> tuple[jax.Array, jax.Array]:
    """Log-probability of each target, as token_logprobs, and 1 if no other token is more likely, else 0.

    Both are [B, T] float32. The gradient is that of the log-probability.
    """
    logp, _, best = _of_tokens(hidden, unembedding, targets, temperature, chunk, True, "plain")
    return logp, best


def _of_tokens(
    hidden: jax.Array,
    unembedding: jax.Array,
    targets: jax.Array,
    temperature: float,
    chunk: int,
    ranked: bool,
    head: Head,
) -> tuple[jax.Array, ...]:
    chex.assert_rank([hidden, unembedding, targets], [3, 2, 2])
    chex.assert_equal_shape_prefix([hidden, targets], 2)
    shape = targets.shape
    if not applies(head, hidden, unembedding):
        head = "plain"
    if head != "plain":  # on one device: one row of all tokens
        hidden, targets = hidden.reshape(1, -1, hidden.shape[2]), targets.reshape(1, -1)
    B, T, _ = hidden.shape
    if is_array(temperature):  # the rule of the gradient below takes a Python number
        hidden, temperature = (hidden / temperature).astype(hidden.dtype), 1.0
    n = -(-T // max(1, chunk * data_devices() // B))
    columns = -(-T // n)  # even parts need little padding
    if head != "plain":
        columns = -(-columns // TILE) * TILE
        n = -(-T // columns)

    def split(x: jax.Array) -> jax.Array:  # [B, T, ...] -> [n, B, columns, ...]: the batch keeps its sharding
        x = jnp.pad(x, [(0, 0), (0, n * columns - T)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(B, n, columns, *x.shape[2:]), 1, 0)

    def join(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x, 0, 1).reshape(B, n * columns)[:, :T].reshape(shape)

    found: Any = _chunked(split(hidden), unembedding, split(targets), temperature, ranked, head)
    return tuple(join(x) for x in found)


def _logits(hidden: jax.Array, unembedding: jax.Array, temperature: float) -> jax.Array:
    z = einsum_f32("bcd,dv->bcv", hidden, unembedding) / temperature
    return constrain(z, "batch", None, "vocab")


def _gathered(unembedding: jax.Array) -> jax.Array:
    # Gathered over the data axis once, before the loop over chunks.
    return constrain(unembedding, None, "vocab")


def _is_target(targets: jax.Array, vocab: int) -> jax.Array:
    # A comparison and not a gather, which would communicate if the vocabulary is sharded.
    return targets[..., None] == jnp.arange(vocab)


def _matrix(unembedding: jax.Array, head: Head) -> jax.Array:
    """The matrix as it lies in memory: [V, D] for "columns", else [D, V]."""
    return unembedding.T if head == "columns" else _gathered(unembedding)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _chunked(hidden, unembedding, targets, temperature, ranked, head):  # [n, B, C, D], [D, V], [n, B, C]
    return _values(hidden, unembedding, targets, temperature, ranked, head)[0]


def _values(hidden, unembedding, targets, temperature, ranked, head):
    matrix = _matrix(unembedding, head)

    def one(chunk):
        h, y = chunk
        z = _logits(h, matrix, temperature)
        # Relative to the largest logit, for precision. The logits are read twice: for the maximum and for three sums.
        top = z.max(axis=-1)
        z = z - top[..., None]
        weights = jnp.exp(z)
        total = weights.sum(axis=-1)
        log_total = jnp.log(total)
        own = jnp.sum(jnp.where(_is_target(y, z.shape[-1]), z, 0.0), axis=-1)
        logp = own - log_total
        entropy = log_total - jnp.sum(weights * z, axis=-1) / total
        found = (logp, entropy, (own >= 0).astype(jnp.float32)) if ranked else (logp, entropy)
        return found, top + log_total

    def fused(chunk):
        h, y = (x[0] for x in chunk)
        (logp, entropy, lse), _ = fused_logprobs(h, matrix, y, temperature, head == "columns")
        return (logp[None], entropy[None]), lse[None]

    return jax.lax.map(one if head == "plain" else fused, (hidden, targets))


def _chunked_forward(hidden, unembedding, targets, temperature, ranked, head):
    hidden, unembedding, targets = (x.value for x in (hidden, unembedding, targets))
    if head == "plain" or len(hidden) > 1:
        found, lse = _values(hidden, unembedding, targets, temperature, ranked, head)
        return found, (hidden, unembedding, targets, lse, *found[:2], None)
    # An array for all tokens is in memory in any case: it can as well be computed only once.
    matrix, transposed = _matrix(unembedding, head), head == "columns"
    values, kept = fused_logprobs(hidden[0, 0], matrix, targets[0, 0], temperature, transposed, keep=True)
    logp, entropy, lse = (x[None, None] for x in values)
    return (logp, entropy), (hidden, unembedding, targets, lse, logp, entropy, kept)


def _chunked_backward(temperature, ranked, head, saved, gradients):
    hidden, unembedding, targets, lse, logp, entropy, kept = saved
    matrix = _matrix(unembedding, head)
    if kept is not None and isinstance(gradients[1], SymbolicZero):
        d_logp = _instantiated(gradients[0])
        one_row = hidden[0, 0], matrix, targets[0, 0], temperature, head == "columns", kept, logp[0, 0], d_logp[0, 0]
        d_hidden, d_unembedding = gradients_of_kept(*one_row)
        return d_hidden[None, None], d_unembedding.astype(unembedding.dtype), None

    def plain(chunk):
        h, y, lse, _, H, d_logp, d_entropy = chunk
        logq = _logits(h, matrix, temperature) - lse[..., None]
        q = jnp.exp(logq)
        # d logp / dz = 1[target] - q;  d entropy / dz = -q (log q + H)
        dz = d_logp[..., None] * (_is_target(y, q.shape[-1]) - q)
        dz -= d_entropy[..., None] * q * (logq + H[..., None])
        return (dz / temperature).astype(h.dtype)

    def fused(chunk):
        h, y, lse, logp, H, d_logp, d_entropy = (x[0] for x in chunk)
        found, gradients = (logp, H, lse), (d_logp, d_entropy)
        return fused_gradient(h, matrix, y, temperature, head == "columns", found, gradients)[None]

    def one(d_unembedding, chunk):
        h, dz = chunk[0], (plain if head == "plain" else fused)(chunk)
        d_h = einsum_f32("bcv,vd->bcd" if head == "columns" else "bcv,dv->bcd", dz, matrix).astype(h.dtype)
        return d_unembedding + einsum_f32("bcd,bcv->dv", h, dz), d_h

    start = jnp.zeros(unembedding.shape, jnp.float32)
    parts = hidden, targets, lse, logp, entropy, *map(_instantiated, gradients[:2])
    d_unembedding, d_hidden = jax.lax.scan(one, start, parts)
    return d_hidden, d_unembedding.astype(unembedding.dtype), None


_chunked.defvjp(_chunked_forward, _chunked_backward, symbolic_zeros=True)


def _instantiated(gradient):
    zero: Any = gradient
    return jnp.zeros(zero.shape, zero.dtype) if isinstance(gradient, SymbolicZero) else gradient
