"""The decoder as data (param_specs) and as a function (forward)."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp

from r1jax.errors import UserError
from r1jax.models import attention, mlp, rotary
from r1jax.models.config import ModelConfig
from r1jax.models.norm import rms_norm
from r1jax.models.precision import einsum_f32
from r1jax.sharding import Params, ParamSpec, compiler_mesh, constrain, gather_over_data, map_specs, param_count

GATHERED_BYTES = 2**34  # of weights that gather "auto" has whole on a device; decoding has them so, twice


def param_specs(config: ModelConfig) -> dict[str, Any]:
    """Tree of every weight; blocks are stacked on a leading axis of num_layers so that scan can walk them."""
    V, D = config.vocab_size, config.hidden_size
    block = {
        "attention_norm": ParamSpec((D,), (None,), init="ones"),
        "attention": attention.specs(config),
        "mlp_norm": ParamSpec((D,), (None,), init="ones"),
        "mlp": mlp.specs(config),
    }

    def stack(spec: ParamSpec) -> ParamSpec:
        return dataclasses.replace(spec, shape=(config.num_layers, *spec.shape), axes=("layers", *spec.axes))

    tree: dict[str, Any] = {
        "embedding": ParamSpec((V, D), ("vocab", "embed")),
        "layers": map_specs(stack, block),
        "final_norm": ParamSpec((D,), (None,), init="ones"),
    }
    if config.head == "scalar":
        tree["score"] = ParamSpec((D, 1), ("embed", None), init="zeros")
    elif not config.tie_embeddings:
        tree["unembedding"] = ParamSpec((D, V), ("embed", "vocab"))
    return tree


def with_scalar_head(params: Params, config: ModelConfig) -> tuple[Params, ModelConfig]:
    """Weights and config of the same blocks with a scalar head, zero at the start, in place of the output matrix."""
    config = dataclasses.replace(config, head="scalar")
    specs = param_specs(config)
    kept = {name: params[name] for name in specs if name != "score"}
    dtype = jax.tree.leaves(kept)[0].dtype
    return {**kept, "score": jnp.zeros(specs["score"].shape, dtype)}, config


def cast(params: Params, config: ModelConfig) -> Params:
    """The parameters in the type that enters products (config.dtype)."""
    return jax.tree.map(lambda w: w.astype(config.dtype), params)


def prepare(params: Params, config: ModelConfig) -> Params:
    """The parameters as a program of several passes over them begins: cast, and collected as config.gather says.

    Weights that the data axis splits are collected before each use otherwise, in every pass forward and backward.
    Whole, they take their size in config.dtype over that of the model axis on each device, while the program runs.
    """
    params = cast(params, config)
    specs, mesh = param_specs(config), compiler_mesh()
    size = param_count(specs) * jnp.dtype(config.dtype).itemsize // (1 if mesh is None else mesh.shape["model"])
    whole = config.gather == "update" or (config.gather == "auto" and size <= GATHERED_BYTES)
    return gather_over_data(params, specs) if whole else params


def embed(params: Params, tokens: jax.Array, config: ModelConfig) -> jax.Array:
    """Residual stream [..., D] of tokens [...].

    The gradient of the embedding is summed over tokens in float32 and rounded to config.dtype once: in bfloat16 the
    sum of a frequent token stops growing after a few hundred terms.
    """
    # Whole rows: with its columns split over the data axis too, a device would look up the tokens of all others.
    table = constrain(params["embedding"].astype(config.dtype), "vocab", None)
    return constrain(_rows(table, tokens, config.vocab_size), "batch", *[None] * tokens.ndim)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _rows(embedding: jax.Array, tokens: jax.Array, vocab_size: int) -> jax.Array:
    return embedding[tokens]


def _rows_forward(embedding: jax.Array, tokens: jax.Array, vocab_size: int) -> tuple[jax.Array, jax.Array]:
    return embedding[tokens], tokens


# The shape [V, D] of the gradient must be known without keeping the weights.
def _rows_backward(vocab_size: int, tokens: jax.Array, gradient: jax.Array) -> tuple[jax.Array, None]:
    total = jnp.zeros((vocab_size, gradient.shape[-1]), jnp.float32).at[tokens].add(gradient.astype(jnp.float32))
    return total.astype(gradient.dtype), None


_rows.defvjp(_rows_forward, _rows_backward)


def unembedding(params: Params, config: ModelConfig) -> jax.Array:
    """Output matrix [D, V]: the embedding transposed where the two are tied.

    Raises UserError for a reward model, which has none.
    """
    if config.head == "scalar":
        raise UserError("this is a reward model, which gives scores and no tokens: name a language model")
    return params["embedding"].T if config.tie_embeddings else params["unembedding"]


def block(
    x: jax.Array,
    weights: Params,
    cos: jax.Array,
    sin: jax.Array,
    config: ModelConfig,
    segments: jax.Array | None = None,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """One decoder block over whole sequences: x [B, T, D], and its keys and values [B, T, G, K]."""
    h = _normed(x, weights["attention_norm"], config)
    q, k, v = attention.project(h, weights["attention"], cos, sin, config)
    y = attention.causal_attention(q, k, v, config, segments)
    x = constrain(x + attention.merge_heads(y, weights["attention"], config), "batch", None, None)
    h = _normed(x, weights["mlp_norm"], config)
    x = constrain(x + mlp.mlp(h, weights["mlp"], config), "batch", None, None)
    return x, (k, v)


def hidden_states(
    params: Params, tokens: jax.Array, config: ModelConfig, with_cache: bool = False, segments: jax.Array | None = None
) -> tuple[jax.Array, tuple[jax.Array, jax.Array] | None]:
    """Final normed states [B, T, D] of tokens [B, T]; with_cache also keys and values [L, B, T, G, K].

    Attention is causal, so padding belongs on the right, where nothing attends to it. Where rows hold several texts,
    segments [B, T] int32 numbers them and keeps each to itself; positions run on from text to text, since rotary
    attention sees only how far apart two tokens are.
    """
    chex.assert_rank(tokens, 2)
    params = cast(params, config)
    cos, sin = rotary.tables(jnp.arange(tokens.shape[1]), config)
    x = embed(params, tokens, config)

    def body(x: jax.Array, weights: Params) -> tuple[jax.Array, Any]:
        x, kv = block(x, weights, cos, sin, config, segments)
        return x, kv if with_cache else None

    if config.remat == "block":
        body = jax.checkpoint(body)
    elif config.remat == "dots":
        body = jax.checkpoint(body, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable)
    x, cache = jax.lax.scan(body, x, params["layers"], unroll=config.unroll)
    return _normed(x, params["final_norm"], config), cache


def _normed(x: jax.Array, weight: jax.Array, config: ModelConfig) -> jax.Array:
    return constrain(rms_norm(x, weight, config.norm_eps), "batch", None, None)


def forward(params: Params, tokens: jax.Array, config: ModelConfig) -> jax.Array:
    """Logits [B, T, V] in float32 of tokens [B, T]; position t predicts token t + 1."""
    x, _ = hidden_states(params, tokens, config)
    out = unembedding(params, config).astype(config.dtype)
    return einsum_f32("btd,dv->btv", x, out)


def scores(params: Params, tokens: jax.Array, lengths: jax.Array, config: ModelConfig) -> jax.Array:
    """The scalar head at each sequence's last token: [B] float32 of tokens [B, T] and lengths [B] int32.

    What lies beyond a sequence's length is not seen. config.head must be "scalar".
    """
    x, _ = hidden_states(params, tokens, config)
    last = jnp.take_along_axis(x, (lengths - 1)[:, None, None], axis=1)[:, 0]
    return einsum_f32("bd,do->bo", last, params["score"].astype(config.dtype))[:, 0]
