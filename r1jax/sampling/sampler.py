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

from r1jax.kernels.decode_attention import Context
from r1jax.models.cache import Prefix, Ring, init_ring, init_slot_cache, prefill, ring_length
from r1jax.models.config import ModelConfig
from r1jax.models.mtp import first_mtp, without_mtp
from r1jax.models.shares import share
from r1jax.models.transformer import cast, param_specs
from r1jax.sampling.decode import Stored, Weights, decode_step, in_step, weights_of
from r1jax.sampling.head import next_token
from r1jax.sampling.levels import Loop, fewer_slots, move, proposals_with, refills, run_level, slots_of_queue
from r1jax.sampling.memory import Level, Request, choose_levels, device_queues, phases, prefill_rows
from r1jax.sampling.over_queues import PREFIX, ROWS, STATE, over_queues
from r1jax.sampling.processors import Sampling
from r1jax.sampling.queues import make_queue
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
    levels = choose_levels(Request(config, sampling, params, P, width, len(queue.limits), keep_routing))
    first, *longer = levels
    if longer:
        return sample_in_levels(params, queue, key, config, sampling, tuple(end_tokens), levels, keep_routing)
    widths = phases(first.slots, data_devices(), sampling)
    return sample_queue(params, queue, key, config, sampling, tuple(end_tokens), widths, keep_routing)


# For the small products of a decoding step, cuBLAS is faster than the split kernels that XLA generates. Products with
# the same input are not merged, since the loop would join their matrices in each step.
DECODING_OPTIONS = {"xla_gpu_enable_triton_gemm": False, "xla_gpu_dot_merger_threshold_mb": 0}


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
    the live sequences fit into the next one. If the mesh divides prompts and model (memory.has_own_queues), each
    position of its data axis has its own queue and slots and does not wait for others; the devices of a model axis
    compute each step together. Otherwise the compiler splits the slots and the model of one queue.
    """
    params, config = _decoding_params(params, config, sampling)
    queues = device_queues(len(queue.prompts), len(queue.prompt_of), config)
    own_widths = widths if queues == 1 else phases(-(-widths[0] // queues), 1, sampling)

    def one(queue: Queue, _: None, params: Params, key: jax.Array) -> Samples:
        params, own = share(params, config)
        return _sample_queue(params, queue, key, own, sampling, end_tokens, own_widths, keep_routing)

    return together(over_queues(one, queue, None, params, key, config=config, split=None, out=ROWS))


def _decoding_params(params: Params, config: ModelConfig, sampling: Sampling) -> tuple[Params, ModelConfig]:
    """The weights that sampling uses in config.dtype, and their config."""
    if sampling.draft == "mtp":
        params, config = first_mtp(params, config)
    # Decoding reads every weight once per token, so weights are gathered once, before the loop.
    return gather_over_data(cast(params, config), param_specs(config), decoding=True), config


@jax.jit
def together(samples: Samples) -> Samples:
    """The samples of one queue, or of several, on every host."""
    samples = dataclasses.replace(samples, steps=samples.steps.max())
    return jax.tree.map(lambda x: constrain(x, *[None] * x.ndim), samples)


def sample_in_levels(
    params: Params,
    queue: Queue,
    key: jax.Array,
    config: ModelConfig,
    sampling: Sampling,
    end_tokens: tuple[int, ...],
    levels: tuple[Level, ...],
    keep_routing: bool = False,
    ended: Callable[[Loop], None] = lambda loop: None,
) -> Samples:
    """Samples for every row of the queue, with rings that grow; see r1jax.sampling.levels.

    ``ended`` is called after each loop.
    """
    queues = device_queues(len(queue.prompts), len(queue.limits), config)
    at, slots = 0, levels[0].slots // queues
    prefix, state = first_level(params, queue, config, sampling, slots, levels[0].length, keep_routing)
    while True:
        longest = at + 1 == len(levels)
        fewer = fewer_slots(slots, queues) if longest else 0
        static = config, sampling, end_tokens, fewer, longest, refills(levels, at)
        state, progress = decode_level(params, queue, key, prefix, state, *static)
        live, waiting, full, steps = (int(number) for number in jax.device_get(progress))
        ended(Loop(slots * queues, levels[at].length, steps))
        if not live and not waiting:
            return together(state.samples)
        at = at + full if live else 0
        filling = refills(levels, at)
        slots = slots_of_queue(levels[at], live + waiting * filling, queues)
        proposals = proposals_with(slots, queues, sampling)
        state = move(state, queue, slots, ring_length(levels[at].length, config), filling, proposals, config)


@partial(jax.jit, static_argnames=("config", "sampling", "slots", "length", "keep_routing"))
def first_level(
    params: Params,
    queue: Queue,
    config: ModelConfig,
    sampling: Sampling,
    slots: int,
    length: int,
    keep_routing: bool = False,
) -> tuple[Prefix, State]:
    """The prefix, and the state before the first step with ``slots`` slots in each queue and rings for ``length``."""
    params, config = _decoding_params(params, config, sampling)

    def one(queue: Queue, _: None, params: Params) -> tuple[Prefix, State]:
        return _start(*share(params, config), queue, sampling, slots, length, keep_routing)

    return over_queues(one, queue, None, params, config=config, split=None, out=(PREFIX, STATE))


@partial(
    jax.jit,
    static_argnames=("config", "sampling", "end_tokens", "fewer", "longest", "filling"),
    donate_argnames="state",
    compiler_options=DECODING_OPTIONS,
)
def decode_level(
    params: Params,
    queue: Queue,
    key: jax.Array,
    prefix: Prefix,
    state: State,
    config: ModelConfig,
    sampling: Sampling,
    end_tokens: tuple[int, ...],
    fewer: int,
    longest: bool,
    filling: bool,
) -> tuple[State, jax.Array]:
    """Decodes as levels.run_level does: the state, and the largest of its numbers [4] among the queues."""
    params, config = _decoding_params(params, config, sampling)

    def one(queue: Queue, local: tuple[Prefix, State], params: Params, key: jax.Array) -> tuple[State, jax.Array]:
        prefix, state = local
        params, own = share(params, config)
        step = _step(params, queue, prefix, key, own, sampling, end_tokens)
        return run_level(step, state, fewer, longest, filling)

    split, out = (PREFIX, STATE), (STATE, ROWS)
    state, numbers = over_queues(one, queue, (prefix, state), params, key, config=config, split=split, out=out)
    return state, constrain(numbers.max(axis=0), None)


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
    N = queue.prompt_of.shape[0]
    prefix, state = _start(params, config, queue, sampling, widths[0], sampling.max_tokens, keep_routing)
    step = _step(params, queue, prefix, key, config, sampling, end_tokens)

    def live(state: State) -> jax.Array:
        return (state.sequence < N).sum()

    for width, next_width in zip(widths, (*widths[1:], 0), strict=True):
        if state.proposed is None and (proposals := proposals_with(width, 1, sampling)):
            state = start_proposing(state, proposals)
        state = jax.lax.while_loop(lambda s, w=next_width: (s.next < N) | (live(s) > w), step, state)
        if next_width:
            state = narrow(state, next_width)
    return state.samples


def _start(
    params: Params, config: ModelConfig, queue: Queue, sampling: Sampling, slots: int, length: int, keep_routing: bool
) -> tuple[Prefix, State]:
    """The prefix, and the state before the first step, with a cache for ``length`` tokens of each slot."""
    mtp, proposals = sampling.draft == "mtp", proposals_with(slots, 1, sampling)
    # Prompts are a small part of the work, and a block for each layer would take seconds to compile.
    rolled = dataclasses.replace(config, unroll=False)
    prefix = prefill(params, queue.prompts, rolled, prefill_rows(*queue.prompts.shape), keep_routing, mtp)
    cache = init_slot_cache(slots, length, config, mtp) if proposals else init_ring(slots, length, config)
    return prefix, start(queue, prefix, cache, config, sampling, slots, proposals)


def _step(
    params: Params,
    queue: Queue,
    prefix: Prefix,
    key: jax.Array,
    config: ModelConfig,
    sampling: Sampling,
    end_tokens: tuple[int, ...],
) -> Callable[[State], State]:
    """The function that decodes one token per slot, or also those that are proposed if the state has proposals."""
    arguments = (weights_of(params, config), queue, prefix, key, config, sampling, end_tokens)
    single = _single_step(*arguments)
    several = verifying_step(*arguments) if sampling.proposals else single
    return lambda state: (single if state.proposed is None else several)(state)


def _single_step(
    weights: Weights | Stored,
    queue: Queue,
    prefix: Prefix,
    key: jax.Array,
    config: ModelConfig,
    sampling: Sampling,
    end_tokens: tuple[int, ...],
) -> Callable[[State], State]:
    """The function that decodes one token per slot."""
    N = queue.prompt_of.shape[0]

    def step(state: State) -> State:
        assert isinstance(state.cache, Ring)
        read = in_step(weights, config)
        row = jnp.minimum(state.sequence, N - 1)  # idle slots compute an existing row, and the result is dropped
        prompt = queue.prompt_of[row]
        context = Context(prompt, queue.prompt_lengths[prompt] - 1, state.age)
        hidden, ring, experts = decode_step(
            read.params, read.layers, state.token, prefix, state.cache, context, state.step, config
        )
        words = random_words(key, queue.ids[row], state.age)
        token, logprob, sampling_logprob = next_token(read, hidden, words, config, sampling)
        ended = is_any_of(token, end_tokens)
        done = (state.sequence < N) & (ended | (state.age + 1 >= queue.limits[row]))
        samples = record(state, token, logprob, sampling_logprob, done, ended)
        if samples.experts is not None and experts is not None:
            at = (state.sequence, context.prefix_length + state.age)
            kept = samples.experts.at[at].set(experts.astype(samples.experts.dtype), mode="drop")
            samples = dataclasses.replace(samples, experts=kept)
        return refill(dataclasses.replace(state, cache=ring, samples=samples, step=state.step + 1), token, done, queue)

    return step
