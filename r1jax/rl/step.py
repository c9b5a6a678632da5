"""One step of reinforcement learning, in the order of DeepSeekMath's algorithm 1 (arXiv 2402.03300)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.data.problems.problem import Problem
from r1jax.rl.batch import Batch, build_batch, minibatches
from r1jax.rl.learned import learner_output, prepared, update_learner
from r1jax.rl.logprobs import batch_logprobs
from r1jax.rl.rollouts import Rollout, collect
from r1jax.rl.setup import StepSetup
from r1jax.rl.state import RLState, copy_reference
from r1jax.rl.update import Maxima, minibatch_divisor, update
from r1jax.sharding import Params
from r1jax.training.metrics import Metrics, merge, reduce_metrics


class StepKeys(NamedTuple):
    """The random keys of one step."""

    samples: jax.Array  # of the tokens
    minibatches: jax.Array  # of the split into minibatches


class StepResult(NamedTuple):
    """What a step leaves for the log."""

    rollout: Rollout
    advantages: np.ndarray  # [P, G]
    metrics: dict[str, float]  # of the updates


def rl_step(
    state: RLState, problems: Sequence[Sequence[Problem]], keys: StepKeys, setup: StepSetup
) -> tuple[RLState, StepResult]:
    """Samples groups, scores them, and updates the policy; the state that is given must not be used any more.

    problems: of each attempt at sampling, setup.config.algorithm.attempts of them with config.prompts problems each.
    """
    every, done = setup.config.reference_every, int(state.step)
    if state.reference is not None and every and done and done % every == 0:
        state = dataclasses.replace(state, reference=copy_reference(state.policy.params, setup.model))
    rollout = collect(state.policy.params, problems, keys.samples, setup)
    advantages = setup.config.algorithm.advantages(rollout.totals, rollout.resolution, rollout.counts)
    state, metrics = learn(state, batch_of(rollout, advantages, setup), keys.minibatches, setup)
    return state, StepResult(rollout, advantages, metrics)


def batch_of(rollout: Rollout, advantages: np.ndarray, setup: StepSetup) -> Batch:
    """A rollout and its advantages [P, G] as the batch of the updates."""
    return build_batch(
        rollout.prompts,
        rollout.samples,
        setup.longest,
        counts=np.repeat(rollout.counts, setup.config.group),
        rewards=rollout.totals.reshape(-1),
        advantages=advantages.reshape(-1),
    )


def learn(state: RLState, batch: Batch, key: jax.Array, setup: StepSetup) -> tuple[RLState, dict[str, float]]:
    """The state after all updates of one batch, and their metrics.

    Each inner epoch has other minibatches. A sequence that counts has the same weight in every one
    (minibatch_divisor), and a minibatch in which nothing counts changes nothing.
    """
    config, algorithm, context = setup.config, setup.config.algorithm, setup.context
    sums: list[Metrics] = []
    maxima: list[Maxima] = []

    def logprobs(params: Params) -> jax.Array:
        found = batch_logprobs(
            params, batch.tokens, setup.model, context.temperature, config.passes, context.chunk, batch.first
        )
        return jnp.where(batch.mask, found, 0.0)

    if state.reference is not None:
        batch = dataclasses.replace(batch, reference_logprobs=logprobs(state.reference))
    if not context.on_policy:
        batch = dataclasses.replace(batch, old_logprobs=logprobs(state.policy.params))
        total, weight, largest = _gap(batch.old_logprobs, batch.sampler_logprobs, batch.mask)
        sums.append({"sampler_gap": (total, weight)})
        maxima.append({"sampler_gap_max": largest})
    if setup.learners:
        outputs = {
            name: learner_output(state.learned[name].params, batch, learner, context, config.passes)
            for name, learner in setup.learners.items()
        }
        batch = prepared(batch, outputs, algorithm, config.group)
    whole = config.minibatches == 1
    divisor = None if whole else minibatch_divisor(batch.mask, algorithm, context, config.minibatches)
    static = (algorithm, context)
    policy, learned = state.policy, dict(state.learned)
    for epoch in range(config.inner_epochs):
        for part in minibatches(batch, jax.random.fold_in(key, epoch), config.minibatches):
            policy, metrics, largest = update(
                policy, part, setup.optimizer, *static, setup.model, config.microbatches, divisor
            )
            sums.append(metrics)
            maxima.append(largest)
            for name, learner in setup.learners.items():
                learned[name], metrics = update_learner(learned[name], part, learner, *static, config.microbatches)
                sums.append(metrics)
    return RLState(policy, state.reference, learned), _row(sums, maxima)


def _row(sums: list[Metrics], maxima: list[Maxima]) -> dict[str, float]:
    names = {name for one in maxima for name in one}
    return reduce_metrics(merge(sums)) | {n: max(float(one[n]) for one in maxima if n in one) for n in names}


@jax.jit
def _gap(old: jax.Array, sampler: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    gap = jnp.where(mask, jnp.abs(old - sampler), 0.0)
    return gap.sum(), mask.sum().astype(jnp.float32), gap.max()
