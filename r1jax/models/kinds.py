"""The two parts of a layer, attention and feed-forward block, as tables of functions: one table per kind.

Each part has a form over whole sequences, for training and prefill, and a form for one token per slot, for decoding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from r1jax.models.config import ModelConfig
from r1jax.sharding import Params, ParamSpec

Rotation = tuple[jax.Array, jax.Array]  # cosine and sine, as from rotary.tables
Cached = tuple[jax.Array, ...]  # what a kind of attention keeps of each token


@dataclasses.dataclass(frozen=True)
class CacheShape:
    """One of the arrays that a kind of attention keeps: ``width`` numbers per token and head."""

    heads: int | None  # None: all heads share the numbers, and the array has no axis of heads
    width: int


@dataclasses.dataclass(frozen=True)
class Attention:
    """A kind of attention."""

    specs: Callable[[ModelConfig], dict[str, ParamSpec]]
    """Parameter specs of one layer."""
    cache: Callable[[ModelConfig], tuple[CacheShape, ...]]
    """What is kept of each token for later ones. An array that all heads share has no axis of heads below."""
    attend: Callable[[jax.Array, Params, Rotation, ModelConfig, jax.Array | None], tuple[jax.Array, Cached]]
    """(h [B, T, D], weights, rotation, config, segments) -> y [B, T, D], and the cached arrays [B, T, heads, width]."""
    decoding_weights: Callable[[Params, ModelConfig], Params]
    """The weights of one layer in the layout that ``decode`` reads."""
    decode: Callable[..., tuple[jax.Array, Cached]]
    """(h [S, D], decoding weights, rotation [S, ...], prefix, ring, context, entry, config) -> y, and the ring.

    y: [S, D], or [P, S, D] float32, whose sum over P it is (kernels.few_rows).
    prefix: the cached arrays [P, heads, Tp, width] of the prompts; ring: those [S, heads, R, width] of the new tokens;
    context: Context of each slot; entry: [] int32, where the ring gets the new token.
    """
    decode_block: Callable[..., tuple[jax.Array, Cached]]
    """(h [S, m, D], decoding weights, rotation [S, m, ...], prefix, cached, context, config) -> y, and cached.

    m tokens of each slot in sequence; y is [S, m, D]. cached: the arrays [S, heads, R, width] of the tokens of a slot,
    of which the i-th is at entry i; the new tokens get the entries from context.age on.
    """


@dataclasses.dataclass(frozen=True)
class FeedForward:
    """A kind of feed-forward block."""

    specs: Callable[[ModelConfig], dict[str, ParamSpec]]
    """Parameter specs of one layer."""
    apply: Callable[[jax.Array, Params, ModelConfig, jax.Array | None], tuple[jax.Array, Any]]
    """(h [B, T, D], weights, config, replay) -> y [B, T, D], and the routing of the tokens; None without experts.

    replay: [B, T, k], the experts to use in place of the router's choice; None: the choice.
    """
    decoding_weights: Callable[[Params, ModelConfig], Params]
    """The weights of one layer in the layout that ``decode`` reads."""
    decode: Callable[[jax.Array, Params, ModelConfig], tuple[jax.Array, Any]]
    """(h [S, D], decoding weights, config) -> y as above, and the routing of the tokens; None without experts."""
    routed: bool = False
    """True if the tokens have a routing."""
