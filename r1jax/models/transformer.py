"""The decoder: parameter specs (param_specs) and the forward pass (forward)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp

from r1jax.errors import UserError
from r1jax.models import rotary
from r1jax.models.config import ModelConfig
from r1jax.models.experts import Routing
from r1jax.models.gradient_slots import Slotted, weights_of_layer
from r1jax.models.kinds import Cached, Rotation
from r1jax.models.layers import Run, mtp_run, runs
from r1jax.models.norm import rms_norm
from r1jax.models.precision import einsum_f32
from r1jax.sharding import (
    Params,
    ParamSpec,
    constrain,
    gather_over_data,
    gathered_count,
    is_spec,
    map_specs,
    sum_over_model,
)

GATHERED_BYTES = 2**34  # limit of gather "auto"; decoding gathers the weights, and copies them


def param_specs(config: ModelConfig) -> dict[str, Any]:
    """Tree of ParamSpec of all weights; the layers of a run are stacked on a leading axis for scan.

    "mtp" has the layers of multi-token prediction, if the model has any (r1jax.models.mtp).
    """
    V, D = config.vocab_size, config.hidden_size

    norm = ParamSpec((D,), (None,), init="ones")

    def stacked(run: Run, **others: ParamSpec) -> dict[str, Any]:
        layer = {
            "attention_norm": norm,
            "attention": run.attention.specs(config),
            "mlp_norm": norm,
            "mlp": run.feed_forward.specs(config),
            **others,
        }
        return map_specs(
            lambda s: dataclasses.replace(s, shape=(run.layers, *s.shape), axes=("layers", *s.axes)), layer
        )

    tree: dict[str, Any] = {
        "embedding": ParamSpec((V, D), ("vocab", "embed")),
        **{run.name: stacked(run) for run in runs(config)},
        "final_norm": norm,
    }
    if (mtp := mtp_run(config)) is not None:
        joined = ParamSpec((2 * D, D), ("embed", None))
        tree["mtp"] = stacked(mtp, embedding_norm=norm, state_norm=norm, projection=joined, final_norm=norm)
    if config.head == "scalar":
        tree["score"] = ParamSpec((D, 1), ("embed", None), init="zeros")
    elif not config.tie_embeddings:
        tree["unembedding"] = ParamSpec((D, V), ("embed", "vocab"))
    return tree


def scalar_config(config: ModelConfig) -> ModelConfig:
    """The config of the same blocks with a scalar head."""
    return dataclasses.replace(config, head="scalar", mtp_layers=0)


def with_scalar_head(params: Params, config: ModelConfig) -> tuple[Params, ModelConfig]:
    """Weights and config of the same blocks with a scalar head, zero at the start, in place of the output matrix.

    Layers of multi-token prediction are left out.
    """
    config = scalar_config(config)
    specs = param_specs(config)
    kept = {name: params[name] for name in specs if name != "score"}
    dtype = jax.tree.leaves(kept)[0].dtype
    return {**kept, "score": jnp.zeros(specs["score"].shape, dtype)}, config


def cast(params: Params, config: ModelConfig) -> Params:
    """Casts the parameters to config.dtype, the type of matrix products, but those whose specs have a type.

    Weights with slots for their gradients stay as they are: they have been cast before.
    """

    def one(spec: ParamSpec, weight: Any) -> Any:
        return weight if spec.dtype or isinstance(weight, Slotted) else weight.astype(config.dtype)

    return jax.tree.map(one, param_specs(config), params, is_leaf=is_spec)


def prepare(params: Params, config: ModelConfig) -> Params:
    """Casts the parameters and gathers them according to config.gather, once for several passes.

    Otherwise weights that are split over the data axis are gathered before each use, in every forward and backward
    pass. While the program runs, each device holds the gathered weights in config.dtype, divided by the size of the
    model axis, and experts also by that of the expert axis.
    """
    params = cast(params, config)
    return gather_over_data(params, param_specs(config)) if gathers_once(config) else params


def gathers_once(config: ModelConfig) -> bool:
    """True if prepare gathers the weights: as config.gather says, or if they have at most GATHERED_BYTES on a device.

    Reads the current mesh.
    """
    size = gathered_count(param_specs(config)) * jnp.dtype(config.dtype).itemsize
    return config.gather in ("update", "device") or (config.gather == "auto" and size <= GATHERED_BYTES)


def embed(params: Params, tokens: jax.Array, config: ModelConfig) -> jax.Array:
    """Embeddings [..., D] of tokens [...].

    The gradient of the embedding is summed over tokens in float32 and rounded to config.dtype once. In bfloat16, the
    sum of a frequent token would stop growing after a few hundred terms.
    """
    # Whole rows: if columns were split over the data axis too, each device would look up the tokens of all devices.
    table = constrain(params["embedding"].astype(config.dtype), "vocab", None)
    if len(table) < config.vocab_size:  # inside shard_map
        return sum_over_model(_own_rows(table, tokens))
    return constrain(_rows(table, tokens, config.vocab_size), "batch", *[None] * tokens.ndim)


def _own_rows(table: jax.Array, tokens: jax.Array) -> jax.Array:
    """The rows of tokens that this device of the model axis has, and zeros for other tokens."""
    place = tokens - jax.lax.axis_index("model") * len(table)
    rows = table[jnp.clip(place, 0, len(table) - 1)]
    return jnp.where(((place >= 0) & (place < len(table)))[..., None], rows, 0)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _rows(embedding: jax.Array, tokens: jax.Array, vocab_size: int) -> jax.Array:
    return embedding[tokens]


def _rows_forward(embedding: jax.Array, tokens: jax.Array, vocab_size: int) -> tuple[jax.Array, jax.Array]:
    return embedding[tokens], tokens


# The shape [V, D] of the gradient must be known without storing the weights.
def _rows_backward(vocab_size: int, tokens: jax.Array, gradient: jax.Array) -> tuple[jax.Array, None]:
    total = jnp.zeros((vocab_size, gradient.shape[-1]), jnp.float32).at[tokens].add(gradient.astype(jnp.float32))
    return total.astype(gradient.dtype), None


_rows.defvjp(_rows_forward, _rows_backward)


def unembedding(params: Params, config: ModelConfig) -> jax.Array:
    """Output matrix [D, V], the transposed embedding if the two are tied.

    Raises UserError for a reward model, which has no output matrix.
    """
    if config.head == "scalar":
        raise UserError("this is a reward model, which computes scores and no tokens: use a language model")
    return params["embedding"].T if config.tie_embeddings else params["unembedding"]


@flax.struct.dataclass
class Extras:
    """What a forward pass computes besides the final states, for each run of layers."""

    cache: tuple[Cached | None, ...]  # arrays [L, B, T, heads, width], or without heads, for decoding, if asked for
    routing: tuple[Any, ...]  # the routing of the tokens in each layer; None for a run without experts


def routing_of_layers(extras: Extras) -> Routing | None:
    """The routing of all layers with experts, arrays [L, B, T, ...]; None without experts."""
    found = [routing for routing in extras.routing if routing is not None]
    if len(found) < 2:
        return found[0] if found else None
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)


def block(
    x: jax.Array,
    weights: Params,
    rotation: Rotation,
    run: Run,
    config: ModelConfig,
    segments: jax.Array | None = None,
    replay: jax.Array | None = None,
) -> tuple[jax.Array, Cached, Any]:
    """One decoder block over whole sequences: x [B, T, D], what is cached of each token, and the routing."""
    h = normed(x, weights["attention_norm"], config)
    y, cached = run.attention.attend(h, weights["attention"], rotation, config, segments)
    x = constrain(x + sum_over_model(y), "batch", None, None)
    h = normed(x, weights["mlp_norm"], config)
    y, routing = run.feed_forward.apply(h, weights["mlp"], config, replay)
    return constrain(x + sum_over_model(y), "batch", None, None), cached, routing


def hidden_states(
    params: Params,
    tokens: jax.Array,
    config: ModelConfig,
    with_cache: bool = False,
    segments: jax.Array | None = None,
    replay: jax.Array | None = None,
) -> tuple[jax.Array, Extras]:
    """Final normalised states [B, T, D] of tokens [B, T]; with_cache also returns what decoding keeps of each token.

    Attention is causal, so padding must be on the right, where no token attends to it. If rows hold several texts,
    segments [B, T] int32 numbers them, and each token attends only to its own text. Positions continue from text to
    text, since rotary attention depends only on the distance between tokens.

    replay: [B, T, L, k], the experts of each token in the L layers with experts; None: the routers choose.
    """
    chex.assert_rank(tokens, 2)
    params = cast(params, config)
    rotation = rotary.tables(jnp.arange(tokens.shape[1]), config)
    x = embed(params, tokens, config)
    cache, routing = [], []
    for run in runs(config):
        replayed = None if replay is None or not run.feed_forward.routed else jnp.moveaxis(replay, 2, 0)

        def body(x: jax.Array, layer: tuple[Params, jax.Array | None], run: Run = run) -> tuple[jax.Array, Any]:
            x, cached, routed = block(x, weights_of_layer(layer[0]), rotation, run, config, segments, layer[1])
            return x, (cached if with_cache else None, routed)

        x, (cached, routed) = jax.lax.scan(
            recomputed(body, config), x, (params[run.name], replayed), unroll=config.unroll
        )
        cache.append(cached)
        routing.append(routed)
    return normed(x, params["final_norm"], config), Extras(tuple(cache), tuple(routing))


def recomputed(body: Callable[..., Any], config: ModelConfig) -> Callable[..., Any]:
    """The function of a layer, with what config.remat says recomputed in the backward pass."""
    if config.remat == "block":
        return jax.checkpoint(body)
    if config.remat == "dots":
        return jax.checkpoint(body, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable)
    return body


def normed(x: jax.Array, weight: jax.Array, config: ModelConfig) -> jax.Array:
    """RMS norm of x [B, T, D]."""
    return constrain(rms_norm(x, weight, config.norm_eps), "batch", None, None)


def forward(params: Params, tokens: jax.Array, config: ModelConfig) -> jax.Array:
    """Logits [B, T, V] in float32 of tokens [B, T]; position t predicts token t + 1."""
    x, _ = hidden_states(params, tokens, config)
    out = unembedding(params, config).astype(config.dtype)
    return einsum_f32("btd,dv->btv", x, out)


def scores(params: Params, tokens: jax.Array, lengths: jax.Array, config: ModelConfig) -> jax.Array:
    """Scalar head at the last token of each sequence: [B] float32 of tokens [B, T] and lengths [B] int32.

    Tokens beyond the length are ignored. config.head must be "scalar".
    """
    return scores_of_states(params, hidden_states(params, tokens, config)[0], lengths, config)


def scores_of_states(params: Params, h: jax.Array, lengths: jax.Array, config: ModelConfig) -> jax.Array:
    """``scores`` of sequences with final states h [B, T, D]."""
    last = jnp.take_along_axis(h, (lengths - 1)[:, None, None], axis=1)[:, 0]
    return einsum_f32("bd,do->bo", last, params["score"].astype(config.dtype))[:, 0]
