"""Decoding of one sequence whose tokens are read while later ones are computed, as a chat needs it.

The tokens are those that r1jax.sampling.sampler.sample draws for the same key, prompt and settings. The prompt is
padded to a power of two and the number of tokens of a call is an argument, so few programs are compiled.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from r1jax.errors import UserError
from r1jax.kernels.decode_attention import Context
from r1jax.kernels.platform import choose
from r1jax.models.cache import Prefix, Ring, init_ring, prefill
from r1jax.models.config import ModelConfig
from r1jax.models.mtp import without_mtp
from r1jax.models.precision import einsum_f32
from r1jax.models.transformer import cast
from r1jax.sampling.decode import Stored, Weights, decode_step, in_step, weights_of
from r1jax.sampling.processors import Sampling, sample_token
from r1jax.sampling.queues import padded_prompts
from r1jax.sampling.sampler import DECODING_OPTIONS
from r1jax.sampling.slots import is_any_of, random_words
from r1jax.sharding import Params, constrain

CHUNK = 16  # maximum number of tokens that one call decodes
NARROWEST = 128  # minimum padded width of a prompt
_CHUNK_SECONDS = 0.1  # a call decodes about as many tokens as this time allows


@flax.struct.dataclass
class Prompt:
    """A prompt whose keys and values are computed."""

    prefix: Prefix  # L of [1, G, Tp, K]
    length: jax.Array  # [] int32, tokens of the prompt
    limit: jax.Array  # [] int32, maximum length of the completion


@flax.struct.dataclass
class Progress:
    """The state of a completion."""

    token: jax.Array  # [1] int32, next input token
    age: jax.Array  # [] int32, tokens drawn
    ended: jax.Array  # [] bool, True after an end token or at the limit
    ring: Ring  # keys and values of the tokens drawn


@flax.struct.dataclass
class Chunk:
    """The tokens that one call has drawn."""

    tokens: jax.Array  # [CHUNK] int32, of which the first ``count`` are valid
    count: jax.Array  # [] int32
    ended: jax.Array  # [] bool, True if no token follows


def stream_weights(params: Params, config: ModelConfig) -> Weights | Stored:
    """Prepares weights for ``stream``: copies in the layout of decoding are stored, if the config has them.

    Inside the programs, each call would compute these layouts again for few tokens.
    """
    params, config = without_mtp(params, config)
    params = cast(params, config)
    return jax.jit(weights_of, static_argnames="config")(params, config)


def padded_width(length: int, context: int) -> int:
    """Width to which a prompt of ``length`` tokens is padded: a power of two of at least 128, at most ``context``."""
    return min(max(NARROWEST, 1 << (length - 1).bit_length()), context)


def stream(
    weights: Weights | Stored,
    prompt: Sequence[int],
    config: ModelConfig,
    key: jax.Array,
    *,
    sampling: Sampling,
    end_tokens: Sequence[int],
    limit: int,
) -> Iterator[list[int]]:
    """Draws one completion and yields its tokens in order, one first, then up to CHUNK at a time.

    The next tokens are computed while the caller processes the last ones. The end token is included. A caller may stop
    at any time; at most CHUNK tokens are then computed in vain.

    Args:
      weights: of stream_weights.
      prompt: token ids, at least one.
      config: the model.
      key: random key, as for ``sample``; the sequence has the id 0.
      sampling: temperature, truncation, and max_tokens, the capacity of the cache.
      end_tokens: ids that end the completion.
      limit: maximum length of the completion, 1..max_tokens.

    Raises:
      UserError: if the prompt is empty, if prompt and limit exceed the context, or for a draft, which ``sample`` alone
        supports.
    """
    if sampling.draft != "none":
        raise UserError(f"sampling.draft={sampling.draft} is not supported for a stream of tokens: use draft=none")
    if not prompt or not 1 <= limit <= sampling.max_tokens:
        raise UserError(f"a prompt of {len(prompt)} tokens with a limit of {limit}: both must be at least 1")
    if len(prompt) + limit > config.context_length:
        raise UserError(
            f"a prompt of {len(prompt)} tokens and {limit} new ones are beyond the model's context of "
            f"{config.context_length}"
        )
    row = padded_prompts([prompt], padded_width(len(prompt), config.context_length))
    read, progress = start(weights.params, row, len(prompt), limit, config, sampling)
    decode = partial(decode_chunk, weights, read, config=config, sampling=sampling, end_tokens=tuple(end_tokens))
    progress, chunk = decode(progress, key, 1)
    count, began = 1, None
    while True:
        progress, following = decode(progress, key, count)
        tokens, number, ended = jax.device_get((chunk.tokens, chunk.count, chunk.ended))
        now = time.perf_counter()
        if began is not None and number:
            count = int(np.clip(_CHUNK_SECONDS * number / max(now - began, 1e-6), 1, CHUNK))
        began = now
        yield tokens[:number].tolist()
        if ended:
            return
        chunk = following


@partial(jax.jit, static_argnames=("config", "sampling"))
def start(
    params: Params, tokens: jax.Array, length: jax.Array, limit: jax.Array, config: ModelConfig, sampling: Sampling
) -> tuple[Prompt, Progress]:
    """Computes keys and values of a prompt [1, Tp] of ``length`` tokens, padded on the right."""
    prefix = prefill(params, tokens, config, 1)
    last = jax.lax.dynamic_slice_in_dim(tokens[0], length - 1, 1)
    progress = Progress(last, jnp.int32(0), jnp.array(False), init_ring(1, sampling.max_tokens, config))
    return Prompt(prefix, jnp.int32(length), jnp.int32(limit)), progress


@partial(
    jax.jit,
    static_argnames=("config", "sampling", "end_tokens"),
    donate_argnames="progress",
    compiler_options=DECODING_OPTIONS,
)
def decode_chunk(
    weights: Weights | Stored,
    prompt: Prompt,
    progress: Progress,
    key: jax.Array,
    count: jax.Array,
    config: ModelConfig,
    sampling: Sampling,
    end_tokens: tuple[int, ...],
) -> tuple[Progress, Chunk]:
    """Draws ``count`` tokens, at most CHUNK, or fewer if the completion ends; ``progress`` is donated."""

    def step(carry: tuple[Progress, Chunk]) -> tuple[Progress, Chunk]:
        old, chunk = carry
        zero = jnp.zeros(1, jnp.int32)
        read = in_step(weights, config)
        context = Context(zero, prompt.length[None] - 1, old.age[None])
        hidden, ring, _ = decode_step(
            read.params, read.layers, old.token, prompt.prefix, old.ring, context, old.age, config
        )
        logits = constrain(einsum_f32("sd,dv->sv", hidden, read.output), "slots", "vocab")
        words = random_words(key, zero, old.age[None])
        token, _, _ = sample_token(logits, words, sampling, choose(config.kernels))
        ended = is_any_of(token, end_tokens)[0] | (old.age + 1 >= prompt.limit)
        tokens = chunk.tokens.at[chunk.count].set(token[0])
        return Progress(token, old.age + 1, ended, ring), Chunk(tokens, chunk.count + 1, ended)

    def wanted(carry: tuple[Progress, Chunk]) -> jax.Array:
        now, chunk = carry
        return ~now.ended & (chunk.count < jnp.minimum(count, CHUNK))

    nothing = Chunk(jnp.zeros(CHUNK, jnp.int32), jnp.int32(0), progress.ended)
    return jax.lax.while_loop(wanted, step, (progress, nothing))
