"""Routed experts: the choice of each token's experts, their products, and shared experts."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from r1jax.models.config import Experts, ModelConfig
from r1jax.models.kinds import FeedForward
from r1jax.models.mlp import gated
from r1jax.models.precision import einsum_f32
from r1jax.sharding import Params, ParamSpec


@flax.struct.dataclass
class Routing:
    """The choice of the experts of each token."""

    experts: jax.Array  # [..., k] int32, from the highest score to the lowest
    scores: jax.Array  # [..., E] float32, of all experts, without the bias


def _experts(config: ModelConfig) -> Experts:
    assert config.experts is not None
    return config.experts


def specs(config: ModelConfig) -> dict[str, ParamSpec]:
    """Parameter specs of one layer: router [D, E], gate and up [E, D, F], down [E, F, D], and shared experts."""
    own, D = _experts(config), config.hidden_size
    E, F, shared = own.number, own.width, own.shared_width
    scale = 0.02 / (2 * config.num_layers) ** 0.5
    tree = {
        "router": ParamSpec((D, E), ("embed", None)),
        "gate": ParamSpec((E, D, F), ("experts", "embed", "mlp")),
        "up": ParamSpec((E, D, F), ("experts", "embed", "mlp")),
        "down": ParamSpec((E, F, D), ("experts", "mlp", "embed"), scale=scale),
    }
    if own.bias:
        tree["router_bias"] = ParamSpec((E,), (None,), init="zeros")
    if shared:
        tree["shared_gate"] = ParamSpec((D, shared), ("embed", "mlp"))
        tree["shared_up"] = ParamSpec((D, shared), ("embed", "mlp"))
        tree["shared_down"] = ParamSpec((shared, D), ("mlp", "embed"), scale=scale)
    return tree


def route(h: jax.Array, weights: Params, config: ModelConfig) -> tuple[Routing, jax.Array]:
    """The routing of h [..., D] and the weights [..., k] float32 of the chosen experts."""
    own = _experts(config)
    logits = einsum_f32("...d,de->...e", h, weights["router"])
    scores = jax.nn.sigmoid(logits) if own.scores == "sigmoid" else jax.nn.softmax(logits, axis=-1)
    ranked = scores + weights["router_bias"].astype(jnp.float32) if own.bias else scores
    if own.groups > 1:
        grouped = ranked.reshape(*ranked.shape[:-1], own.groups, -1)
        best = jax.lax.top_k(grouped, 2 if own.group_score == "two highest" else 1)[0].sum(axis=-1)
        kept = jax.lax.top_k(best, own.active_groups)[1]
        allowed = jax.nn.one_hot(kept, own.groups, dtype=bool).any(axis=-2)
        ranked = jnp.where(allowed[..., None], grouped, -jnp.inf).reshape(ranked.shape)
    chosen = jax.lax.top_k(ranked, own.active)[1]
    share = jnp.take_along_axis(scores, chosen, axis=-1)
    if own.normalise:
        share = share / share.sum(axis=-1, keepdims=True)
    return Routing(chosen, scores), share * own.scale


def _apply(h: jax.Array, weights: Params, config: ModelConfig) -> tuple[jax.Array, Routing]:
    """Each expert over all tokens, which is exact and simple; the unused products are multiplied by 0."""
    routing, share = route(h, weights, config)
    used = (jax.nn.one_hot(routing.experts, _experts(config).number) * share[..., None]).sum(axis=-2)  # [..., E]
    gate = jnp.einsum("...d,edf->...ef", h, weights["gate"])
    up = jnp.einsum("...d,edf->...ef", h, weights["up"])
    y = jnp.einsum("...ef,efd->...ed", gated(gate, up), weights["down"])
    y = einsum_f32("...ed,...e->...d", y, used).astype(h.dtype)
    if _experts(config).shared_width:
        shared = gated(
            jnp.einsum("...d,df->...f", h, weights["shared_gate"]), jnp.einsum("...d,df->...f", h, weights["shared_up"])
        )
        y = y + jnp.einsum("...f,fd->...d", shared, weights["shared_down"])
    return y, routing


def _decoding_weights(weights: Params, config: ModelConfig) -> Params:
    return weights


ROUTED = FeedForward(specs, _apply, _decoding_weights, _apply)
