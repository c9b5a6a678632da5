"""One decoding step for all slots: the decoder of models.transformer with caches and weights in a decoding layout."""

from __future__ import annotations

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp

from r1jax.kernels import few_rows
from r1jax.kernels.add_norm import add_norm
from r1jax.kernels.decode_attention import Context, kernels_of
from r1jax.kernels.platform import on_one_device
from r1jax.models import rotary
from r1jax.models.cache import Prefix, Ring
from r1jax.models.config import ModelConfig
from r1jax.models.kinds import Cached, Rotation
from r1jax.models.layers import Run, runs
from r1jax.models.norm import rms_norm
from r1jax.models.transformer import embed, unembedding
from r1jax.sharding import Params, constrain, model_devices, sum_over_model


@flax.struct.dataclass
class Weights:
    """Weights in config.dtype, in the layouts that prefill and decoding read."""

    params: Params
    layers: tuple[Params, ...]  # decoding_layers
    output: jax.Array  # [D, V], unembedding


@flax.struct.dataclass
class Stored:
    """Weights in config.dtype as they are stored, which each step of decoding splits into layers."""

    params: Params


def weights_of(params: Params, config: ModelConfig) -> Weights | Stored:
    """The weights before the loop of decoding, with copies in its layout if the config has them."""
    return _laid_out(params, config) if config.copies_layers else Stored(params)


def in_step(weights: Weights | Stored, config: ModelConfig) -> Weights:
    """The weights in a step of the loop.

    On a GPU, products read a part of an array where it is if it is split in the loop. A split before the loop would be
    a copy, and so would be a transposed embedding.
    """
    return weights if isinstance(weights, Weights) else _laid_out(weights.params, config)


def _laid_out(params: Params, config: ModelConfig) -> Weights:
    return Weights(params, decoding_layers(params, config), unembedding(params, config))


def decoding_layers(params: Params, config: ModelConfig) -> tuple[Params, ...]:
    """Splits the weights into layers: the decoding loop over layers is unrolled so that each cache is updated in place.

    Each layer has "attention_norm", "mlp_norm", and "attention" and "mlp" as their kinds lay them out for decoding.
    """
    return tuple(decoding_layer(params, run, layer, config) for run in runs(config) for layer in range(run.layers))


def decoding_layer(params: Params, run: Run, layer: int, config: ModelConfig) -> Params:
    """The weights of a layer of a run in the layout of decoding."""
    # Split first, then join: the reverse order would need memory for another copy of the joined weights.
    weights = jax.tree.map(lambda w: w[layer], params[run.name])
    return {
        **weights,
        "attention": run.attention.decoding_weights(weights["attention"], config),
        "mlp": run.feed_forward.decoding_weights(weights["mlp"], config),
    }


def decode_step(
    params: Params,
    layers: tuple[Params, ...],
    tokens: jax.Array,
    prefix: Prefix,
    ring: Ring,
    context: Context,
    step: jax.Array,
    config: ModelConfig,
) -> tuple[jax.Array, Ring, jax.Array | None]:
    """Decodes one token per slot.

    Args:
      params: the parameters, for the embedding and the final norm.
      layers: decoding_layers(params).
      tokens: [S] newest token of each slot.
      prefix: what is kept of the prompts.
      ring: what is kept of the new tokens.
      context: prompt and sequence of each slot.
      step: [] number of the call, which determines the ring entry to write.
      config: the model.

    Returns:
      The final normalised states [S, D], the ring with this token, and the experts [S, L, k] of the token in the layers
      with experts, or None.
    """
    rotation = rotary.tables(context.prefix_length + context.age, config)
    x = embed(params, tokens, config)
    entry = step % ring.layers[0][0].shape[-2]
    h = rms_norm(x, layers[0]["attention_norm"], config.norm_eps)
    following = [*(layer["attention_norm"] for layer in layers[1:]), params["final_norm"]]
    kinds = [run for run in runs(config) for _ in range(run.layers)]
    written: list[Cached] = []
    experts: list[jax.Array] = []
    for kind, weights, read, own, norm in zip(kinds, layers, prefix.layers, ring.layers, following, strict=True):
        x, h, own, chosen = _decode_layer(x, h, weights, norm, rotation, read, own, context, entry, kind, config)
        written.append(own)
        if chosen is not None:
            experts.append(chosen)
    return h, Ring(tuple(written)), jnp.stack(experts, axis=1) if experts else None


@partial(jax.jit, static_argnames=("kind", "config"))  # traced and lowered once for all layers of a run
def _decode_layer(
    x: jax.Array,
    h: jax.Array,
    weights: Params,
    norm: jax.Array,
    rotation: Rotation,
    prefix: Cached,
    ring: Cached,
    context: Context,
    entry: jax.Array,
    kind: Run,
    config: ModelConfig,
) -> tuple[jax.Array, jax.Array, Cached, jax.Array | None]:
    """One layer for the states x [S, D] and their norm h; ``norm`` is the weight of the norm that follows the layer.

    Returns the two after the layer, the ring, and the experts [S, k] of a layer with experts.
    """
    kernels = kernels_of(config) if on_one_device() else "plain"
    kernels = "mosaic" if few_rows.fits(len(x), config) else kernels  # its sum takes the parts of a product

    def normed(x: jax.Array, y: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
        if model_devices() > 1:
            # In the type of x: rounding the terms of y changes x + y less than rounding that sum, and twice the bytes
            # would take longer.
            y = sum_over_model(few_rows.whole(y, x.dtype))
        return add_norm(x, y, weight, config.norm_eps, kernels)

    y, ring = kind.attention.decode(h, weights["attention"], rotation, prefix, ring, context, entry, config)
    x, h = normed(x, y, weights["mlp_norm"])
    y, routing = kind.feed_forward.decode(h, weights["mlp"], config)
    x, h = normed(x, y, norm)
    x, h = constrain(x, "slots", None), constrain(h, "slots", None)
    return x, h, ring, None if routing is None else routing.experts
