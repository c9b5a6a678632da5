"""Speculative decoding: a draft proposes the next tokens of each slot, and one pass of the model verifies them.

A token is a function of its logits and of its own random number (r1jax.sampling.processors). So a proposal is verified
exactly, and not in distribution as in arXiv 2211.17192: it is accepted if it is the token that is drawn. The samples
are those of decoding one token per step, up to the rounding of the logits.

The draft "mtp" is the model's first layer of multi-token prediction (arXiv 2412.19437, section 2.2), which proposes one
token. It draws it with the random number of the token that it proposes: where the distributions of layer and model are
equal, so are the two tokens, at any temperature. The draft "ngram" proposes what followed the newest tokens in the
texts of the group (r1jax.sampling.ngram), so it depends on which other completions are known at a step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from r1jax.errors import UserError
from r1jax.kernels.decode_attention import Context
from r1jax.models.cache import Prefix, SlotCache
from r1jax.models.config import ModelConfig
from r1jax.models.layers import mtp_run
from r1jax.models.mtp import combined
from r1jax.models.norm import rms_norm
from r1jax.models.precision import einsum_f32
from r1jax.models.transformer import embed
from r1jax.sampling.block import block_layer, block_rotation, decode_block
from r1jax.sampling.decode import Stored, Weights, decoding_layer, in_step
from r1jax.sampling.head import token_of
from r1jax.sampling.ngram import continuations, texts_of
from r1jax.sampling.processors import Sampling
from r1jax.sampling.slots import END, LENGTH, NONE, Queue, Samples, State, is_any_of, random_words, refill
from r1jax.sharding import constrain


def check_draft(sampling: Sampling, config: ModelConfig) -> None:
    """Raises UserError if the model does not have the layer that proposes tokens."""
    if sampling.draft == "mtp" and not config.mtp_layers:
        raise UserError(
            "sampling.draft=mtp: the model has no layer of multi-token prediction: leave it out, or choose a model "
            "with such a layer"
        )


@flax.struct.dataclass
class Verified:
    """What a draft may read of a step."""

    states: jax.Array  # [S, m, D] of the tokens that were decoded
    tokens: jax.Array  # [S, m] int32, drawn after each of them
    number: jax.Array  # [S] int32, how many of the drawn tokens count, at least 1
    row: jax.Array  # [S] int32, row of the queue
    context: Context  # before the step
    words: jax.Array  # [S, 2] uint32, random words of the next token
    samples: Samples  # with the tokens that count
    lengths: jax.Array  # [N] int32, tokens of each completion in ``samples``


# -> proposed tokens [S, m - 1], and the cache
Propose = Callable[[Verified, SlotCache], tuple[jax.Array, SlotCache]]


def verifying_step(
    weights: Weights | Stored,
    queue: Queue,
    prefix: Prefix,
    key: jax.Array,
    config: ModelConfig,
    sampling: Sampling,
    end_tokens: tuple[int, ...],
) -> Callable[[State], State]:
    """The function that decodes the newest token of each slot and the m - 1 tokens proposed to follow it.

    Of the m tokens that it draws, a slot keeps the first, and each further one while the proposals before it are right.
    """
    propose = mtp_draft(weights, prefix, config, sampling) if sampling.draft == "mtp" else ngram_draft(queue, sampling)
    N = queue.prompt_of.shape[0]

    def step(state: State) -> State:
        assert isinstance(state.cache, SlotCache) and state.proposed is not None
        read = in_step(weights, config)
        tokens = jnp.concatenate([state.token[:, None], state.proposed], axis=1)
        S, m = tokens.shape
        row = jnp.minimum(state.sequence, N - 1)  # idle slots compute an existing row, and the result is dropped
        prompt = queue.prompt_of[row]
        context = Context(prompt, queue.prompt_lengths[prompt] - 1, state.age)
        hidden, cache, experts = decode_block(
            read.params, read.layers, jnp.maximum(tokens, 0), prefix, state.cache, context, config
        )
        logits = constrain(einsum_f32("smd,dv->smv", hidden, read.output), "slots", None, "vocab")
        places = state.age[:, None] + jnp.arange(m)  # of the drawn tokens in the completion
        words = random_words(key, jnp.repeat(queue.ids[row], m), places.reshape(-1))
        drawn = token_of(logits.reshape(S * m, -1), words, config, sampling)
        token, logprob, sampling_logprob = (x.reshape(S, m) for x in drawn)

        right = jnp.cumprod(token[:, :-1] == state.proposed, axis=1, dtype=jnp.int32)
        ended = is_any_of(token, end_tokens)
        last = (ended | (places + 1 >= queue.limits[row][:, None])).astype(jnp.int32)
        unfinished = jnp.cumsum(last, axis=1) == last  # no token before is the last one
        counts = jnp.pad(right, ((0, 0), (1, 0)), constant_values=1).astype(bool) & unfinished
        number = counts.sum(axis=1)
        done = (state.sequence < N) & (counts & (last > 0)).any(axis=1)
        samples = _record(state, (token, logprob, sampling_logprob), counts, done, ended, right)
        if samples.experts is not None and experts is not None:
            at = (jnp.where(counts, state.sequence[:, None], N), context.prefix_length[:, None] + places)
            kept = samples.experts.at[at].set(experts.astype(samples.experts.dtype), mode="drop")
            samples = dataclasses.replace(samples, experts=kept)

        newest = jnp.take_along_axis(token, number[:, None] - 1, axis=1)[:, 0]
        words = random_words(key, queue.ids[row], state.age + number)
        lengths = samples.lengths.at[state.sequence].set(state.age + number, mode="drop")
        proposed, cache = propose(Verified(hidden, token, number, row, context, words, samples, lengths), cache)
        state = dataclasses.replace(
            state, cache=cache, samples=samples, step=state.step + 1, proposed=jnp.where(done[:, None], NONE, proposed)
        )
        return refill(state, newest, done, queue, number)

    return step


def mtp_draft(weights: Weights | Stored, prefix: Prefix, config: ModelConfig, sampling: Sampling) -> Propose:
    """The draft of the first layer of multi-token prediction, whose cache follows those of the decoder's layers."""
    run, params = mtp_run(config), weights.params
    assert run is not None
    layer = decoding_layer(params, run, 0, config)

    def propose(step: Verified, cache: SlotCache) -> tuple[jax.Array, SlotCache]:
        x = combined(step.states, embed(params, step.tokens, config), layer, config)
        context = step.context
        rotation = block_rotation(context, step.tokens.shape[1], config)
        # What is written for rejected tokens is beyond the sequence, and overwritten in the next step.
        x, own, _ = block_layer(x, layer, run, rotation, prefix.layers[-1], cache.layers[-1], context, config)
        newest = jnp.take_along_axis(x, step.number[:, None, None] - 1, axis=1)[:, 0]
        h = rms_norm(newest, layer["final_norm"], config.norm_eps)
        logits = constrain(einsum_f32("sd,dv->sv", h, in_step(weights, config).output), "slots", "vocab")
        token = token_of(logits, step.words, config, sampling)[0]
        return token[:, None], SlotCache((*cache.layers[:-1], own))

    return propose


def ngram_draft(queue: Queue, sampling: Sampling) -> Propose:
    """The draft that looks up the newest tokens in the texts of the group."""

    def propose(step: Verified, cache: SlotCache) -> tuple[jax.Array, SlotCache]:
        texts = texts_of(queue, step.row, step.samples.tokens, step.lengths)
        return continuations(texts, sampling.proposals), cache

    return propose


def _record(
    state: State,
    drawn: tuple[jax.Array, jax.Array, jax.Array],
    counts: jax.Array,
    done: jax.Array,
    ended: jax.Array,
    right: jax.Array,
) -> Samples:
    """The samples with the drawn tokens that count.

    Args:
      state: before the step.
      drawn: tokens and their log-probabilities as in Samples, [S, m] each.
      counts: [S, m] bool, the drawn tokens that are part of the sequence: the first ones of each slot.
      done: [S] bool, if the last of them ends the sequence.
      ended: [S, m] bool, the end tokens.
      right: [S, m - 1] int32, 1 for a proposed token that was drawn, as all proposed before it.
    """
    old, number = state.samples, counts.sum(axis=1)
    N = old.lengths.shape[0]
    assert old.proposed is not None and old.accepted is not None and state.proposed is not None
    at = (jnp.where(counts, state.sequence[:, None], N), state.age[:, None] + jnp.arange(counts.shape[1]))
    tokens, logprobs, sampling_logprobs = (
        before.at[at].set(new, mode="drop")
        for before, new in zip((old.tokens, old.logprobs, old.sampling_logprobs), drawn, strict=True)
    )
    finished = jnp.where(done, state.sequence, N)
    by_end = (counts & ended).any(axis=1)
    return dataclasses.replace(
        old,
        tokens=tokens,
        logprobs=logprobs,
        sampling_logprobs=sampling_logprobs,
        lengths=old.lengths.at[finished].set(state.age + number, mode="drop"),
        finish=old.finish.at[finished].set(jnp.where(by_end, END, LENGTH), mode="drop"),
        steps=state.step + 1,
        proposed=old.proposed.at[state.sequence].add((state.proposed != NONE).sum(axis=1), mode="drop"),
        accepted=old.accepted.at[state.sequence].add(right.sum(axis=1), mode="drop"),
    )
