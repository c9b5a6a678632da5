"""What is logged of a step: figures of its rollout and updates for metrics.jsonl, and completions to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.algorithms.gae import masked_mean
from r1jax.algorithms.interface import Values
from r1jax.data.text.token_texts import token_texts
from r1jax.rl.rollouts import Group, Rollout
from r1jax.sampling.slots import Samples
from r1jax.sharding import constrain
from r1jax.tokenizer import Tokenizer
from r1jax.traced import program
from r1jax.training.metrics import Metrics, merge, reduce_metrics

_TOKENS_SHOWN = 1024  # so that completions.jsonl does not become many times as large as its texts

Maxima = dict[str, jax.Array]  # name -> [] float32, whose maximum over the updates is logged


def describe(rollout: Rollout, advantages: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Figures of one rollout with its advantages [P, G]; names: of the rewards.

    Groups of one sample have no figures of their spread. The advantage_spread of an algorithm with learned models is
    token_spread's, which is among the metrics of the updates.
    """
    groups, counts = rollout.groups, rollout.counts
    rewards, lengths = groups.rewards, np.asarray(groups.samples.lengths)
    of_groups = {
        "reward_spread": float(rollout.totals.std(axis=1).mean()),
        "equal_groups": rollout.equal / rollout.sampled,
    }
    judged = [not np.isnan(column).all() for column in rewards.T]
    by_kind = {}
    if "accuracy" in names:
        kinds = np.repeat([problem.kind for problem in groups.problems], groups.size)
        accuracy = rewards[:, list(names).index("accuracy")]
        by_kind = {str(kind): float(accuracy[kinds == kind].mean()) for kind in np.unique(kinds)}
    return {
        "reward": float(rollout.totals.mean()),
        **{f"reward_{name}": float(np.nanmean(rewards[:, i])) for i, name in enumerate(names) if judged[i]},
        **({f"accuracy_{kind}": value for kind, value in by_kind.items()} if len(by_kind) > 1 else {}),
        "unfiltered_reward": rollout.reward,
        "filtered_groups": rollout.dropped / rollout.sampled,
        **(of_groups if advantages.shape[1] > 1 else {}),
        "advantage_spread": float(advantages[counts].std()) if counts.any() else 0.0,
        "rollout_attempts": float(rollout.attempts),
        "unfilled_share": float(1 - rollout.counts.mean()),  # of the batch
        "length_mean": float(lengths.mean()),
        "length_min": float(lengths.min()),
        "length_max": float(lengths.max()),
        "truncated_share": float(groups.truncated.mean()),
        "verifier_timeouts": float(rollout.timeouts),
        "verifier_crashes": float(rollout.crashes),
        **draft_acceptance(groups.samples),
    }


def draft_acceptance(samples: Samples) -> dict[str, float]:
    """The share of proposed tokens that were accepted, if a draft has proposed any."""
    if samples.proposed is None or samples.accepted is None or not (proposed := int(samples.proposed.sum())):
        return {}
    return {"draft_acceptance": int(samples.accepted.sum()) / proposed}


@program()
def token_spread(advantages: jax.Array, mask: jax.Array) -> Metrics:
    """advantage_spread, the standard deviation of advantages [B, T] over the tokens of the mask; 0 without tokens."""
    centred = advantages - masked_mean(advantages, mask)
    return {"advantage_spread": (jnp.sqrt(masked_mean(centred**2, mask)), jnp.ones(()))}


def reduce_updates(sums: Sequence[Metrics], maxima: Sequence[Maxima]) -> dict[str, float]:
    """Weighted means and maxima over the updates of a step; waits for the updates."""
    names = {name for one in maxima for name in one}
    return reduce_metrics(merge(sums)) | {n: max(float(one[n]) for one in maxima if n in one) for n in names}


@partial(jax.jit, static_argnames=("group", "count"))
def first_of_groups(values: Values, group: int, count: int) -> Values:
    """The rows of the first completion of each of the first ``count`` groups: [count, T] for [P * G, T].

    Whole on every host, so that all can read them.
    """
    return {name: constrain(x[: count * group : group], None, None) for name, x in values.items()}


def excerpt(
    groups: Sequence[Group],
    names: Sequence[str],
    tokenizer: Tokenizer,
    values: Mapping[str, np.ndarray],
    counted: Sequence[bool] | np.ndarray,
) -> list[dict[str, Any]]:
    """The first completion of each of the groups, as a line of completions.jsonl.

    names: of the rewards. values: name -> [groups, T], from first_of_groups; if there are any, completions whose tokens
    count are written with the text and the values of each of their first _TOKENS_SHOWN tokens. counted: [groups].
    """
    lines = []
    for row, g in enumerate(groups):
        rewards = {f"reward_{n}": float(g.rewards[0, i]) for i, n in enumerate(names) if not np.isnan(g.rewards[0, i])}
        line = {
            "question": g.problem.question,
            "answer": g.problem.answer,
            "completion": g.completions[0].text,
            "reward": float(g.total[0]),
            **rewards,
            "tokens": int(g.lengths[0]),
            "truncated": bool(g.truncated[0]),
        }
        if values and counted[row]:
            n, start = min(line["tokens"], _TOKENS_SHOWN), len(g.prompt) - 1  # position t belongs to the token after it
            line["token_texts"] = token_texts(g.tokens[0][:n].tolist(), g.prompt, tokenizer)
            line["token_values"] = {
                name: [float(f"{x:.4g}") for x in table[row, start : start + n]] for name, table in values.items()
            }
        lines.append(line)
    return lines
