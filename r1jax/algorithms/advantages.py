"""From rewards to advantages: in float64 for arrays of NumPy, in float32 for those of JAX."""

from __future__ import annotations

from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np

from r1jax.traced import enabled, is_array, where_enabled

Array = np.ndarray | jax.Array
Baseline = Literal["group", "leave_one_out", "batch"]

_ROUNDING = 1e-6  # relative: float32 sums of the same rewards in another order differ by less


def group_advantages(
    rewards: Array,
    baseline: Baseline = "group",
    normalise_std: bool = True,
    eps: float = 1e-6,
    resolution: np.ndarray | float = 0.0,
    counts: Array | None = None,
) -> Any:
    """Advantage of each sample against the others of its prompt: [P, G] float32 for rewards [P, G].

    - group: (r_i - mean_j r_j) / std_j r_j, GRPO (arXiv 2402.03300); without std: Dr. GRPO (arXiv 2503.20783).
    - leave_one_out: r_i - mean_{j != i} r_j, RLOO (arXiv 2402.14740), without a division by a deviation, which would
      make it GRPO times G / (G - 1).
    - batch: (r_i - mean_j r_j) / std over the whole batch of the centred rewards, REINFORCE++ with a group baseline
      (arXiv 2501.03262).

    Args:
      rewards: [P, G].
      baseline: see above.
      normalise_std: divide by the population's standard deviation; it may be an array, 0 or 1, in a program of JAX.
      eps: added to it.
      resolution: smallest difference of rewards that is not noise, [P] or one for all. Deviations below it are replaced
        by it, since noise would become advantages of +-1.
      counts: [P] bool, the groups over which "batch" takes its deviation; None: all.

    Returns:
      [P, G]; zeros for groups without spread (groups_with_spread).

    Raises:
      ValueError: for a group of one, or rewards of NumPy that are not finite.
    """
    chex.assert_rank(rewards, 2)
    xp, r = _wide(rewards)
    group = r.shape[1]
    if group < 2:
        raise ValueError("a group of 1 has no spread: its advantage is always 0")
    if xp is np and not np.isfinite(r).all():
        raise ValueError("rewards must be finite")
    centred = xp.where(groups_with_spread(r, resolution)[:, None], r - r.mean(axis=1, keepdims=True), 0.0)
    if baseline == "leave_one_out":
        centred = centred * (group / (group - 1))
    if baseline == "leave_one_out" or not enabled(normalise_std):
        return centred.astype(np.float32)
    if baseline == "batch":
        deviation = xp.full((len(r), 1), _deviation(centred, counts))
    else:
        deviation = r.std(axis=1, keepdims=True)
    floor = xp.broadcast_to(resolution, len(r))[:, None]
    divisor = xp.maximum(deviation, floor) + eps
    return (centred / where_enabled(normalise_std, divisor, 1.0)).astype(np.float32)


def _wide(x: Array) -> tuple[Any, Any]:
    """The namespace of an array, and the array in the type of the computation."""
    return (jnp, jnp.asarray(x, jnp.float32)) if is_array(x) else (np, np.asarray(x, np.float64))


def _deviation(centred: Array, counts: Array | None) -> Array | float:
    """The standard deviation of the groups that count; 0 if none does."""
    if counts is None:
        return centred.std()
    if not is_array(centred):
        return centred[counts].std() if counts.any() else 0.0
    weights = jnp.broadcast_to(counts[:, None], centred.shape)  # of a number of groups that is not known
    n = jnp.maximum(weights.sum(), 1)
    mean = jnp.where(weights, centred, 0.0).sum() / n
    return jnp.sqrt(jnp.where(weights, jnp.square(centred - mean), 0.0).sum() / n)


def groups_with_spread(rewards: Array, resolution: np.ndarray | float = 0.0) -> Any:
    """True for groups whose rewards differ by more than their resolution: [P] bool for rewards [P, G].

    resolution: [P] or one for all; it is at least the rounding of float32 sums, 1e-6 max(largest reward, 1).
    """
    xp, r = _wide(rewards)
    rounding = _ROUNDING * xp.maximum(xp.abs(r).max(axis=1), 1.0)
    return r.max(axis=1) - r.min(axis=1) > xp.maximum(rounding, resolution)


def overlong_penalty(lengths: Array, limit: int, buffer: int) -> Any:
    """DAPO's soft overlong punishment (arXiv 2503.14476, eq. 13), lengths, limit and buffer in tokens: float32.

    0 up to limit - buffer, then falling linearly to -1 at the limit.

    Raises:
      ValueError: unless 0 < buffer <= limit; a buffer that is an array of JAX is not checked.
    """
    if not is_array(buffer) and not 0 < buffer <= limit:
        raise ValueError(f"overlong buffer {buffer} must be between 1 and the limit of {limit} tokens")
    xp, lengths = _wide(lengths)
    return -xp.clip((lengths - (limit - buffer)) / buffer, 0.0, 1.0).astype(np.float32)
