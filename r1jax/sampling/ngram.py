"""Proposals from the texts of a group, without a second model.

The newest tokens of a sequence are looked up in its prompt, in its completion, and in the other completions of the same
prompt, ended or not. What follows the best place is proposed, as arXiv 2304.04487 does with documents that are given
with a request. All places are compared at once, without a table.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from r1jax.sampling.slots import NONE, Queue

LONGEST = 4  # newest tokens that are compared


@flax.struct.dataclass
class Texts:
    """The texts in which each slot looks for its newest tokens: prompt and completion of each sequence of the group."""

    tokens: jax.Array  # [S, C] int32, one text after another, with NONE in between
    own: jax.Array  # [S, C] bool, the text of the slot's own sequence
    end: jax.Array  # [S] int32, place after the newest token in it


def texts_of(queue: Queue, row: jax.Array, tokens: jax.Array, lengths: jax.Array) -> Texts:
    """The texts for rows [S] of the queue, from the tokens [N, M] and lengths [N] of all completions so far."""
    (P, Tp), (N, M), S = queue.prompts.shape, tokens.shape, len(row)
    G, prompt = N // P, queue.prompt_of[row]
    # Prompts are moved to the right, so that completions follow them.
    source = jnp.arange(Tp) - (Tp - queue.prompt_lengths[prompt, None])
    prompts = jnp.where(source < 0, NONE, jnp.take_along_axis(queue.prompts[prompt], jnp.maximum(source, 0), axis=1))
    known = jnp.arange(M) < lengths.reshape(P, G, 1)[prompt]
    completions = jnp.where(known, tokens.reshape(P, G, M)[prompt], NONE)
    between = jnp.full((S, G, 1), NONE)
    joined = jnp.concatenate([jnp.broadcast_to(prompts[:, None], (S, G, Tp)), completions, between], axis=2)
    width, number = Tp + M + 1, row % G
    own = jnp.arange(G * width) // width == number[:, None]
    return Texts(joined.reshape(S, -1), own, number * width + Tp + lengths[row])


def continuations(texts: Texts, number: int) -> jax.Array:
    """The ``number`` tokens after the place that is most like the end of each slot's completion: [S, number] int32.

    That is the place with the most equal tokens up to it, at most LONGEST. Of several, one in the slot's own text comes
    before others, and the last one before the first. NONE if no token is equal, and where a text ends.
    """
    tokens, C = texts.tokens, texts.tokens.shape[1]
    at = texts.end[:, None] - 1 - jnp.arange(LONGEST)  # the last one first
    newest = jnp.where(at < 0, NONE, jnp.take_along_axis(tokens, jnp.maximum(at, 0), axis=1))
    equal, count = jnp.ones(tokens.shape, bool), jnp.zeros(tokens.shape, jnp.int32)
    for i in range(LONGEST):
        before = jnp.pad(tokens, ((0, 0), (i, 0)), constant_values=NONE)[:, :C]
        equal &= (before == newest[:, i, None]) & (before != NONE)
        count += equal
    followed = jnp.pad(tokens[:, 1:], ((0, 0), (0, 1)), constant_values=NONE) != NONE
    # One number that orders the places, so that one maximum finds the best.
    best = jnp.where(followed, (2 * count + texts.own) * C + jnp.arange(C), 0).max(axis=1)[:, None]
    after = best % C + 1 + jnp.arange(number)
    found = jnp.take_along_axis(tokens, jnp.minimum(after, C - 1), axis=1)
    found = jnp.where((best >= 2 * C) & (after < C), found, NONE)
    return jnp.where(jnp.cumsum(found == NONE, axis=1) == 0, found, NONE)
