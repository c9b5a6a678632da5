"""One step of reinforcement learning, in the order of DeepSeekMath's algorithm 1 (arXiv 2402.03300)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.algorithms.interface import Values
from r1jax.data.problems.problem import Problem
from r1jax.rl.batch import Batch, Layout, build_batch, lay_out, planned
from r1jax.rl.learned import prepare_batch, update_learners
from r1jax.rl.logprobs import batch_logprobs, sampler_gap
from r1jax.rl.metrics import Maxima, reduce_updates, token_spread
from r1jax.rl.parts import UpdateOnPart, update_on_parts
from r1jax.rl.rollouts import Rollout, collect
from r1jax.rl.setup import StepSetup
from r1jax.rl.state import RLState, copy_reference
from r1jax.rl.update import minibatch_divisor, update
from r1jax.sampling.slots import Samples
from r1jax.sharding import Params
from r1jax.training.metrics import Metrics


class StepKeys(NamedTuple):
    """The random keys of one step."""

    samples: jax.Array  # of the tokens
    minibatches: jax.Array  # of the split into minibatches


class ModelLogprobs(NamedTuple):
    """Log-probabilities of the tokens of a batch, also outside its mask; None for those that are not needed."""

    reference: jax.Array | None  # [B, T] float32
    old: jax.Array | None  # [B, T] float32, of the policy before the first update


class StepResult(NamedTuple):
    """The results of a step that are logged."""

    rollout: Rollout
    advantages: np.ndarray  # [P, G]
    metrics: dict[str, float]  # of the updates
    token_values: Values  # name -> [P * G, T] on the devices, with the layout of the batch


def rl_step(
    state: RLState, problems: Sequence[Sequence[Problem]], keys: StepKeys, setup: StepSetup
) -> tuple[RLState, StepResult]:
    """Samples groups, scores them, and updates the policy; the updates donate the arrays of ``state``.

    The step is not counted here: the training loop calls RLState.next_step.
    problems: of each attempt at sampling, setup.config.algorithm.attempts of them with config.prompts problems each.
    """
    every, done = setup.config.reference_every, int(state.step)
    if state.reference is not None and every and done and done % every == 0:
        state = dataclasses.replace(state, reference=copy_reference(state.policy.params, setup.model))
    known: list[tuple[Layout, ModelLogprobs]] = []

    def start_logprobs(prompts: list[list[int]], samples: Samples) -> None:
        repeated = [prompt for prompt in prompts for _ in range(setup.config.group)]
        layout = lay_out(repeated, samples, setup.longest)
        spans = layout.spans if setup.config.pack else None
        known.append((layout, model_logprobs(state, layout.tokens, layout.experts, layout.first, setup, spans)))

    # If all groups are kept, the batch is that of the only attempt. JAX returns before the devices have computed, so
    # they compute the log-probabilities while worker processes compute the rewards. An algorithm that keeps fewer
    # groups than it declares has another batch, of which nothing is known.
    algorithm, needed = setup.config.algorithm, state.reference is not None or not setup.context.on_policy
    start = start_logprobs if needed and algorithm.keeps_all else None
    rollout = collect(state.policy.params, problems, keys.samples, setup, start)
    advantages = algorithm.advantages(rollout.totals, rollout.groups.resolution, rollout.counts)
    whole = len(known) == 1 and not rollout.dropped
    layout, logprobs = known[0] if whole else (None, None)
    batch = batch_of(rollout, advantages, setup, layout)
    rollout = rollout.without_logprobs()
    state, metrics, values = setup.timed("updates", learn)(state, batch, keys.minibatches, setup, logprobs)
    return state, StepResult(rollout, advantages, metrics, values)


def batch_of(rollout: Rollout, advantages: np.ndarray, setup: StepSetup, layout: Layout | None = None) -> Batch:
    """A rollout and its advantages [P, G] as the batch of the updates. layout: as in build_batch."""
    rule_rewards = rollout.rule_rewards if setup.learners else {}  # read by Algorithm.prepare alone
    return build_batch(
        rollout.groups.prompts,
        rollout.groups.samples,
        setup.longest,
        layout=layout,
        counts=rollout.counted(setup.config.algorithm),
        rewards=rollout.totals.reshape(-1),
        rule_rewards={name: values.reshape(-1) for name, values in rule_rewards.items()},
        advantages=advantages.reshape(-1),
        pack=setup.config.pack,
    )


def model_logprobs(
    state: RLState,
    tokens: jax.Array,
    experts: jax.Array | None,
    first: int,
    setup: StepSetup,
    spans: np.ndarray | None = None,
) -> ModelLogprobs:
    """The log-probabilities of the models that the updates need; the devices may still be computing them.

    tokens: [B, T + 1] of a batch, and ``experts`` and ``first`` of it. The experts are the policy's: the reference, a
    model of its own, chooses others. spans: [B, 2] as in Batch, if the sequences are packed.
    """
    config, context = setup.config, setup.context
    if state.reference is None and context.on_policy:
        return ModelLogprobs(None, None)
    packed = None if spans is None else planned(spans, tokens.shape[1] - 1, config.microbatch_size)
    first = 0 if packed else first  # not read, and each value compiles another program

    def one(params: Params, experts: jax.Array | None) -> jax.Array:
        rest = (context.temperature, config.passes, context.chunk, first, experts, packed)
        return batch_logprobs(params, tokens, setup.model, *rest)

    reference = None if state.reference is None else one(state.reference, None)
    return ModelLogprobs(reference, None if context.on_policy else one(state.policy.params, experts))


def learn(
    state: RLState, batch: Batch, key: jax.Array, setup: StepSetup, known: ModelLogprobs | None = None
) -> tuple[RLState, dict[str, float], Values]:
    """The state after all updates of one batch, their metrics, and the algorithm's values per token to log.

    known: model_logprobs of the batch, if they have been computed.
    """
    state, sums, maxima, values = run_updates(state, batch, key, setup, known)
    return state, reduce_updates(sums, maxima), values


def run_updates(
    state: RLState, batch: Batch, key: jax.Array, setup: StepSetup, known: ModelLogprobs | None = None
) -> tuple[RLState, list[Metrics], list[Maxima], Values]:
    """As ``learn``, with the sums and maxima of each update, which ``learn`` reduces on the host.

    Each inner epoch has other minibatches. In the policy's loss a sequence that counts has the same weight in every one
    (minibatch_divisor), and a minibatch in which nothing counts changes nothing.
    """
    config, algorithm, context = setup.config, setup.config.algorithm, setup.context
    sums: list[Metrics] = []
    maxima: list[Maxima] = []

    def on_parts(one: UpdateOnPart, models: Any, batch: Batch) -> Any:
        models, found = update_on_parts(one, models, batch, key, config)
        sums.extend(metrics for metrics, _ in found)
        maxima.extend(largest for _, largest in found)
        return models

    if known is None:
        spans = None if batch.spans is None else np.asarray(batch.spans)
        known = model_logprobs(state, batch.tokens, batch.experts, batch.first, setup, spans)
    reference, old = known
    if reference is not None:
        batch = dataclasses.replace(batch, reference_logprobs=jnp.where(batch.mask, reference, 0.0))
    if old is not None:
        batch = dataclasses.replace(batch, old_logprobs=jnp.where(batch.mask, old, 0.0))
        total, weight, largest = sampler_gap(batch.old_logprobs, batch.sampler_logprobs, batch.mask)
        sums.append({"sampler_gap": (total, weight)})
        maxima.append({"sampler_gap_max": largest})
    policy, learned, values = state.policy, state.learned, {}
    before = [one for one in setup.learners.values() if one.updated == "before"]
    after = [one for one in setup.learners.values() if one.updated == "after"]
    if setup.learners:
        sampled = batch
        batch, values = prepare_batch(sampled, learned, setup.learners, config, context)
        if before:

            def teach(learned: Any, part: Batch) -> tuple[Any, Metrics, Maxima]:
                models, metrics = update_learners(learned, part, before, config, context)
                return models, metrics, {}

            learned = on_parts(teach, learned, batch)
            batch, values = prepare_batch(sampled, learned, setup.learners, config, context)
        sums.append(token_spread(batch.advantages, batch.mask))
    whole = config.minibatches == 1
    divisor = None if whole else minibatch_divisor(batch.mask, algorithm, context, config.minibatches)

    def improve(models: Any, part: Batch) -> tuple[Any, Metrics, Maxima]:
        own = dataclasses.replace(part, first=0) if part.packing else part  # as in model_logprobs
        policy, metrics, largest = update(
            models[0], own, setup.optimizer, algorithm, context, setup.model, config.microbatches, divisor
        )
        learned, learned_metrics = update_learners(models[1], part, after, config, context)
        return (policy, learned), metrics | learned_metrics, largest

    policy, learned = on_parts(improve, (policy, learned), batch)
    return RLState(policy, state.reference, learned), sums, maxima, values
