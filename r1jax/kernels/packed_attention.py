"""Attention of rows that hold several texts, by cuDNN on Hopper GPUs: a pair of positions of two texts costs nothing.

cuDNN's packed layout takes the begin and length of each text. XLA gives each row of it the same number of texts, each
with room for the statistics and sums of a whole row, so that texts of very different lengths in one call would need a
multiple of the memory. Here a call has the texts whose length is between half its width and its width, of which at most
two begin in as many positions. The shortest texts, which would be many, have a mask of neighbouring positions instead.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from r1jax.models.segment_attention import spans
from r1jax.sharding import constrain

# No public function has offsets: if jax moves or changes this one, there is no packed attention.
fused: Any
try:
    from jax._src.cudnn import fused_attention_stablehlo as fused
except ImportError:
    fused = None

LEAST_WIDTH = 128  # texts of up to this many tokens, at least, and less than twice as many, have a mask


def runs_here() -> bool:
    """True on Hopper GPUs with jax 0.11.2; older ones give wrong results if heads share keys."""
    known = fused is not None and jax.__version_info__ >= (0, 11, 2)
    return known and getattr(jax.devices()[0], "compute_capability", None) == "9.0"


def packed_attention(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array, scale: float) -> jax.Array:
    """softmax(scale q k^T) v over positions up to that of the query in its segment: [B, T, H, K].

    The backward pass computes the attention again: the results of all calls would take more memory than q, k and v.

    Args:
      q: [B, T, H, K], bfloat16 or float16.
      k, v: [B, T, G, K].
      segments: [B, T] int32; equal numbers must be next to each other.
      scale: of the scores.
    """
    T, halvings = q.shape[1], max(0, (q.shape[1] // LEAST_WIDTH).bit_length() - 1)
    parts = (jnp.pad(x, [(0, 0), (0, -T % (8 << halvings))] + [(0, 0)] * (x.ndim - 2)) for x in (q, k, v, segments))
    return jax.checkpoint(_attend, static_argnums=(4, 5))(*parts, scale, halvings)[:, :T]


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array, scale: float, halvings: int) -> jax.Array:
    begin, length = spans(segments)
    width = q.shape[1] >> halvings
    y = _neighbours(q, k, v, segments, length <= width, scale, width)
    for _ in range(halvings):
        width *= 2
        here = (length > width // 2) & (length <= width)
        y = jnp.where(here[..., None, None], _of_width(q, k, v, begin, length, here, scale, width), y)
    return y


def slots(begin: jax.Array, length: jax.Array, here: jax.Array, width: int) -> tuple[jax.Array, jax.Array]:
    """Lengths [R, 2] and offsets [R, 3] int32 of the segments that begin in each of R parts of ``width`` positions.

    Only segments of more than width / 2 positions may be ``here`` [B, T]. An offset is relative to its part. Without a
    segment, and at the end of the offsets, -1.
    """
    begins, at = ((begin == jnp.arange(begin.shape[1])) & here).reshape(-1, width), jnp.arange(width)
    first, last = jnp.where(begins, at, width).min(axis=1), jnp.where(begins, at, -1).max(axis=1)
    offsets = jnp.stack([jnp.where(last < 0, -1, first), jnp.where(last > first, last, -1)], axis=1)
    own = jnp.take_along_axis(length.reshape(-1, width), jnp.maximum(offsets, 0), axis=1)
    lengths = jnp.where(offsets < 0, -1, own)
    return lengths, jnp.pad(offsets, ((0, 0), (0, 1)), constant_values=-1)


def _of_width(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    begin: jax.Array,
    length: jax.Array,
    here: jax.Array,
    scale: float,
    width: int,
) -> jax.Array:
    """Attention of the segments that are ``here``; not written elsewhere."""
    # On each device of a mesh, jax gives cuDNN the parts of all arrays that are there.
    lengths, offsets = (constrain(x, "batch", None) for x in slots(begin, length, here, width))
    parts = (_written(x, here).reshape(-1, width, *x.shape[2:]) for x in (q, k, v))
    ragged = {"q_seqlen": lengths, "kv_seqlen": lengths, "q_offsets": offsets, "kv_offsets": offsets}
    y = fused.dot_product_attention(*parts, **ragged, scale=scale, mask_type=fused.MaskType.PADDING_CAUSAL)
    return y.reshape(q.shape)


def _neighbours(
    q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array, here: jax.Array, scale: float, width: int
) -> jax.Array:
    """Attention of the segments that are ``here``, none longer than ``width``: of each part to it and the one before.

    Other positions attend to themselves.
    """

    def with_before(x: jax.Array, value: int) -> jax.Array:  # [B, T, ...] -> [B T / width, 2 width, ...]
        before = jnp.pad(x[:, :-width], [(0, 0), (width, 0)] + [(0, 0)] * (x.ndim - 2), constant_values=value)
        return jnp.concatenate([a.reshape(-1, width, *a.shape[2:]) for a in (before, x)], axis=1)

    ids, at = segments.reshape(-1, width, 1), jnp.arange(2 * width)
    own = at[width:, None]
    seen = (ids == with_before(segments, -2)[:, None]) & (own >= at) & here.reshape(-1, width, 1) | (own == at)
    parts = q.reshape(-1, width, *q.shape[2:]), with_before(k, 0), with_before(v, 0)
    mask = constrain(seen[:, None], "batch", None, None, None)
    y = jax.nn.dot_product_attention(*parts, mask=mask, scale=scale, implementation="cudnn")
    return y.reshape(q.shape)


@jax.custom_vjp
def _written(x: jax.Array, here: jax.Array) -> jax.Array:
    """x; its gradient counts only where it is written."""
    return x


def _written_forward(x: jax.Array, here: jax.Array) -> tuple[jax.Array, jax.Array]:
    return x, here


def _written_backward(here: jax.Array, gradient: jax.Array) -> tuple[jax.Array, None]:
    return jnp.where(here[..., None, None], gradient, 0), None


_written.defvjp(_written_forward, _written_backward)
