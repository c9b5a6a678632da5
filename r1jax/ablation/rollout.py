"""The rollout of one arm inside a program: attempts at sampling, choice of groups, batch and figures.

The counterpart of r1jax.rl.rollouts.collect, r1jax.rl.batch.build_batch and r1jax.rl.metrics.describe on the devices.
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from r1jax.ablation.answers import Expected
from r1jax.ablation.rewards import score
from r1jax.ablation.sampler import any_arm, sample_together
from r1jax.ablation.spec import LoopSpec
from r1jax.ablation.text import TokenCodes
from r1jax.algorithms.advantages import groups_with_spread
from r1jax.models.config import ModelConfig
from r1jax.rl.batch import Batch
from r1jax.sampling.slots import LENGTH, Samples
from r1jax.sharding import Params


@flax.struct.dataclass
class Problems:
    """All problems of a program, and the text of its tokens; shared by the arms."""

    prompts: jax.Array  # [n, Tp] int32, padded on the right
    prompt_lengths: jax.Array  # [n] int32
    expected: Expected
    kind: jax.Array  # [n] int32, index in kinds
    tokens: TokenCodes
    kinds: tuple[str, ...] = flax.struct.field(pytree_node=False, default=())
    shortest: int = flax.struct.field(pytree_node=False, default=1)  # tokens of the shortest prompt


@flax.struct.dataclass
class Groups:
    """Groups of samples with their rewards: Q groups of G samples."""

    problem: jax.Array  # [Q] int32
    samples: Samples  # arrays [Q, G, ...]; steps is [Q]
    rewards: jax.Array  # [Q, G, R] float32, unweighted
    totals: jax.Array  # [Q, G] float32, with the algorithm's own terms
    spread: jax.Array  # [Q] bool
    kept: jax.Array  # [Q] bool
    sampled: jax.Array  # [Q] bool, False in an attempt that this arm does not need


def collect(
    params: Params,
    asked: jax.Array,
    key: jax.Array,
    problems: Problems,
    spec: LoopSpec,
    model: ModelConfig,
    end_tokens: tuple[int, ...],
) -> tuple[Groups, dict[str, jax.Array]]:
    """The P groups of a step and the figures of all attempts; asked: [attempts, P] int32, indices of problems.

    A later attempt is sampled only if an arm needs it.
    """
    attempts, P = asked.shape

    def sampled(number: jax.Array, needed: jax.Array) -> Groups:
        return _groups(params, asked[number], key, number, needed, problems, spec, model, end_tokens)

    def attempt(kept: jax.Array, number: jax.Array) -> tuple[jax.Array, Groups]:
        needed = kept < P
        shapes = jax.eval_shape(sampled, number, needed)
        groups = jax.lax.cond(any_arm(needed), sampled, lambda *_: jax.tree.map(jnp.zeros_like, shapes), number, needed)
        return kept + groups.kept.sum(), groups

    first = jnp.arange(attempts)
    if attempts == 1:
        groups = sampled(first[0], jnp.array(True))
    else:
        _, parts = jax.lax.scan(attempt, jnp.zeros((), jnp.int32), first)
        groups = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), parts)
    taken = groups.sampled.reshape(attempts, P)[:, 0].sum().astype(jnp.float32)
    lengths = jnp.where(groups.sampled[:, None], groups.samples.lengths, 0)
    count = groups.sampled.sum()
    figures = {
        "unfiltered_reward": jnp.where(groups.sampled, groups.totals.mean(axis=1), 0.0).sum() / count,
        "filtered_groups": (groups.sampled & ~groups.kept).sum() / count,
        **({"equal_groups": (groups.sampled & ~groups.spread).sum() / count} if spec.rl.group > 1 else {}),
        "rollout_attempts": taken,
        "tokens": lengths.sum().astype(jnp.float32),
    }
    order = jnp.argsort(jnp.where(groups.kept, 0, jnp.where(groups.sampled, 1, 2)), stable=True)[:P]
    return jax.tree.map(lambda x: x[order], groups), figures


def _groups(
    params: Params,
    asked: jax.Array,
    key: jax.Array,
    attempt: jax.Array,
    needed: jax.Array,
    problems: Problems,
    spec: LoopSpec,
    model: ModelConfig,
    end_tokens: tuple[int, ...],
) -> Groups:
    """The groups of one attempt, which count only if ``needed``."""
    P, G = len(asked), spec.rl.group
    algorithm: Any = spec.rl.algorithm  # its methods are declared for arrays of NumPy
    ids = jnp.arange(P * G, dtype=jnp.int32) + attempt * spec.rl.sequences
    prompts, lengths = problems.prompts[asked], problems.prompt_lengths[asked]
    samples = sample_together(params, prompts, lengths, ids, key, model, spec.sampling, end_tokens)
    names = [reward.name for reward in spec.rewards]
    rows = jnp.repeat(asked, G)
    expected = jax.tree.map(lambda x: x[rows], problems.expected)
    rewards = score(samples, expected, problems.tokens, spec.template, names)
    total = sum(rewards[:, i] * reward.weight for i, reward in enumerate(spec.rewards))
    totals = algorithm.shape_rewards(total, samples.lengths, spec.sampling.max_tokens).reshape(P, G)
    spread = groups_with_spread(totals)
    by_rule = {name: rewards[:, i].reshape(P, G) for i, name in enumerate(names)}
    return Groups(
        problem=asked,
        samples=jax.tree.map(lambda x: x.reshape(P, G, *x.shape[1:]) if x.ndim else jnp.full(P, x), samples),
        rewards=rewards.reshape(P, G, -1),
        totals=totals,
        spread=spread,
        kept=jnp.asarray(algorithm.keeps(totals, spread, by_rule)) & needed,
        sampled=jnp.broadcast_to(needed, (P,)),
    )


def batch_of(groups: Groups, advantages: jax.Array, problems: Problems, spec: LoopSpec) -> Batch:
    """The groups as the batch of the updates, of the largest possible width; advantages: [P, G]."""
    G = spec.rl.group
    algorithm: Any = spec.rl.algorithm  # its methods are declared for arrays of NumPy
    rows = jnp.repeat(groups.problem, G)
    prompts, starts = problems.prompts[rows], problems.prompt_lengths[rows]
    samples = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), groups.samples)
    B, M = samples.tokens.shape
    longest = prompts.shape[1] + M
    T = longest - 1
    place = jnp.arange(T) - (starts[:, None] - 1)  # [B, T], of each position in the completion
    within = (place >= 0) & (place < samples.lengths[:, None])

    def laid_out(values: jax.Array) -> jax.Array:  # [B, M] -> [B, T]
        return jnp.where(within, jnp.take_along_axis(values, jnp.clip(place, 0, M - 1), axis=1), 0)

    tokens = jnp.pad(laid_out(samples.tokens), ((0, 0), (1, 0)))
    padded = jnp.pad(prompts, ((0, 0), (0, T + 1 - prompts.shape[1])))
    zeros = jnp.zeros((B, T), jnp.float32)
    names = [reward.name for reward in spec.rewards] if algorithm.learned else []
    counts = jnp.repeat(groups.kept, G) & algorithm.counted(samples.finish == LENGTH)
    return Batch(
        tokens=jnp.where(jnp.arange(T + 1) < starts[:, None], padded, tokens),
        mask=within & counts[:, None],
        rewards=groups.totals.reshape(-1),
        rule_rewards={name: groups.rewards[..., i].reshape(-1) for i, name in enumerate(names)},
        advantages=advantages.reshape(-1),
        sampler_logprobs=laid_out(samples.logprobs),
        sampling_logprobs=laid_out(samples.sampling_logprobs),
        old_logprobs=zeros,
        reference_logprobs=zeros,
        first=(problems.shortest - 1) // 32 * 32,
    )


def describe(groups: Groups, advantages: jax.Array, problems: Problems, spec: LoopSpec) -> dict[str, jax.Array]:
    """The figures of a rollout that r1jax.rl.metrics.describe gives, by the same names: [] float32 each."""
    lengths = groups.samples.lengths.astype(jnp.float32)
    counts = jnp.broadcast_to(groups.kept[:, None], advantages.shape)
    n = jnp.maximum(counts.sum(), 1)
    mean = jnp.where(counts, advantages, 0.0).sum() / n
    figures = {
        "reward": groups.totals.mean(),
        **{f"reward_{reward.name}": groups.rewards[..., i].mean() for i, reward in enumerate(spec.rewards)},
        **({"reward_spread": groups.totals.std(axis=1).mean()} if spec.rl.group > 1 else {}),
        "advantage_spread": jnp.sqrt(jnp.where(counts, jnp.square(advantages - mean), 0.0).sum() / n),
        "unfilled_share": 1 - groups.kept.mean(),
        "length_mean": lengths.mean(),
        "length_min": lengths.min(),
        "length_max": lengths.max(),
        "truncated_share": (groups.samples.finish == LENGTH).mean(),
    }
    names = [reward.name for reward in spec.rewards]
    if "accuracy" in names and len(problems.kinds) > 1:
        accuracy = groups.rewards[..., names.index("accuracy")].mean(axis=1)
        for i, kind in enumerate(problems.kinds):
            of_kind = problems.kind[groups.problem] == i
            # nan if the step has no problem of the kind
            figures[f"accuracy_{kind}"] = jnp.where(of_kind, accuracy, 0.0).sum() / of_kind.sum()
    return figures
