"""One optimiser step on a minibatch of a rollout."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from r1jax.algorithms import losses
from r1jax.errors import UserError
from r1jax.models.config import ModelConfig
from r1jax.models.transformer import prepare
from r1jax.rl.batch import Rollout, completion_logprobs, split_microbatches
from r1jax.sharding import Params
from r1jax.training.metrics import Metrics
from r1jax.training.state import TrainState, apply_gradients


@dataclasses.dataclass(frozen=True)
class Objective:
    """The loss of policy optimisation; the defaults are GRPO's."""

    loss: Literal["clip", "cispo"] = "clip"
    eps_low: float = 0.2
    eps_high: float = 0.2
    beta: float = 0.0  # of the KL to the reference
    entropy: float = 0.0  # weight of an entropy bonus
    aggregate: losses.Aggregate = "sequence"
    ratio: losses.Ratio = "token"
    importance_cap: float = 0.0  # of truncated importance sampling; 0 leaves it out
    temperature: float = 1.0  # of the policy
    max_tokens: int = 128  # the divisor of the aggregate "constant"
    on_policy: bool = False  # one update a rollout: the old policy is the present one and needs no pass of its own
    chunk: int = 2048  # tokens whose logits exist at one time


def objective_sums(
    params: Params, batch: Rollout, objective: Objective, config: ModelConfig
) -> tuple[jax.Array, tuple[jax.Array, Metrics, dict[str, jax.Array]]]:
    """Sum of the loss over a microbatch; its count, metrics as (sum, weight), and maxima.

    Per token: surrogate(rho, A) * importance + beta * k3(pi, ref) - entropy * H(pi), reduced by losses.reduce_tokens.
    bounded_share is the share of tokens with a log-difference above losses.BOUND in one of these terms.
    """
    logp, entropy = completion_logprobs(
        params, batch.tokens, config, objective.temperature, objective.chunk, batch.first
    )
    mask = batch.mask
    logp = jnp.where(mask, logp, 0.0)  # padding must give neither values nor infinities
    old = jax.lax.stop_gradient(logp) if objective.on_policy else batch.old_logprobs
    log_ratios = losses.log_ratio(logp, old, mask, objective.ratio)
    advantages = jnp.broadcast_to(batch.advantages[:, None], logp.shape)
    if objective.loss == "cispo":
        values, clipped = losses.cispo_surrogate(log_ratios, logp, advantages, objective.eps_low, objective.eps_high)
    else:
        values, clipped = losses.clipped_surrogate(log_ratios, advantages, objective.eps_low, objective.eps_high)
    differences = [log_ratios]
    if objective.importance_cap:
        values *= losses.truncated_importance(old, batch.sampling_logprobs, objective.importance_cap)
        differences.append(old - batch.sampling_logprobs)
    kl = losses.k3_kl(logp, batch.reference_logprobs)
    if objective.beta:
        values += objective.beta * kl
        differences.append(batch.reference_logprobs - logp)
    if objective.entropy:
        values -= objective.entropy * entropy
    loss, count = losses.reduce_tokens(values, mask, objective.aggregate, objective.max_tokens)

    weight = mask.sum().astype(jnp.float32)
    gap = jnp.abs(logp - batch.sampler_logprobs)
    ratios = losses.bounded_exp(log_ratios)
    per_token = {
        "entropy": entropy,
        "ratio_mean": ratios,
        "bounded_share": losses.beyond_bound(*differences),
        "clip_share": clipped,
        "clip_share_low": clipped & (advantages < 0),
        "clip_share_high": clipped & (advantages > 0),
    }
    if objective.beta:
        per_token["kl"] = kl
    if objective.on_policy:  # later updates would measure their own learning
        per_token["sampler_gap"] = gap
    sums: Metrics = {name: (jnp.where(mask, x, 0.0).sum(), weight) for name, x in per_token.items()}
    sums["loss"] = (loss, count)
    maxima = {"ratio_max": jnp.where(mask, ratios, 0.0).max()}
    if objective.on_policy:
        maxima["sampler_gap_max"] = jnp.where(mask, gap, 0.0).max()
    return loss, (count, sums, maxima)


def check_microbatch(size: int, what: str, data_axis: int, settings: str) -> None:
    """Raises UserError, naming the settings to change, where ``size`` of ``what`` do not split over the data axis."""
    if size % data_axis:
        raise UserError(
            f"a microbatch of {size} {what} does not split over the {data_axis} devices of the mesh's data axis: "
            f"change {settings} or --mesh"
        )


def accumulate(
    gradient: Callable[[Params, Any], Any], params: Params, batch: Any, microbatches: int
) -> tuple[tuple[Params, jax.Array], Any]:
    """Gradients and counts of a batch added over its microbatches in float32, and their other results stacked.

    ``gradient(params, part)`` gives (gradient of a sum, (count, *others)). That of a single microbatch stays in its own
    type: there is nothing to add it to, and the float32 copy of a large model may be what does not fit.
    """
    if microbatches == 1:
        grads, (count, *others) = gradient(params, batch)
        return (grads, count), jax.tree.map(lambda x: x[None], others)

    def one(total: Any, part: Any) -> tuple[Any, Any]:
        grads, (count, *others) = gradient(params, part)
        grads = jax.tree.map(lambda g: g.astype(jnp.float32), grads)
        return jax.tree.map(jnp.add, total, (grads, count)), others

    zero = (jax.tree.map(lambda w: jnp.zeros(w.shape, jnp.float32), params), jnp.zeros(()))
    return jax.lax.scan(one, zero, split_microbatches(batch, microbatches))


@partial(jax.jit, static_argnames=("objective", "minibatches"))
def minibatch_divisor(mask: jax.Array, objective: Objective, minibatches: int) -> jax.Array:
    """What each minibatch of a rollout with this mask [B, T] divides its summed loss by: [] float32.

    The count of the whole rollout over the number of minibatches in which something counts. It is the same for all:
    every sequence that counts (aggregate "sequence"), or every token of one ("token" and "constant"), has the same
    weight in whichever minibatch it is. Divided by a count of its own, a minibatch with fewer would weigh them more.
    The mean of the loss over the minibatches in which something counts is that of the rollout in one update.
    """
    _, count = losses.reduce_tokens(jnp.zeros(mask.shape), mask, objective.aggregate, objective.max_tokens)
    return count / jnp.clip(mask.any(axis=1).sum(), 1, minibatches)


@partial(jax.jit, static_argnames=("optimizer", "objective", "config", "microbatches"), donate_argnames="state")
def update(
    state: TrainState,
    batch: Rollout,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    config: ModelConfig,
    microbatches: int,
    divisor: jax.Array | None = None,
) -> tuple[TrainState, Metrics, dict[str, jax.Array]]:
    """The state after one optimiser step on ``batch``; metrics as (sum, weight), and maxima.

    Gradients of sums are added over microbatches in float32 and divided once by the count of all, or by ``divisor``
    where the batch is a minibatch (see minibatch_divisor): the result does not depend on how many microbatches there
    are. A batch in which nothing counts changes nothing.
    """
    params = prepare(state.params, config)  # once, and not again in every microbatch
    gradient = jax.grad(objective_sums, has_aux=True)

    (grads, count), (sums, maxima) = accumulate(
        lambda params, part: gradient(params, part, objective, config), params, batch, microbatches
    )
    sums = jax.tree.map(lambda x: x.sum(axis=0), sums)
    maxima = jax.tree.map(lambda x: x.max(axis=0), maxima)

    if divisor is not None:
        count = jnp.where(count > 0, divisor, 0.0)
    state, metrics = apply_gradients(state, grads, count, optimizer, config)
    return state, sums | metrics, maxima
