"""Samples from the policy: prefill, decoding and refilling of slots in one compiled program.

A queue of sequences feeds a fixed number of slots. When a sequence ends, its slot takes the next sequence in the same
step, so a long sequence does not block other slots. When the queue is empty and few slots are live, these move to a
loop with fewer slots; the last loop ends when all slots are idle. There is no host round trip.

A token depends only on (key, sequence id, position) and the policy, and not on slots, batch or mesh.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from r1jax.errors import UserError
from r1jax.kernels.decode_attention import Context
from r1jax.kernels.platform import choose
from r1jax.models.cache import Prefix, Ring, init_ring, prefill, split_cache
from r1jax.models.config import ModelConfig
from r1jax.models.experts import index_type
from r1jax.models.precision import einsum_f32
from r1jax.models.transformer import cast, param_specs, unembedding
from r1jax.sampling.decode import decode_step, decoding_layers
from r1jax.sampling.memory import choose_slots, device_queues, phases, prefill_rows
from r1jax.sampling.processors import Sampling, sample_token
from r1jax.sharding import Params, constrain, data_devices, gather_over_data

END, LENGTH = 0, 1  # finish reasons: an end token was drawn, or the limit was reached


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


@flax.struct.dataclass
class Queue:
    """N sequences of P prompts, in the order in which slots take them."""

    prompts: jax.Array  # [P, Tp] int32, padded on the right
    prompt_lengths: jax.Array  # [P] int32
    prompt_of: jax.Array  # [N] int32: sorted, with the same number of sequences per prompt
    limits: jax.Array  # [N] int32, maximum length of the completion
    ids: jax.Array  # [N] int32, folded into the random key


@flax.struct.dataclass
class _State:
    step: jax.Array  # [] int32
    next: jax.Array  # [] int32, next row of the queue
    sequence: jax.Array  # [S] int32, row of the queue in each slot; N if idle
    token: jax.Array  # [S] int32, next input token
    age: jax.Array  # [S] int32, tokens of the sequence in the ring
    ring: Ring
    samples: Samples


def sample(
    params: Params,
    prompts: Sequence[Sequence[int]],
    config: ModelConfig,
    key: jax.Array,
    *,
    sampling: Sampling,
    end_tokens: Sequence[int],
    samples_per_prompt: int = 1,
    limits: Sequence[int] | np.ndarray | None = None,
    sequence_ids: Sequence[int] | np.ndarray | None = None,
    prompt_width: int = 0,
    keep_routing: bool = False,
) -> Samples:
    """Draws ``samples_per_prompt`` completions of each prompt; row p * samples_per_prompt + i is sample i of prompt p.

    Args:
      params: weights of any type, cast to config.dtype.
      prompts: token ids, at least one per prompt.
      config: the model.
      key: random key; the caller folds seed and step into it.
      sampling: temperature, truncation, slots, and max_tokens (M, the width of the result).
      end_tokens: ids that end a sequence; empty for fixed lengths.
      samples_per_prompt: group size.
      limits: maximum length of each completion, 1..M; max_tokens if not given.
      sequence_ids: N ids for the random keys; arange(N) if not given. Calls with distinct ids draw distinct samples.
      prompt_width: minimum padded length of prompts, so that calls with other prompts reuse the compiled program.
      keep_routing: with the experts of each token, if the model has experts.

    Raises:
      UserError: if a prompt is empty, a prompt and its limit exceed the context, or memory does not suffice.
    """
    queue = make_queue(prompts, config, sampling, samples_per_prompt, limits, sequence_ids, prompt_width)
    P, width = queue.prompts.shape
    keep_routing = keep_routing and config.experts is not None
    slots = choose_slots(
        config, sampling, params, prompts=P, width=width, sequences=len(queue.limits), keep_routing=keep_routing
    )
    widths = phases(slots, data_devices())
    return sample_queue(params, queue, key, config, sampling, tuple(end_tokens), widths, keep_routing)


def make_queue(
    prompts: Sequence[Sequence[int]],
    config: ModelConfig,
    sampling: Sampling,
    samples_per_prompt: int = 1,
    limits: Sequence[int] | np.ndarray | None = None,
    sequence_ids: Sequence[int] | np.ndarray | None = None,
    prompt_width: int = 0,
) -> Queue:
    """Checks the arguments of sample and converts them to arrays; raises UserError as sample does."""
    lengths = np.array([len(p) for p in prompts], np.int32)
    if not len(lengths) or not lengths.min():
        raise UserError("every prompt needs at least one token")
    width = max(prompt_width, int(lengths.max()))
    N = len(prompts) * samples_per_prompt
    limits = np.full(N, sampling.max_tokens) if limits is None else np.asarray(limits)
    ids = np.arange(N) if sequence_ids is None else np.asarray(sequence_ids)
    if limits.shape != (N,) or ids.shape != (N,):
        raise UserError(
            f"limits {limits.shape} and sequence_ids {ids.shape} must each have one entry for {N} sequences"
        )
    if limits.min() < 1 or limits.max() > sampling.max_tokens:
        raise UserError(f"limits range from {limits.min()} to {limits.max()}, outside 1..{sampling.max_tokens}")
    total = int((np.repeat(lengths, samples_per_prompt) + limits).max())
    if total > config.context_length:
        raise UserError(
            f"a prompt of {lengths.max()} tokens and {limits.max()} new ones are {total}, "
            f"but the model's context is {config.context_length}: lower max-tokens or shorten the prompt"
        )
    return Queue(
        prompts=jnp.asarray(padded_prompts(prompts, width)),
        prompt_lengths=jnp.asarray(lengths),
        prompt_of=jnp.asarray(np.repeat(np.arange(len(prompts)), samples_per_prompt), jnp.int32),
        limits=jnp.asarray(limits, jnp.int32),
        ids=jnp.asarray(ids, jnp.int32),
    )


def padded_prompts(prompts: Sequence[Sequence[int]], width: int) -> np.ndarray:
    """Token ids of P prompts, padded with zeros on the right: [P, width] int32."""
    rows = np.zeros((len(prompts), width), np.int32)
    for row, prompt in zip(rows, prompts, strict=True):
        row[: len(prompt)] = prompt
    return rows


# For the small products of a decoding step, cuBLAS is faster than the split kernels that XLA generates.
DECODING_OPTIONS = {"xla_gpu_enable_triton_gemm": False}


@partial(
    jax.jit,
    static_argnames=("config", "sampling", "end_tokens", "widths", "keep_routing"),
    compiler_options=DECODING_OPTIONS,
)
def sample_queue(
    params: Params,
    queue: Queue,
    key: jax.Array,
    config: ModelConfig,
    sampling: Sampling,
    end_tokens: tuple[int, ...],
    widths: tuple[int, ...],
    keep_routing: bool = False,
) -> Samples:
    """Samples for every row of the queue, in one compiled program.

    ``widths`` are decreasing numbers of slots, one per loop. Each loop but the last ends when the queue is empty and
    the live sequences fit into the next one. If the mesh has only a data axis that divides the prompts, each device has
    its own queue and slots and does not wait for others. Otherwise the compiler splits the slots of one queue.
    """
    # Decoding reads every weight once per token, so weights are gathered once, before the loop.
    params = gather_over_data(cast(params, config), param_specs(config), decoding=True)
    data = device_queues(len(queue.prompts), len(queue.prompt_of))
    if data == 1:
        return _sample_queue(params, queue, key, config, sampling, end_tokens, widths, keep_routing)

    def on_device(params: Params, queue: Queue, key: jax.Array) -> Samples:
        first = jax.lax.axis_index("data") * len(queue.prompts)  # prompts are in the order of the sequences
        own = dataclasses.replace(queue, prompt_of=queue.prompt_of - first)
        own_widths = phases(-(-widths[0] // data))
        samples = _sample_queue(params, own, key, config, sampling, end_tokens, own_widths, keep_routing)
        return dataclasses.replace(samples, steps=samples.steps[None])

    split = jax.shard_map(
        on_device,
        in_specs=(PartitionSpec(), PartitionSpec("data"), PartitionSpec()),
        out_specs=PartitionSpec("data"),
        check_vma=False,
    )
    samples = split(params, queue, key)
    samples = dataclasses.replace(samples, steps=samples.steps.max())
    return jax.tree.map(lambda x: constrain(x, *[None] * x.ndim), samples)  # replicated on every host


def _sample_queue(
    params: Params,
    queue: Queue,
    key: jax.Array,
    config: ModelConfig,
    sampling: Sampling,
    end_tokens: tuple[int, ...],
    widths: tuple[int, ...],
    keep_routing: bool,
) -> Samples:
    layers = decoding_layers(params, config)
    output = unembedding(params, config)
    prefix = prefill(params, queue.prompts, config, prefill_rows(*queue.prompts.shape), keep_routing)
    N = queue.prompt_of.shape[0]

    def live(state: _State) -> jax.Array:
        return (state.sequence < N).sum()

    def step(state: _State) -> _State:
        row = jnp.minimum(state.sequence, N - 1)  # idle slots compute an existing row, and the result is dropped
        prompt = queue.prompt_of[row]
        context = Context(prompt, queue.prompt_lengths[prompt] - 1, state.age)
        hidden, ring, experts = decode_step(
            params, layers, state.token, prefix, state.ring, context, state.step, config
        )
        logits = constrain(einsum_f32("sd,dv->sv", hidden, output), "slots", "vocab")
        words = random_words(key, queue.ids[row], state.age)
        token, logprob, sampling_logprob = sample_token(logits, words, sampling, choose(config.kernels))
        ended = is_any_of(token, end_tokens)
        done = (state.sequence < N) & (ended | (state.age + 1 >= queue.limits[row]))
        samples = _record(state, token, logprob, sampling_logprob, done, ended)
        if samples.experts is not None and experts is not None:
            at = (state.sequence, context.prefix_length + state.age)
            kept = samples.experts.at[at].set(experts.astype(samples.experts.dtype), mode="drop")
            samples = dataclasses.replace(samples, experts=kept)
        return _refill(dataclasses.replace(state, ring=ring, samples=samples, step=state.step + 1), token, done, queue)

    state = _start(queue, prefix, config, sampling, widths[0])
    for next_width in widths[1:]:
        state = jax.lax.while_loop(lambda s, w=next_width: (s.next < N) | (live(s) > w), step, state)
        state = _narrow(state, next_width)
    return jax.lax.while_loop(lambda s: live(s) > 0, step, state).samples


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


def _last_token(queue: Queue, row: jax.Array) -> jax.Array:
    prompt = queue.prompt_of[row]
    return queue.prompts[prompt, queue.prompt_lengths[prompt] - 1]


def _start(queue: Queue, prefix: Prefix, config: ModelConfig, sampling: Sampling, slots: int) -> _State:
    N, M = queue.prompt_of.shape[0], sampling.max_tokens
    first = jnp.arange(slots, dtype=jnp.int32)
    per_token = jnp.zeros((N, M), jnp.float32)
    per_sequence = jnp.zeros(N, jnp.int32)
    zero = jnp.zeros((), jnp.int32)
    experts = None
    if prefix.experts is not None:  # positions from the last token of a prompt on are replaced in decoding
        of_prompts = prefix.experts.astype(index_type(config))[queue.prompt_of]
        experts = jnp.pad(of_prompts, ((0, 0), (0, M - 1), (0, 0), (0, 0)))
    return _State(
        step=zero,
        next=jnp.int32(slots),
        sequence=jnp.minimum(first, N),
        token=_last_token(queue, jnp.minimum(first, N - 1)),
        age=jnp.zeros(slots, jnp.int32),
        ring=init_ring(slots, M, config),
        samples=Samples(
            tokens=jnp.zeros((N, M), jnp.int32),
            lengths=per_sequence,
            finish=per_sequence,
            logprobs=per_token,
            sampling_logprobs=per_token,
            steps=zero,
            experts=experts,
        ),
    )


def _record(
    state: _State, token: jax.Array, logprob: jax.Array, sampling_logprob: jax.Array, done: jax.Array, ended: jax.Array
) -> Samples:
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


def _narrow(state: _State, width: int) -> _State:
    """Moves the live sequences, at most ``width``, to a state with ``width`` slots."""
    kept = jnp.argsort(state.sequence)[:width]  # idle slots sort last
    ring = jax.tree.map(lambda x: split_cache(x[kept], "slots"), state.ring)
    return dataclasses.replace(
        state, sequence=state.sequence[kept], token=state.token[kept], age=state.age[kept], ring=ring
    )


def _refill(state: _State, token: jax.Array, done: jax.Array, queue: Queue) -> _State:
    """Assigns the next rows of the queue to slots whose sequence is done; other slots continue with their token."""
    N = queue.prompt_of.shape[0]
    place = state.next + jnp.cumsum(done) - 1
    sequence = jnp.where(done, jnp.minimum(place, N), state.sequence).astype(jnp.int32)
    first = _last_token(queue, jnp.minimum(sequence, N - 1))
    return dataclasses.replace(
        state,
        next=(state.next + done.sum()).astype(jnp.int32),
        sequence=sequence,
        token=jnp.where(done, first, token),
        age=jnp.where(done | (sequence >= N), 0, state.age + 1),
    )
