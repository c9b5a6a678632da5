"""Models that an algorithm trains beside the policy: a critic, or a process reward model (algorithms.interface)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from r1jax.algorithms.interface import Algorithm, RolloutTokens, Values
from r1jax.models.config import ModelConfig
from r1jax.models.mtp import without_mtp
from r1jax.models.precision import einsum_f32
from r1jax.models.transformer import Extras, hidden_states, prepare, scalar_config, with_scalar_head
from r1jax.rl.batch import Batch
from r1jax.rl.config import RLConfig, UpdateContext
from r1jax.rl.logprobs import completion_logprobs
from r1jax.seeds import stage_seed
from r1jax.sharding import Params, constrain
from r1jax.traced import holds_arrays, program, replace
from r1jax.training.balance import expert_load, with_balance_loss
from r1jax.training.by_device import over_rows
from r1jax.training.gradients import accumulate, map_microbatches
from r1jax.training.metrics import Metrics
from r1jax.training.optimizer import OptimizerConfig, build_optimizer, make_optimizer
from r1jax.training.state import TrainState, apply_gradients, init_state, state_shapes


@dataclasses.dataclass(frozen=True)
class Learner:
    """How a learned model is computed and optimised; static under jit."""

    name: str
    updated: Literal["before", "after"]  # the updates of the policy
    config: ModelConfig  # head "scalar": a value per position; else the log-probability of the next token
    settings: OptimizerConfig
    optimizer: optax.GradientTransformation


def make_learners(rl: RLConfig, model: ModelConfig, seed: int, stage: str) -> dict[str, Learner]:
    """The learners of rl.algorithm by name; a setting that a learned model does not have is the policy's."""
    shared = {field.name: getattr(rl, field.name) for field in dataclasses.fields(OptimizerConfig)}
    learners = {}
    for name, learned in rl.algorithm.learned.items():
        rate = rl.learning_rate * learned.learning_rate_factor
        own = {field: value for field, value in vars(learned).items() if field in shared and value is not None}
        settings = replace(OptimizerConfig(), **{**shared, "learning_rate": rate, **own})
        config = scalar_config(model) if learned.head == "value" else dataclasses.replace(model, mtp_layers=0)
        make = build_optimizer if holds_arrays(settings) else make_optimizer
        optimizer = make(settings, rl.steps * rl.updates, stage_seed(seed, stage, "rounding", name))
        learners[name] = Learner(name, learned.updated, config, settings, optimizer)
    return learners


def learner_shapes(learner: Learner, mesh: Mesh) -> TrainState:
    """The state of a learned model as ShapeDtypeStructs with shardings."""
    return state_shapes(learner.config, learner.settings, learner.optimizer, mesh)


def init_learner(policy: Params, learner: Learner, mesh: Mesh, start: Params | None = None) -> TrainState:
    """A learned model before its first update: a copy of ``start``, or of the policy.

    A copy of the policy that gives values has a head of zeros. Layers of multi-token prediction are left out.
    """
    if start is None:
        start = with_scalar_head(policy, learner.config)[0] if learner.config.head == "scalar" else policy
    start, _ = without_mtp(start, learner.config)
    return init_state(start, learner.optimizer, learner_shapes(learner, mesh))


def _output(
    params: Params, tokens: jax.Array, learner: Learner, context: UpdateContext, first: int
) -> tuple[jax.Array, Extras]:
    """[B, T] float32 for tokens [B, T + 1]; the value at position t is of the text before tokens[:, t + 1]."""
    config = learner.config
    if config.head != "scalar":
        logp, _, _, extras = completion_logprobs(params, tokens, config, context.temperature, context.chunk, first)
        return logp, extras
    h, extras = hidden_states(params, tokens[:, :-1], config)
    return einsum_f32("btd,do->bto", h, params["score"].astype(config.dtype))[..., 0], extras


@program(static_argnames=("learner", "context", "microbatches"))
def learner_output(
    params: Params, batch: Batch, learner: Learner, context: UpdateContext, microbatches: int
) -> jax.Array:
    """Outputs of a learned model for a batch, without gradient: [B, T] float32, 0 outside the mask."""
    params = prepare(params, learner.config)

    def of_rows(params: Params, tokens: jax.Array) -> jax.Array:
        def one(part: jax.Array) -> jax.Array:
            return _output(params, part, learner, context, batch.first)[0]

        return map_microbatches(one, tokens, microbatches)

    return jnp.where(batch.mask, over_rows(of_rows, params, batch.tokens, learner.config), 0.0)


def prepare_batch(
    batch: Batch,
    learned: Mapping[str, TrainState],
    learners: Mapping[str, Learner],
    config: RLConfig,
    context: UpdateContext,
) -> tuple[Batch, Values]:
    """The batch of a whole rollout with advantages per token and targets, from the outputs of the learned models.

    Also Algorithm.token_values.
    """
    outputs = {
        name: learner_output(learned[name].params, batch, learner, context, config.passes)
        for name, learner in learners.items()
    }
    return _prepared(batch, outputs, config.algorithm, config.group)


@program(static_argnames=("algorithm", "group"))
def _prepared(batch: Batch, outputs: dict[str, jax.Array], algorithm: Algorithm, group: int) -> tuple[Batch, Values]:
    rollout = RolloutTokens(
        mask=batch.mask,
        rewards=batch.rewards,
        rule_rewards=batch.rule_rewards,
        advantages=batch.advantages,
        policy_logprobs=batch.sampler_logprobs,
        reference_logprobs=batch.reference_logprobs,
        outputs=outputs,
        group=group,
    )
    advantages, targets = algorithm.prepare(rollout)
    targets = jax.tree.map(lambda x: constrain(x, "batch", *[None] * (x.ndim - 1)), targets)
    values = {name: constrain(x, "batch", None) for name, x in algorithm.token_values(rollout).items()}
    return dataclasses.replace(batch, advantages=constrain(advantages, "batch", None), targets=targets), values


@program(static_argnames=("algorithm", "learner", "context", "microbatches"), donate_argnames="state")
def update_learner(
    state: TrainState, batch: Batch, learner: Learner, algorithm: Algorithm, context: UpdateContext, microbatches: int
) -> tuple[TrainState, Metrics]:
    """The state of a learned model after one update on a minibatch, whose loss is divided by its own count."""

    config, balance = learner.config, learner.settings.balance

    def sums(params: Params, part: Batch) -> tuple[jax.Array, tuple[jax.Array, Metrics, jax.Array | None]]:
        output, extras = _output(params, part.tokens, learner, context, part.first)
        output = jnp.where(part.mask, output, 0.0)
        loss, count, metrics = algorithm.learned_loss(learner.name, output, part.mask, part.targets[learner.name])
        metrics = metrics | {"loss": (loss, count)}
        _, balanced = with_balance_loss(jnp.zeros(len(part.mask)), extras, part.mask, config, balance)
        for total, rows in balanced.values():  # the mean over rows, with the weight that the microbatch has
            loss = loss + count * total / jnp.maximum(rows, 1.0)
        return loss, (count, metrics | balanced, expert_load(extras, part.mask))

    params = prepare(state.params, config)
    (grads, count), found = accumulate(sums, params, batch, microbatches, config, context.in_place)
    parts, load = jax.tree.map(lambda x: x.sum(axis=0), found)
    state, metrics = apply_gradients(state, grads, count, learner.optimizer, config, load, balance.bias_speed)
    metrics = parts | metrics
    return state, {f"{learner.name}_{name}": value for name, value in metrics.items()}


def update_learners(
    learned: Mapping[str, TrainState],
    batch: Batch,
    learners: Sequence[Learner],
    config: RLConfig,
    context: UpdateContext,
) -> tuple[dict[str, TrainState], Metrics]:
    """The states of all learned models after one update of ``learners`` on a minibatch, and its metrics."""
    states, found = dict(learned), {}
    # Learned models compute a sequence in each row.
    batch = dataclasses.replace(batch, spans=None, packing=None)
    for one in learners:
        states[one.name], metrics = update_learner(
            states[one.name], batch, one, config.algorithm, context, config.microbatches
        )
        found |= metrics
    return states, found
