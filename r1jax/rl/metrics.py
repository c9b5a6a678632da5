"""What is logged of a step: figures of its rollout and updates for metrics.jsonl, and completions to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from r1jax.rl.rollouts import Group, Rollout
from r1jax.training.metrics import Metrics, merge, reduce_metrics

Maxima = dict[str, jax.Array]  # name -> [] float32, whose maximum over the updates is logged


def describe(rollout: Rollout, advantages: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Figures of one rollout with its advantages [P, G]; names: of the rewards."""
    groups, counts = rollout.groups, rollout.counts
    rewards = np.concatenate([g.rewards for g in groups])
    lengths = np.concatenate([g.samples.lengths for g in groups])
    judged = [not np.isnan(column).all() for column in rewards.T]
    by_kind = {}
    if "accuracy" in names:
        kinds = np.repeat([g.problem.kind for g in groups], advantages.shape[1])
        accuracy = rewards[:, list(names).index("accuracy")]
        by_kind = {str(kind): float(accuracy[kinds == kind].mean()) for kind in np.unique(kinds)}
    return {
        "reward": float(rollout.totals.mean()),
        **{f"reward_{name}": float(np.nanmean(rewards[:, i])) for i, name in enumerate(names) if judged[i]},
        **({f"accuracy_{kind}": value for kind, value in by_kind.items()} if len(by_kind) > 1 else {}),
        "reward_spread": float(rollout.totals.std(axis=1).mean()),
        "advantage_spread": float(advantages[counts].std()) if counts.any() else 0.0,
        "equal_groups": rollout.equal / rollout.sampled,
        "rollout_attempts": float(rollout.attempts),
        "unfilled_share": float(1 - rollout.counts.mean()),  # of the batch
        "length_mean": float(lengths.mean()),
        "length_min": float(lengths.min()),
        "length_max": float(lengths.max()),
        "truncated_share": float(rollout.truncated.mean()),
        "verifier_timeouts": float(rollout.timeouts),
        "verifier_crashes": float(rollout.crashes),
    }


def reduce_updates(sums: Sequence[Metrics], maxima: Sequence[Maxima]) -> dict[str, float]:
    """Weighted means and maxima over the updates of a step."""
    names = {name for one in maxima for name in one}
    return reduce_metrics(merge(sums)) | {n: max(float(one[n]) for one in maxima if n in one) for n in names}


def excerpt(groups: Sequence[Group], count: int, names: Sequence[str]) -> list[dict[str, Any]]:
    """The first completion of each of the first ``count`` groups, as a line of completions.jsonl."""
    return [
        {
            "question": g.problem.question,
            "answer": g.problem.answer,
            "completion": g.completions[0].text,
            "reward": float(g.total[0]),
            **{f"reward_{n}": float(g.rewards[0, i]) for i, n in enumerate(names) if not np.isnan(g.rewards[0, i])},
            "tokens": int(g.samples.lengths[0]),
            "truncated": bool(g.truncated[0]),
        }
        for g in groups[:count]
    ]
