"""Multi-token prediction of DeepSeek-V3 (arXiv 2412.19437, section 2.2): layers that predict tokens further ahead.

Layer k combines the state h_i of layer k - 1 at position i, that of the decoder for k = 1, with the embedding of token
i + k, and predicts token i + k + 1 with the decoder's output matrix:

    x_i = [RMSNorm(Emb(t_{i+k})); RMSNorm(h_i)] W,   h'_i = RMSNorm(block(x)_i)

A block is of the kinds of the decoder's last layers, and causal. The paper writes the state first; the published
weights have the embedding first (vLLM deepseek_mtp, SGLang deepseek_nextn, Megatron-LM multi_token_prediction). The
state that a layer reads is the one after the final norm, of the decoder and of the layer before: in the three programs
the decoder returns normalised states, and in SGLang and Megatron-LM a layer does, too. vLLM alone sets the embedding at
position 0 to zero, which is not done here.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp

from r1jax.models import rotary
from r1jax.models.config import ModelConfig
from r1jax.models.layers import mtp_run
from r1jax.models.norm import rms_norm
from r1jax.models.transformer import Extras, block, embed, normed, recomputed
from r1jax.sharding import Params, constrain


def without_mtp(params: Params, config: ModelConfig) -> tuple[Params, ModelConfig]:
    """Weights and config of the decoder alone."""
    return {name: w for name, w in params.items() if name != "mtp"}, dataclasses.replace(config, mtp_layers=0)


def first_mtp(params: Params, config: ModelConfig) -> tuple[Params, ModelConfig]:
    """Weights and config with the first of the layers of multi-token prediction alone."""
    if config.mtp_layers == 1:
        return params, config
    return {**params, "mtp": jax.tree.map(lambda w: w[:1], params["mtp"])}, dataclasses.replace(config, mtp_layers=1)


def combined(states: jax.Array, embedded: jax.Array, weights: Params, config: ModelConfig) -> jax.Array:
    """The input [..., D] of the block of a layer, from states and embeddings [..., D]."""
    embedded = rms_norm(embedded, weights["embedding_norm"], config.norm_eps)
    states = rms_norm(states, weights["state_norm"], config.norm_eps)
    return jnp.concatenate([embedded, states], axis=-1) @ weights["projection"]


def ahead(x: jax.Array, k: int) -> jax.Array:
    """x [B, T, ...] from k positions later; zeros at the last k positions."""
    return jnp.pad(x[:, k:], [(0, 0), (0, min(k, x.shape[1])), *[(0, 0)] * (x.ndim - 2)])


def mtp_states(
    params: Params,
    states: jax.Array,
    following: jax.Array,
    config: ModelConfig,
    segments: jax.Array | None = None,
    with_cache: bool = False,
) -> tuple[list[jax.Array], Extras]:
    """What each layer of multi-token prediction computes of whole sequences.

    The states of positions without a token k places ahead in their own text are meaningless. No other position attends
    to them, if padding is on the right.

    Args:
      params: the weights, in config.dtype.
      states: [B, T, D], the final normalised states of the decoder.
      following: [B, T] int32, the token after each position.
      config: the model.
      segments: [B, T] int32, as in transformer.hidden_states.
      with_cache: with what decoding keeps of each token.

    Returns:
      For each layer k = 1, 2, ... the final normalised states [B, T, D], of which that at position i predicts token
      i + k + 1; and cache and routing of the layers, as those of one run.
    """
    chex.assert_equal_shape_prefix([states, following], 2)
    run = mtp_run(config)
    assert run is not None
    rotation = rotary.tables(jnp.arange(following.shape[1]), config)

    def layer(h: jax.Array, embedded: jax.Array, weights: Params) -> tuple[jax.Array, Any]:
        x = constrain(combined(h, embedded, weights, config), "batch", None, None)
        x, cached, routing = block(x, weights, rotation, run, config, segments)
        return normed(x, weights["final_norm"], config), (cached if with_cache else None, routing)

    layer = recomputed(layer, config)
    found, others = [], []
    for k in range(run.layers):
        embedded = embed(params, ahead(following, k), config)
        states, other = layer(states, embedded, jax.tree.map(lambda w, k=k: w[k], params["mtp"]))
        found.append(states)
        others.append(other)
    cached, routing = jax.tree.map(lambda *x: jnp.stack(x), *others)
    return found, Extras((cached,), (routing,))
