"""Samples from the policy: prefill, decoding and refilling of slots in one compiled program.

A queue of sequences feeds a fixed number of slots. When a sequence ends, its slot takes the next sequence in the same
step, so a long sequence does not block other slots. When the queue is empty and few slots are live, these move to a
loop with fewer slots; the last loop ends when all slots are idle. There is no host round trip.

A token depends only on (key, sequence id, position) and the policy, and not on slots, batch or mesh. With a draft
(r1jax.sampling.speculative) a step may add several tokens to a sequence, which are the same tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from r1jax.errors import UserError
from r1jax.kernels.decode_attention import Context
from r1jax.models.cache import Prefix, Ring, init_ring, init_slot_cache, prefill
from r1jax.models.config import ModelConfig
from r1jax.models.mtp import first_mtp, without_mtp
from r1jax.models.transformer import cast, param_specs, unembedding
from r1jax.sampling.decode import Weights, decode_step, decoding_layers
from r1jax.sampling.head import next_token
from r1jax.sampling.memory import choose_slots, device_queues, phases, prefill_rows
from r1jax.sampling.processors import Sampling
from r1jax.sampling.slots import (
    Queue,
    Samples,
    State,
    is_any_of,
    narrow,
    random_words,
    record,
    refill,
    start,
    start_proposing,
)
from r1jax.sampling.speculative import check_draft, verifying_step
from r1jax.sharding import Params, constrain, data_devices, gather_over_data


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
      UserError: if a prompt is empty, a prompt and its limit exceed the context, memory does not suffice, or the model
        has no layer for the draft.
    """
    check_draft(sampling, config)
    if sampling.draft != "mtp":
        params, config = without_mtp(params, config)
    queue = make_queue(prompts, config, sampling, samples_per_prompt, limits, sequence_ids, prompt_width)
    P, width = queue.prompts.shape
    keep_routing = keep_routing and config.experts is not None
    slots = choose_slots(
        config, sampling, params, prompts=P, width=width, sequences=len(queue.limits), keep_routing=keep_routing
    )
    widths = phases(slots, data_devices(), sampling)
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
    if sampling.draft == "mtp":
        params, config = first_mtp(params, config)
    # Decoding reads every weight once per token, so weights are gathered once, before the loop.
    params = gather_over_data(cast(params, config), param_specs(config), decoding=True)
    data = device_queues(len(queue.prompts), len(queue.prompt_of))
    if data == 1:
        return _sample_queue(params, queue, key, config, sampling, end_tokens, widths, keep_routing)

    def on_device(params: Params, queue: Queue, key: jax.Array) -> Samples:
        first = jax.lax.axis_index("data") * len(queue.prompts)  # prompts are in the order of the sequences
        own = dataclasses.replace(queue, prompt_of=queue.prompt_of - first)
        own_widths = phases(-(-widths[0] // data), 1, sampling)
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
    mtp = sampling.draft == "mtp"
    weights = Weights(params, decoding_layers(params, config), unembedding(params, config))
    # Prompts are a small part of the work, and a block for each layer would take seconds to compile.
    rolled = dataclasses.replace(config, unroll=False)
    prefix = prefill(params, queue.prompts, rolled, prefill_rows(*queue.prompts.shape), keep_routing, mtp)
    N, M = queue.prompt_of.shape[0], sampling.max_tokens
    arguments = (weights, queue, prefix, key, config, sampling, end_tokens)
    single, several = _single_step(*arguments), verifying_step(*arguments) if sampling.proposals else None

    def proposing(slots: int) -> bool:
        return mtp or (several is not None and slots <= sampling.draft_slots * data_devices())

    if proposing(widths[0]):
        cache, proposals = init_slot_cache(widths[0], M, config, mtp), sampling.proposals
    else:
        cache, proposals = init_ring(widths[0], M, config), 0
    state = start(queue, prefix, cache, config, sampling, widths[0], proposals)

    def live(state: State) -> jax.Array:
        return (state.sequence < N).sum()

    for width, next_width in zip(widths, (*widths[1:], 0), strict=True):
        if proposing(width) and state.proposed is None:
            state = start_proposing(state, sampling.proposals)
        step = single if several is None or state.proposed is None else several
        state = jax.lax.while_loop(lambda s, w=next_width: (s.next < N) | (live(s) > w), step, state)
        if next_width:
            state = narrow(state, next_width)
    return state.samples


def _single_step(
    weights: Weights,
    queue: Queue,
    prefix: Prefix,
    key: jax.Array,
    config: ModelConfig,
    sampling: Sampling,
    end_tokens: tuple[int, ...],
) -> Callable[[State], State]:
    """The function that decodes one token per slot."""
    params, layers = weights.params, weights.layers
    N = queue.prompt_of.shape[0]

    def step(state: State) -> State:
        assert isinstance(state.cache, Ring)
        row = jnp.minimum(state.sequence, N - 1)  # idle slots compute an existing row, and the result is dropped
        prompt = queue.prompt_of[row]
        context = Context(prompt, queue.prompt_lengths[prompt] - 1, state.age)
        hidden, ring, experts = decode_step(
            params, layers, state.token, prefix, state.cache, context, state.step, config
        )
        words = random_words(key, queue.ids[row], state.age)
        token, logprob, sampling_logprob = next_token(weights, hidden, words, config, sampling)
        ended = is_any_of(token, end_tokens)
        done = (state.sequence < N) & (ended | (state.age + 1 >= queue.limits[row]))
        samples = record(state, token, logprob, sampling_logprob, done, ended)
        if samples.experts is not None and experts is not None:
            at = (state.sequence, context.prefix_length + state.age)
            kept = samples.experts.at[at].set(experts.astype(samples.experts.dtype), mode="drop")
            samples = dataclasses.replace(samples, experts=kept)
        return refill(dataclasses.replace(state, cache=ring, samples=samples, step=state.step + 1), token, done, queue)

    return step
