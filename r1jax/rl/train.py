"""Reinforcement learning from rule rewards: sample, score, compare within the group, update."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from r1jax.checkpoints.model import Model
from r1jax.checkpoints.native import Checkpoints, write_model
from r1jax.data.problems.schedule import warn_of_repeats
from r1jax.models.config import ModelConfig
from r1jax.models.transformer import cast
from r1jax.rl.batch import Rollout, score, split_minibatches
from r1jax.rl.config import RLConfig, warn_without_effect
from r1jax.rl.rollouts import Environment, collect, describe, excerpt, lay_out
from r1jax.rl.update import Objective, minibatch_divisor, update
from r1jax.sampling.memory import choose_slots
from r1jax.seeds import stage_key, stage_seed
from r1jax.sharding import Params, entered_mesh
from r1jax.training.loop import Carry, SaveConfig, restore, run
from r1jax.training.metrics import MetricsWriter, merge, reduce_metrics
from r1jax.training.progress import ProgressBar
from r1jax.training.state import init_state, make_optimizer, state_shapes, warn_of_rounding


@jax.jit
def _gap(old: jax.Array, sampler: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    gap = jnp.where(mask, jnp.abs(old - sampler), 0.0)
    return gap.sum(), mask.sum().astype(jnp.float32), gap.max()


def learn(
    carry: Carry,
    rollout: Rollout,
    optimizer: Any,
    config: RLConfig,
    objective: Objective,
    model: ModelConfig,
    key: jax.Array,
) -> dict[str, float]:
    """All updates of one rollout, on the carry's state; their metrics.

    Each inner epoch deals the rows to the minibatches anew. Every sequence that counts has the same weight in the sum
    of the updates (minibatch_divisor), and a minibatch in which nothing counts changes nothing.
    """
    passes = config.sequences // config.microbatch_size
    maxima: list[dict[str, jax.Array]] = []
    sums: list[Any] = []

    def logprobs(params: Params) -> jax.Array:
        return score(params, rollout.tokens, model, objective.temperature, passes, objective.chunk, rollout.first)

    if objective.beta:
        assert carry.reference is not None
        reference = logprobs(carry.reference)
        rollout = dataclasses.replace(rollout, reference_logprobs=jnp.where(rollout.mask, reference, 0.0))
    if not objective.on_policy:
        old = logprobs(carry.state.params)
        rollout = dataclasses.replace(rollout, old_logprobs=jnp.where(rollout.mask, old, 0.0))
        total, weight, worst = _gap(rollout.old_logprobs, rollout.sampler_logprobs, rollout.mask)
        sums.append({"sampler_gap": (total, weight)})
        maxima.append({"sampler_gap_max": worst})
    microbatches = config.minibatch // config.microbatch_size
    whole = config.minibatches == 1
    divisor = None if whole else minibatch_divisor(rollout.mask, objective, config.minibatches)
    counts = rollout.mask.any(axis=1)
    for epoch in range(config.inner_epochs):
        deal = [None] if whole else split_minibatches(jax.random.fold_in(key, epoch), counts, config.minibatches)
        for rows in deal:
            part = rollout if rows is None else jax.tree.map(lambda x, rows=rows: x[rows], rollout)
            carry.state, metrics, most = update(carry.state, part, optimizer, objective, model, microbatches, divisor)
            sums.append(metrics)
            maxima.append(most)
    names = {name for most in maxima for name in most}
    return reduce_metrics(merge(sums)) | {n: max(float(m[n]) for m in maxima if n in m) for n in names}


def copy_reference(params: Params, model: ModelConfig) -> Params:
    """The policy as a reference: in the compute type, and apart from what updates donate."""
    return jax.tree.map(jnp.copy, cast(params, model))


def reinforce(
    model: Model,
    environment: Environment,
    config: RLConfig,
    save: SaveConfig,
    folder: Path,
    log_samples: int = 4,
    name: str = "r1-zero",
) -> Model:
    """Trains ``model`` on the environment's problems and leaves checkpoints, metrics and completions in ``folder``.

    Goes on from the newest checkpoint there. ``name`` stands before the progress bar, and no other stage of a run may
    have it: it tells the stages' random numbers apart. The weights of ``model`` are freed: training holds a copy of its
    own. Without an entered mesh it runs on one device.

    Raises:
      Stopped: on Ctrl-C and SIGTERM, when all is saved.
    """
    warn_without_effect(config)
    late = environment.late_prompts(config.prompts)
    if not late or environment.late_from:
        warn_of_repeats(environment.problems, config.prompts, "rl.prompts")
    if late:
        warn_of_repeats(environment.late_problems, late, "rl.prompts or the share of late problems")
    mesh = entered_mesh()
    settings = model.config
    objective = config.objective(environment.sampling)
    warn_of_rounding(config, "rl")
    optimizer = make_optimizer(config, config.steps * config.updates, stage_seed(environment.seed, name, "rounding"))
    shapes = state_shapes(settings, config, optimizer, mesh)
    longest = environment.sampling.max_tokens + environment.prompt_width
    reference_shapes = None
    if config.beta:
        reference_shapes = jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(s.shape, jnp.dtype(settings.dtype), sharding=s.sharding), shapes.params
        )
    write_model(folder, settings, model.tokenizer)
    with Checkpoints(folder, save.keep_last, save.keep_best) as checkpoints:
        carry = restore(checkpoints, Carry(shapes, reference_shapes))
        if carry is None:
            state = init_state(model.params, optimizer, shapes)
            carry = Carry(state, copy_reference(state.params, settings) if config.beta else None)
        for weight in jax.tree.leaves(model.params):
            weight.delete()
        # Chosen once: what is free changes from step to step, and each number of slots is a program of its own.
        slots = choose_slots(
            settings,
            environment.sampling,
            carry.state.params,
            prompts=config.prompts,
            width=environment.prompt_width,
            sequences=config.sequences,
        )
        sampling = dataclasses.replace(environment.sampling, slots=slots)
        environment = dataclasses.replace(environment, sampling=sampling, stage=name)
        start = int(carry.state.step)
        with MetricsWriter(folder, start) as writer, ProgressBar(name, config.steps, start) as progress:

            def step_fn(carry: Carry, step: int) -> tuple[Carry, dict[str, float]]:
                began = time.perf_counter()
                if config.beta and config.reference_every and step and step % config.reference_every == 0:
                    carry.reference = copy_reference(carry.state.params, settings)
                found = collect(carry.state.params, model, environment, config, step)
                rollout = lay_out(found.groups, config, longest)
                collected = time.perf_counter()
                key = jax.random.fold_in(stage_key(environment.seed, name, "minibatches"), step)
                row = describe(found, config, environment.pool.names)
                row |= learn(carry, rollout, optimizer, config, objective, settings, key)
                row["tokens"] = float(found.tokens)
                now = time.perf_counter()
                row |= {
                    "tokens_per_second": found.tokens / (now - began),
                    "seconds_sampling": found.seconds_sampling,
                    "seconds_rewards": found.seconds_rewards,
                    "seconds_update": now - collected,
                }
                writer.write_completions(step, excerpt(found.groups, log_samples, environment.pool.names))
                return carry, row

            carry = run(
                carry, step_fn, steps=config.steps, checkpoints=checkpoints, save=save, writer=writer, progress=progress
            )
    return dataclasses.replace(model, params=carry.state.params)
