"""From rewards to advantages."""

from __future__ import annotations

from typing import Literal

import chex
import numpy as np

Baseline = Literal["group", "leave_one_out", "batch"]

_ROUNDING = 1e-6  # relative: float32 sums of the same rewards in another order differ by less


def group_advantages(
    rewards: np.ndarray,
    baseline: Baseline = "group",
    normalise_std: bool = True,
    eps: float = 1e-6,
    resolution: np.ndarray | float = 0.0,
    counts: np.ndarray | None = None,
) -> np.ndarray:
    """Advantage of each sample against the others of its prompt: [P, G] float32 for rewards [P, G].

    - group: (r_i - mean_j r_j) / std_j r_j, GRPO (arXiv 2402.03300); without std: Dr. GRPO (arXiv 2503.20783).
    - leave_one_out: r_i - mean_{j != i} r_j, RLOO (arXiv 2402.14740), without a division by a deviation, which would
      make it GRPO times G / (G - 1).
    - batch: (r_i - mean_j r_j) / std over the whole batch of the centred rewards, REINFORCE++ with a group baseline
      (arXiv 2501.03262).

    Args:
      rewards: [P, G].
      baseline: see above.
      normalise_std: divide by the population's standard deviation.
      eps: added to it.
      resolution: smallest difference of rewards that is not noise, [P] or one for all. Deviations below it are replaced
        by it, since noise would become advantages of +-1.
      counts: [P] bool, the groups over which "batch" takes its deviation; None: all.

    Returns:
      [P, G]; zeros for groups without spread (groups_with_spread).

    Raises:
      ValueError: for a group of one, or rewards that are not finite.
    """
    chex.assert_rank(rewards, 2)
    r = np.asarray(rewards, np.float64)
    group = r.shape[1]
    if group < 2:
        raise ValueError("a group of 1 has no spread: its advantage is always 0")
    if not np.isfinite(r).all():
        raise ValueError("rewards must be finite")
    centred = np.where(groups_with_spread(r, resolution)[:, None], r - r.mean(axis=1, keepdims=True), 0.0)
    if baseline == "leave_one_out":
        centred = centred * (group / (group - 1))
    if baseline == "leave_one_out" or not normalise_std:
        return centred.astype(np.float32)
    if baseline == "batch":
        counted = centred if counts is None else centred[counts]
        deviation = np.full((len(r), 1), counted.std() if counted.size else 0.0)
    else:
        deviation = r.std(axis=1, keepdims=True)
    floor = np.broadcast_to(resolution, len(r))[:, None]
    return (centred / (np.maximum(deviation, floor) + eps)).astype(np.float32)


def groups_with_spread(rewards: np.ndarray, resolution: np.ndarray | float = 0.0) -> np.ndarray:
    """True for groups whose rewards differ by more than their resolution: [P] bool for rewards [P, G].

    resolution: [P] or one for all; it is at least the rounding of float32 sums, 1e-6 max(largest reward, 1).
    """
    r = np.asarray(rewards, np.float64)
    rounding = _ROUNDING * np.maximum(np.abs(r).max(axis=1), 1.0)
    return r.max(axis=1) - r.min(axis=1) > np.maximum(rounding, resolution)


def overlong_penalty(lengths: np.ndarray, limit: int, buffer: int) -> np.ndarray:
    """DAPO's soft overlong punishment (arXiv 2503.14476, eq. 13), lengths, limit and buffer in tokens: float32.

    0 up to limit - buffer, then falling linearly to -1 at the limit.

    Raises:
      ValueError: unless 0 < buffer <= limit.
    """
    if not 0 < buffer <= limit:
        raise ValueError(f"overlong buffer {buffer} must be between 1 and the limit of {limit} tokens")
    return -np.clip((np.asarray(lengths) - (limit - buffer)) / buffer, 0.0, 1.0).astype(np.float32)
