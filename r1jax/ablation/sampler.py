"""Samples of one arm in a program over arms: all sequences decode together, one token a step.

The refilling sampler (r1jax.sampling.sampler) ends at a condition that differs between arms: under vmap its loop would
select between the old and the new cache at every step. Here the condition is the same for all arms.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from r1jax.kernels.decode_attention import Context
from r1jax.kernels.platform import choose
from r1jax.models.cache import Ring, init_ring, prefill
from r1jax.models.config import ModelConfig
from r1jax.models.precision import einsum_f32
from r1jax.models.transformer import cast
from r1jax.sampling.decode import decode_step, in_step, weights_of
from r1jax.sampling.memory import prefill_rows
from r1jax.sampling.processors import Sampling, sample_token
from r1jax.sampling.slots import END, LENGTH, Samples, is_any_of, random_words
from r1jax.sharding import Params

ARMS = "arms"  # name of the axis of vmap


@flax.struct.dataclass
class _State:
    step: jax.Array  # [] int32, tokens drawn of each sequence
    wanted: jax.Array  # [] bool, True while a sequence of any arm is live
    live: jax.Array  # [N] bool
    token: jax.Array  # [N] int32, next input token
    ring: Ring
    samples: Samples


def any_arm(condition: jax.Array) -> jax.Array:
    """True if a condition [] bool holds in any arm: [] bool, the same for all arms. Only under vmap with axis ARMS."""
    return jax.lax.psum(condition.astype(jnp.int32), ARMS) > 0


def sample_together(
    params: Params,
    prompts: jax.Array,
    prompt_lengths: jax.Array,
    ids: jax.Array,
    key: jax.Array,
    config: ModelConfig,
    sampling: Sampling,
    end_tokens: tuple[int, ...],
) -> Samples:
    """The completions that r1jax.sampling.sampler.sample draws, as part of a program under vmap with axis ARMS.

    Args:
      params: weights of any type, cast to config.dtype.
      prompts: [P, Tp] int32, padded on the right.
      prompt_lengths: [P] int32.
      ids: [N] int32, N a multiple of P, folded into the random key; row i belongs to prompt i // (N / P).
      key: random key of the step.
      config: the model.
      sampling: settings, whose temperature may be an array above 0.
      end_tokens: ids that end a sequence.
    """
    params = cast(params, config)
    weights = weights_of(params, config)
    prefix = prefill(params, prompts, config, prefill_rows(*prompts.shape))
    (P, _), (N,), M = prompts.shape, ids.shape, sampling.max_tokens
    prompt = jnp.repeat(jnp.arange(P, dtype=jnp.int32), N // P)
    last = prompt_lengths[prompt] - 1

    def step(state: _State) -> _State:
        # The kernel reads ``age`` entries of the ring: none for a sequence that has ended.
        context = Context(prompt, last, jnp.where(state.live, state.step, 0))
        read = in_step(weights, config)
        hidden, ring, _ = decode_step(
            read.params, read.layers, state.token, prefix, state.ring, context, state.step, config
        )
        logits = einsum_f32("sd,dv->sv", hidden, read.output)
        words = random_words(key, ids, jnp.full(N, state.step))
        token, logprob, sampling_logprob = sample_token(logits, words, sampling, choose(config.kernels))
        ended = is_any_of(token, end_tokens)
        old, live = state.samples, state.live
        samples = Samples(
            tokens=old.tokens.at[:, state.step].set(jnp.where(live, token, 0)),
            logprobs=old.logprobs.at[:, state.step].set(jnp.where(live, logprob, 0.0)),
            sampling_logprobs=old.sampling_logprobs.at[:, state.step].set(jnp.where(live, sampling_logprob, 0.0)),
            lengths=old.lengths + live,
            finish=jnp.where(live & ended, END, old.finish),
            steps=state.step + 1,
        )
        live = live & ~ended
        return _State(state.step + 1, any_arm(live.any()), live, token, ring, samples)

    zeros = jnp.zeros((N, M), jnp.float32)
    nothing = Samples(
        tokens=jnp.zeros((N, M), jnp.int32),
        lengths=jnp.zeros(N, jnp.int32),
        finish=jnp.full(N, LENGTH, jnp.int32),
        logprobs=zeros,
        sampling_logprobs=zeros,
        steps=jnp.zeros((), jnp.int32),
    )
    first = jnp.take_along_axis(prompts, prompt_lengths[:, None] - 1, axis=1)[prompt, 0]
    start = _State(jnp.int32(0), jnp.array(True), jnp.ones(N, bool), first, init_ring(N, M, config), nothing)
    return jax.lax.while_loop(lambda s: s.wanted & (s.step < M), step, start).samples
