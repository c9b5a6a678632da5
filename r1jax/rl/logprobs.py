"""Log-probabilities of the tokens of a batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from r1jax.algorithms.logprobs import token_logprobs
from r1jax.kernels.head import head_of
from r1jax.models.config import ModelConfig
from r1jax.models.transformer import Extras, hidden_states, prepare, routing_of_layers, unembedding
from r1jax.rl.packing import Packing, Part, packed_rows, part_of, places, with_part
from r1jax.sharding import Params, constrain
from r1jax.traced import program
from r1jax.training.by_device import over_rows
from r1jax.training.gradients import map_microbatches


def completion_logprobs(
    params: Params,
    tokens: jax.Array,
    config: ModelConfig,
    temperature: float,
    chunk: int,
    first: int,
    experts: jax.Array | None = None,
    packed: Part | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array, Extras]:
    """Log-probability of tokens[:, 1:] and entropy [B, T] as token_logprobs; zeros before position ``first``.

    Also the final states [B, T, D], and what the forward pass computes besides. experts: [B, T, L, k] to use; None: the
    routers choose. packed: the rows that these sequences lie in; the values are then zeros outside completions, and the
    states those of the rows.

    Prompts need no logits, and the output head is the largest product of a small model.
    """
    if packed is not None:
        return _packed_logprobs(params, tokens, config, temperature, chunk, packed)
    h, extras = hidden_states(params, tokens[:, :-1], config, replay=experts)
    output, targets = unembedding(params, config), tokens[:, 1 + first :]
    pair = token_logprobs(h[:, first:], output, targets, temperature, chunk, head_of(config))
    logp, entropy = (jnp.pad(x, ((0, 0), (first, 0))) for x in pair)
    return logp, entropy, h, extras


def _packed_logprobs(
    params: Params, tokens: jax.Array, config: ModelConfig, temperature: float, chunk: int, part: Part
) -> tuple[jax.Array, jax.Array, jax.Array, Extras]:
    at = places(part, tokens.shape[1] - 1)
    rows, segments = packed_rows(tokens[:, :-1], part, at)
    h, extras = hidden_states(params, rows, config, segments=segments)
    devices = len(at.tokens)
    by_device = constrain(h.reshape(devices, -1, h.shape[-1]), "batch", None, None)
    states = jnp.take_along_axis(by_device, at.completions[..., None], 1, mode="fill", fill_value=0)
    targets = jnp.take_along_axis(tokens[:, 1:].reshape(devices, -1), at.chosen, 1, mode="fill", fill_value=0)
    pair = token_logprobs(states, unembedding(params, config), targets, temperature, chunk, head_of(config))

    def unpacked(values: jax.Array) -> jax.Array:
        empty = jnp.zeros(at.tokens.shape[1], values.dtype)
        whole = jax.vmap(lambda chosen, x: empty.at[chosen].set(x, mode="drop"))(at.chosen, values)
        return constrain(whole.reshape(tokens.shape[0], -1), "batch", None)

    logp, entropy = map(unpacked, pair)
    return logp, entropy, h, extras


@program(static_argnames=("config", "temperature", "microbatches", "chunk", "first"))
def batch_logprobs(
    params: Params,
    tokens: jax.Array,
    config: ModelConfig,
    temperature: float,
    microbatches: int,
    chunk: int,
    first: int = 0,
    experts: jax.Array | None = None,
    packed: tuple[jax.Array, Packing] | None = None,
) -> jax.Array:
    """Log-probabilities [B, T] of tokens[:, 1:] without gradient, for the old policy and the reference.

    Zero before position ``first``. experts: as in completion_logprobs. packed: the order of the sequences and their
    packing, from r1jax.rl.packing.plan; the values are then zero outside completions, and ``microbatches`` is not read.
    """
    params = prepare(params, config)

    def one(params: Params, rows: jax.Array, experts: jax.Array | None = None, part: Part | None = None) -> jax.Array:
        return completion_logprobs(params, rows, config, temperature, chunk, first, experts, part)[0]

    def of_microbatches(params: Params, rows: tuple[jax.Array, jax.Array | None]) -> jax.Array:
        return map_microbatches(lambda part: one(params, *part), rows, microbatches)

    def of_parts(params: Params, inputs: tuple[jax.Array, Packing]) -> jax.Array:
        tokens, packing = inputs

        def add(p: jax.Array, logp: jax.Array) -> jax.Array:
            rows, part = part_of(packing, tokens, p)
            return with_part(logp, one(params, rows, part=part), packing, p)

        return jax.lax.fori_loop(0, packing.parts, add, jnp.zeros(tokens[:, 1:].shape, jnp.float32))

    if packed is None:
        return over_rows(of_microbatches, params, (tokens, experts), config)
    order, packing = packed
    logp = over_rows(of_parts, params, (tokens[order], packing), config)
    return constrain(jnp.zeros_like(logp).at[order].set(logp), "batch", None)


def router_disagreement(extras: Extras, sampled: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sum and count of the choices of the routers whose set of experts differs from the sampled one: [] float32 each.

    A choice is that of a layer for a token of the mask [B, T]. sampled: [B, T, L, k].
    """
    routing = routing_of_layers(extras)
    assert routing is not None
    own = jnp.moveaxis(jnp.sort(routing.chosen, axis=-1), 0, 2)
    differs = (own != jnp.sort(sampled.astype(own.dtype), axis=-1)).any(axis=-1)  # [B, T, L]
    weight = mask.sum().astype(jnp.float32) * differs.shape[-1]
    return jnp.where(mask[..., None], differs, False).sum().astype(jnp.float32), weight


@jax.jit
def sampler_gap(old: jax.Array, sampler: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sum, count and maximum of |old - sampler| over the tokens [B, T] of the mask: [] float32 each."""
    gap = jnp.where(mask, jnp.abs(old - sampler), 0.0)
    return gap.sum(), mask.sum().astype(jnp.float32), gap.max()
