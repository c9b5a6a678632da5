"""The update of the policy on a minibatch."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from r1jax.algorithms.interface import Algorithm, PolicyTokens
from r1jax.models.config import ModelConfig
from r1jax.models.transformer import prepare
from r1jax.rl.batch import Batch
from r1jax.rl.config import UpdateContext
from r1jax.rl.logprobs import completion_logprobs, router_disagreement
from r1jax.rl.metrics import Maxima
from r1jax.rl.packing import Packing, Part, part_of
from r1jax.sharding import Params
from r1jax.traced import enabled, program
from r1jax.training.balance import expert_load, with_balance_loss
from r1jax.training.gradients import accumulate, accumulate_parts
from r1jax.training.metrics import Metrics
from r1jax.training.multi_token import join_loads, mtp_losses
from r1jax.training.state import TrainState, apply_gradients


def policy_sums(
    params: Params,
    batch: Batch,
    algorithm: Algorithm,
    context: UpdateContext,
    config: ModelConfig,
    packed: Part | None = None,
) -> tuple[jax.Array, tuple[jax.Array, Metrics, Maxima, jax.Array | None]]:
    """Sum of the algorithm's loss over a microbatch; its count, metrics as (sum, weight), maxima, and expert_load.

    The sum includes the balance loss of experts and the loss of multi-token prediction, if they have a weight; the
    metric "loss" does not. The latter changes the layers of multi-token prediction alone: the policy's gradient is that
    of the algorithm. A token has the weight in it that it has in the algorithm's loss.
    """
    logp, entropy, h, extras = completion_logprobs(
        params, batch.tokens, config, context.temperature, context.chunk, batch.first, batch.experts, packed
    )
    mask = batch.mask
    logp = jnp.where(mask, logp, 0.0)  # padding must give neither values nor infinities
    advantages = batch.advantages if batch.advantages.ndim == 2 else batch.advantages[:, None]
    tokens = PolicyTokens(
        logprobs=logp,
        entropy=entropy,
        old_logprobs=jax.lax.stop_gradient(logp) if context.on_policy else batch.old_logprobs,
        sampling_logprobs=batch.sampling_logprobs,
        reference_logprobs=batch.reference_logprobs,
        advantages=jnp.broadcast_to(advantages, logp.shape),
        mask=mask,
    )
    values, means, maxima = algorithm.token_loss(tokens)
    loss, count = algorithm.reduce(values, mask, context.max_tokens)
    means = {"entropy": entropy, **means}
    if context.on_policy:  # later updates would measure what they have learned
        gap = jnp.abs(logp - batch.sampler_logprobs)
        means, maxima = means | {"sampler_gap": gap}, maxima | {"sampler_gap_max": gap}
    weight = mask.sum().astype(jnp.float32)
    sums: Metrics = {name: (jnp.where(mask, x, 0.0).sum(), weight) for name, x in means.items()}
    sums["loss"] = (loss, count)
    if batch.experts is not None:
        sums["router_disagreement"] = router_disagreement(extras, batch.experts, mask)
    values, added = with_balance_loss(values, extras, mask, config, context.balance)
    mtp_load = None
    if config.mtp_layers and enabled(context.mtp_weight):
        fixed = jax.lax.stop_gradient((params, h))
        further, found, mtp_load = mtp_losses(
            {**fixed[0], "mtp": params["mtp"]},
            fixed[1],
            batch.tokens,
            mask,
            config,
            context.chunk,
            temperature=context.temperature,
            first=batch.first,
        )
        values, added = values + context.mtp_weight * further, added | found
    if added:
        loss, _ = algorithm.reduce(values, mask, context.max_tokens)
    largest = {name: jnp.where(mask, x, 0.0).max() for name, x in maxima.items()}
    return loss, (count, sums | added, largest, join_loads(expert_load(extras, mask), mtp_load))


@program(static_argnames=("algorithm", "context", "minibatches"))
def minibatch_divisor(mask: jax.Array, algorithm: Algorithm, context: UpdateContext, minibatches: int) -> jax.Array:
    """The divisor of the summed loss of each minibatch of a batch with this mask [B, T]: [] float32.

    It is the count of the whole batch over the number of minibatches in which something counts, the same for all: a
    sequence (aggregate "sequence") or a token ("token" and "constant") has the same weight in every minibatch, and the
    mean of the minibatches' losses is the loss of the whole batch. Divided by its own count, a minibatch with few
    sequences that count would give them more weight.
    """
    _, count = algorithm.reduce(jnp.zeros(mask.shape), mask, context.max_tokens)
    return count / jnp.clip(mask.any(axis=1).sum(), 1, minibatches)


@program(static_argnames=("optimizer", "algorithm", "context", "config", "microbatches"), donate_argnames="state")
def update(
    state: TrainState,
    batch: Batch,
    optimizer: optax.GradientTransformation,
    algorithm: Algorithm,
    context: UpdateContext,
    config: ModelConfig,
    microbatches: int,
    divisor: jax.Array | None = None,
) -> tuple[TrainState, Metrics, Maxima]:
    """The state after one optimiser step on ``batch``; metrics as (sum, weight), and maxima.

    Gradients of sums are added over microbatches and divided once, by the count of all or by ``divisor``
    for a minibatch (minibatch_divisor): the result does not depend on the number of microbatches. A batch in which
    nothing counts changes nothing. A packed batch has the parts of its packing instead of microbatches.
    """
    params = prepare(state.params, config)  # once, and not in every microbatch
    packing, rows = batch.packing, dataclasses.replace(batch, packing=None)

    def part_sums(params: Params, part: tuple[Batch, Part | None]) -> Any:
        return policy_sums(params, part[0], algorithm, context, config, part[1])

    if packing is None:
        gradients, found = accumulate(part_sums, params, (rows, None), microbatches, config, context.in_place)
    else:
        most, inputs = packing.members.shape[1], (packing, rows)

        def part_at(inputs: tuple[Packing, Batch], p: jax.Array) -> tuple[Batch, Part]:
            return part_of(inputs[0], inputs[1], p)

        gradients, found = accumulate_parts(
            part_sums, params, part_at, inputs, packing.parts, most, config, context.in_place
        )
    (grads, count), (sums, maxima, load) = gradients, found
    sums, load = jax.tree.map(lambda x: x.sum(axis=0), (sums, load))
    maxima = jax.tree.map(lambda x: x.max(axis=0), maxima)

    if divisor is not None:
        count = jnp.where(count > 0, divisor, 0.0)
    state, metrics = apply_gradients(state, grads, count, optimizer, config, load, context.balance.bias_speed)
    return state, sums | metrics, maxima
