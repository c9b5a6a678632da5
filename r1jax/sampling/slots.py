"""The state of sampling: a queue of sequences, the slots that decode them, and the samples."""

from __future__ import annotations

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from r1jax.models.cache import Prefix, Ring, SlotCache, split_cache
from r1jax.models.config import ModelConfig
from r1jax.models.experts import index_type
from r1jax.sampling.processors import Sampling

END, LENGTH = 0, 1  # finish reasons: an end token was drawn, or the limit was reached
NONE = -1  # in place of a proposed token


@flax.struct.dataclass
class Samples:
    """Completions, one row per sequence."""

    tokens: jax.Array  # [N, M] int32, including the end token, padded with zeros
    lengths: jax.Array  # [N] int32
    finish: jax.Array  # [N] int32, END or LENGTH
    logprobs: jax.Array  # [N, M] float32 under the policy softmax(logits / temperature), as in training
    sampling_logprobs: jax.Array  # [N, M] float32 under the truncated, renormalised distribution
    steps: jax.Array  # [] int32, decoding steps, maximum over devices
    experts: jax.Array | None = None  # [N, Tp + M - 1, L, k] uint8 or uint16, if asked for; at position t of prompt and
    # completion the experts of its token in the layers with experts, except that of the last token, which is not used
    proposed: jax.Array | None = None  # [N] int32, proposed tokens that were verified, if tokens are proposed
    accepted: jax.Array | None = None  # [N] int32, those of them that were drawn, too


@flax.struct.dataclass
class Queue:
    """N sequences of P prompts, in the order in which slots take them at first."""

    prompts: jax.Array  # [P, Tp] int32, padded on the right
    prompt_lengths: jax.Array  # [P] int32
    prompt_of: jax.Array  # [N] int32: sorted, with the same number of sequences per prompt
    limits: jax.Array  # [N] int32, maximum length of the completion
    ids: jax.Array  # [N] int32, folded into the random key


@flax.struct.dataclass
class State:
    """The state of decoding."""

    step: jax.Array  # [] int32
    order: jax.Array  # [N] int32, rows of the queue in the order in which slots take them
    next: jax.Array  # [] int32, place in this order of the next row
    sequence: jax.Array  # [S] int32, row of the queue in each slot; N if idle
    token: jax.Array  # [S] int32, next input token
    age: jax.Array  # [S] int32, tokens of the sequence in the cache
    cache: Ring | SlotCache  # a SlotCache if tokens are proposed and verified
    samples: Samples
    proposed: jax.Array | None = None  # [S, m - 1] int32, tokens proposed to follow ``token``; -1: none


def random_words(key: jax.Array, ids: jax.Array, positions: jax.Array) -> jax.Array:
    """Two random uint32 words [S, 2] for each (sequence, position), independent of slots and mesh."""

    def one(sequence: jax.Array, position: jax.Array) -> jax.Array:
        return jax.random.bits(jax.random.fold_in(jax.random.fold_in(key, sequence), position), (2,))

    return jax.vmap(one)(ids, positions)


def is_any_of(tokens: jax.Array, ids: tuple[int, ...]) -> jax.Array:
    """True where a token is one of the ids: bool, the shape of tokens."""
    ended = jnp.zeros(tokens.shape, bool)
    for i in ids:  # a loop, since an empty array in shard_map crashes the compiler of jax 0.11
        ended |= tokens == i
    return ended


def last_token(queue: Queue, row: jax.Array) -> jax.Array:
    """The last token of the prompt of each row of the queue."""
    prompt = queue.prompt_of[row]
    return queue.prompts[prompt, queue.prompt_lengths[prompt] - 1]


def start(
    queue: Queue,
    prefix: Prefix,
    cache: Ring | SlotCache,
    config: ModelConfig,
    sampling: Sampling,
    slots: int,
    proposals: int = 0,
) -> State:
    """The state before the first step; proposals: tokens that the first steps may verify."""
    N, M = queue.prompt_of.shape[0], sampling.max_tokens
    first = jnp.arange(slots, dtype=jnp.int32)
    per_token = jnp.zeros((N, M), jnp.float32)
    per_sequence = jnp.zeros(N, jnp.int32)
    zero = jnp.zeros((), jnp.int32)
    experts = None
    if prefix.experts is not None:  # positions from the last token of a prompt on are replaced in decoding
        of_prompts = prefix.experts.astype(index_type(config))[queue.prompt_of]
        experts = jnp.pad(of_prompts, ((0, 0), (0, M - 1), (0, 0), (0, 0)))
    return State(
        step=zero,
        order=jnp.arange(N, dtype=jnp.int32),
        next=jnp.int32(slots),
        sequence=jnp.minimum(first, N),
        token=last_token(queue, jnp.minimum(first, N - 1)),
        age=jnp.zeros(slots, jnp.int32),
        cache=cache,
        samples=Samples(
            tokens=jnp.zeros((N, M), jnp.int32),
            lengths=per_sequence,
            finish=per_sequence,
            logprobs=per_token,
            sampling_logprobs=per_token,
            steps=zero,
            experts=experts,
            proposed=per_sequence if sampling.proposals else None,
            accepted=per_sequence if sampling.proposals else None,
        ),
        proposed=jnp.full((slots, proposals), NONE) if proposals else None,
    )


def start_proposing(state: State, proposals: int) -> State:
    """Moves the rings to caches of the slots, and makes room for proposed tokens, of which there are none yet."""

    def turned(ring: jax.Array) -> jax.Array:
        return in_order(ring, state.step, state.age, ring.shape[-2])

    return dataclasses.replace(
        state,
        cache=SlotCache(jax.tree.map(turned, state.cache.layers)),
        proposed=jnp.full((len(state.sequence), proposals), NONE),
    )


def in_order(ring: jax.Array, step: jax.Array, age: jax.Array, entries: int) -> jax.Array:
    """The array of a SlotCache with ``entries`` entries from one of a Ring [S, ..., R, width]; ``step`` is the next."""
    at = (step - age[:, None] + jnp.arange(entries)) % ring.shape[-2]  # of the i-th token of each slot in its ring
    return split_cache(jax.vmap(lambda one, at: one[..., at, :])(ring, at), "slots")


def record(
    state: State, token: jax.Array, logprob: jax.Array, sampling_logprob: jax.Array, done: jax.Array, ended: jax.Array
) -> Samples:
    """The samples with one more token [S] of each slot; done: [S] bool, the last one of its sequence."""
    old = state.samples
    at = (state.sequence, state.age)  # idle slots have row N, which mode="drop" ignores
    finished = jnp.where(done, state.sequence, old.lengths.shape[0])
    return dataclasses.replace(
        old,
        tokens=old.tokens.at[at].set(token, mode="drop"),
        logprobs=old.logprobs.at[at].set(logprob, mode="drop"),
        sampling_logprobs=old.sampling_logprobs.at[at].set(sampling_logprob, mode="drop"),
        lengths=old.lengths.at[finished].set(state.age + 1, mode="drop"),
        finish=old.finish.at[finished].set(jnp.where(ended, END, LENGTH), mode="drop"),
        steps=state.step + 1,
    )


def narrow(state: State, width: int) -> State:
    """Moves the live sequences, at most ``width``, to a state with ``width`` slots."""
    kept = jnp.argsort(state.sequence)[:width]  # idle slots sort last
    cache = jax.tree.map(lambda x: split_cache(x[kept], "slots"), state.cache)
    proposed = None if state.proposed is None else state.proposed[kept]
    return dataclasses.replace(
        state,
        sequence=state.sequence[kept],
        token=state.token[kept],
        age=state.age[kept],
        cache=cache,
        proposed=proposed,
    )


def refill(state: State, token: jax.Array, done: jax.Array, queue: Queue, drawn: jax.Array | int = 1) -> State:
    """Assigns the next rows of the queue to slots whose sequence is done; other slots continue with their token.

    drawn: tokens that the step added to the sequence of each slot; ``token`` is the last of them.
    """
    N = queue.prompt_of.shape[0]
    place = state.next + jnp.cumsum(done) - 1
    following = jnp.where(place < N, state.order[jnp.minimum(place, N - 1)], N)
    sequence = jnp.where(done, following, state.sequence).astype(jnp.int32)
    first = last_token(queue, jnp.minimum(sequence, N - 1))
    return dataclasses.replace(
        state,
        next=(state.next + done.sum()).astype(jnp.int32),
        sequence=sequence,
        token=jnp.where(done, first, token),
        age=jnp.where(done | (sequence >= N), 0, state.age + drawn),
    )
