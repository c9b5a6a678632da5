"""Log-probabilities of tokens and the gradient of their logits, with kernels that keep logits in registers."""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp

from r1jax.kernels.head_mosaic import LARGEST, block_moments_kernel, logits_gradient_kernel, supports
from r1jax.kernels.platform import has_extra, on_one_device
from r1jax.models.config import ModelConfig
from r1jax.models.precision import einsum_f32

# "plain" is no kernel. The others say how the unembedding [D, V] lies in memory: by "columns" if it is the transpose of
# an embedding [V, D], and by "rows" if not. The wrong one costs a copy of the matrix.
Head = Literal["plain", "rows", "columns"]

LOG2E = math.log2(math.e)
LEAST_LOGP = -LARGEST / LOG2E  # below it, a kept weight relative to the target's would exceed float32


def head_of(config: ModelConfig) -> Head:
    """The kernels of log-probabilities and of the head of decoding for this model on this platform."""
    if not has_extra(config.kernels, "head"):
        return "plain"
    return "columns" if config.tie_embeddings else "rows"


def applies(head: Head, hidden: jax.Array, unembedding: jax.Array) -> bool:
    """True if there are kernels for these arrays; the compiler cannot partition them over devices."""
    return head != "plain" and on_one_device() and supports(hidden, unembedding)


def fused_logprobs(
    hidden: jax.Array, matrix: jax.Array, targets: jax.Array, temperature: float, transposed: bool, keep: bool = False
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], jax.Array | None]:
    """token_logprobs of states [N, D] and targets [N], and the logarithm of the sum of exponentials: [N] float32 each.

    Also, to ``keep``, the probabilities relative to those of the targets, or to exp(LEAST_LOGP) if that is higher:
    [N, V] in the type of the states.

    matrix: [D, V], or [V, D] if ``transposed``. N must be a multiple of TILE.
    """
    scale = LOG2E / temperature
    rows = matrix[targets] if transposed else matrix[:, targets].T
    own = scale * jnp.sum(hidden.astype(jnp.float32) * rows.astype(jnp.float32), axis=-1)
    found = block_moments_kernel(_copied(hidden), matrix, transposed, scale, own[None] if keep else None)
    tops, sums, moments = found[0]  # [V / BLOCK, N]
    top = tops.max(axis=0)
    lower = tops - top
    shares = jnp.exp2(lower)
    total = (sums * shares).sum(axis=0)
    moment = ((moments + sums * lower) * shares).sum(axis=0) / total
    log_total = jnp.log(total)
    # The sum has another order than that of the kernel, which must not give a probability above 1.
    logp = jnp.minimum(own - top, 0.0) / LOG2E - log_total
    values = logp, log_total - moment / LOG2E, top / LOG2E + log_total
    return values, _relative(found[1], lower, own - top, log_total * LOG2E, logp) if keep else None


def _relative(kept: jax.Array, lower: jax.Array, own: jax.Array, log_total: jax.Array, logp: jax.Array) -> jax.Array:
    """The kept weights [N, V], relative to exp(LEAST_LOGP) in rows whose target has a lower log-probability.

    The kernel limits the exponent of each block of such a row by itself, so its blocks have different factors.

    lower: largest logit of each block, [V / BLOCK, N]; with ``own`` and ``log_total`` [N] relative to that of the
    row, to the base 2.
    """
    low = logp < LEAST_LOGP
    exponent = lower - log_total + LARGEST - jnp.minimum(lower - own, LARGEST)
    factors = jnp.where(low, jnp.exp2(exponent), 1.0).T  # at most 1

    def scaled(_: jax.Array, kept: jax.Array) -> jax.Array:
        blocks = kept.reshape(*factors.shape, -1).astype(jnp.float32)
        return (blocks * factors[..., None]).astype(kept.dtype).reshape(kept.shape)

    # Rarely needed, and it reads the largest array. XLA changes the array of a loop in place, and that of cond not.
    return jax.lax.fori_loop(0, low.any().astype(jnp.int32), scaled, kept)


def fused_gradient(
    hidden: jax.Array,
    matrix: jax.Array,
    targets: jax.Array,
    temperature: float,
    transposed: bool,
    found: tuple[jax.Array, jax.Array, jax.Array],
    gradients: tuple[jax.Array, jax.Array],
) -> jax.Array:
    """Gradient [N, V] of the products hidden @ unembedding, in the type of the states.

    found: what fused_logprobs returns. gradients: of the log-probabilities and of the entropies, [N] each.

    d logp / dz = 1[target] - q and d entropy / dz = -q (log q + H), both over the temperature.
    """
    logp, entropy, lse = found
    d_logp, d_entropy = (x / temperature for x in gradients)
    offset, slope = -(d_logp + d_entropy * entropy), -d_entropy
    rows = jnp.stack([offset, slope / LOG2E, lse * LOG2E])
    dz = logits_gradient_kernel(_copied(hidden), matrix, rows, transposed, LOG2E / temperature)
    own = d_logp + jnp.exp(logp) * (offset + slope * logp)
    place = jnp.arange(len(targets)), targets
    return dz.at[place].set(own.astype(dz.dtype), unique_indices=True)


def gradients_of_kept(
    hidden: jax.Array,
    matrix: jax.Array,
    targets: jax.Array,
    temperature: float,
    transposed: bool,
    kept: jax.Array,
    logp: jax.Array,
    d_logp: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Gradients of states [N, D] and unembedding [D, V] float32 for those of the log-probabilities, [N], alone.

    The gradient of the logits is that of the log-probability times 1[target] - q. With q = q[target] kept, this is an
    array of weights times a number per token, which is applied to the states and to their gradient instead.
    """
    q = jnp.exp(jnp.maximum(logp, LEAST_LOGP))
    place = jnp.arange(len(targets)), targets
    kept = kept.at[place].set((-(1 - q) / q).astype(kept.dtype), unique_indices=True)
    scale = (-d_logp * q / temperature)[:, None]
    d_hidden = einsum_f32("nv,vd->nd" if transposed else "nv,dv->nd", kept, matrix) * scale
    d_unembedding = einsum_f32("nd,nv->dv", (hidden * scale).astype(hidden.dtype), kept)
    return d_hidden.astype(hidden.dtype), d_unembedding


def _copied(hidden: jax.Array) -> jax.Array:
    # Otherwise XLA joins a kernel with the slice of its chunk from the array of all chunks, and computes the address of
    # the slice on the host.
    return jax.lax.optimization_barrier(hidden)
