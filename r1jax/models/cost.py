"""Minimum floating-point operations and memory traffic of a model, computed from its config.

A product of [m, k] and [k, n] is 2 m k n operations. Norms, activations and softmax, about 1%, are not counted.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import numpy as np

from r1jax.models.config import ModelConfig
from r1jax.models.layers import cache_shapes
from r1jax.models.transformer import param_specs
from r1jax.sharding import is_spec, param_count


@dataclasses.dataclass(frozen=True)
class Cost:
    """Floating-point operations and bytes of device memory read or written."""

    flops: float
    bytes: float

    def seconds(self, flops_per_second: float, bytes_per_second: float) -> float:
        """Minimum time on a chip with these rates: the larger of compute time and memory time."""
        return max(self.flops / flops_per_second, self.bytes / bytes_per_second)


def head_flops(config: ModelConfig) -> float:
    """Operations of the output head for one token."""
    return 2.0 * config.hidden_size * config.vocab_size


def block_flops(config: ModelConfig) -> float:
    """Operations of the weight products of all blocks for one token, without the products of attention.

    Of the routed experts, only those that a token uses count.
    """
    D, F, own = config.hidden_size, config.intermediate_size, config.experts
    routed = 0 if own is None else config.num_layers - own.dense_layers
    weights = config.num_layers * _attention_weights(config) + (config.num_layers - routed) * 3 * D * F
    if own is not None:
        weights += routed * D * (own.number + 3 * (own.active * own.width + own.shared_width))
    return 2.0 * weights


def active_count(config: ModelConfig) -> int:
    """Number of the parameters that one token uses, with the whole embedding: all but those of other experts."""
    weights, own = param_count(param_specs(config)), config.experts
    return weights if own is None else weights - _expert_weights(config) * (own.number - own.active) // own.number


def decoding_weights(config: ModelConfig, tokens: float) -> float:
    """Numbers in the weights that a step of decoding with ``tokens`` tokens reads.

    Of the routed experts, it is the expected number of those that some token uses if all are used alike.
    """
    weights, own = param_count(param_specs(config)), config.experts
    return weights if own is None else weights - _expert_weights(config) * (1 - own.active / own.number) ** tokens


def _expert_weights(config: ModelConfig) -> int:
    """Numbers in the matrices of all routed experts."""
    specs = jax.tree.leaves(param_specs(config), is_leaf=is_spec)
    return sum(math.prod(spec.shape) for spec in specs if "experts" in spec.axes)


def _attention_weights(config: ModelConfig) -> int:
    """Numbers in the matrices of one block's attention. Decoding reads all matrices of latent attention once, too."""
    D, H, K, own = config.hidden_size, config.num_heads, config.head_dim, config.latent
    if own is None:
        return D * (2 * H + 2 * config.num_kv_heads) * K
    queries = own.query_rank * (D + H * K) if own.query_rank else D * H * K
    keys_and_values = D * (own.kv_rank + own.rope_dim) + own.kv_rank * H * (own.nope_dim + own.value_dim)
    return queries + keys_and_values + H * own.value_dim * D


def attention_flops(config: ModelConfig, keys: float, decoding: bool = False) -> float:
    """Operations of attention scores and weighted values in all blocks for one token and ``keys`` positions.

    In decoding, the keys of latent attention are the cached numbers, and its values the compressed vectors.
    """
    key = value = config.head_dim
    if (own := config.latent) is not None:
        key, value = (own.kv_rank + own.rope_dim, own.kv_rank) if decoding else (key, own.value_dim)
    return 2.0 * config.num_layers * config.num_heads * (key + value) * keys


def cache_entry_bytes(config: ModelConfig, size: int) -> int:
    """Bytes of what is kept of one token in all blocks for decoding, with ``size`` bytes per number."""
    return size * sum((shape.heads or 1) * shape.width for layer in cache_shapes(config) for shape in layer)


def training_bytes(config: ModelConfig, stored: int, copies: int = 0, cached: int = 0) -> int:
    """Bytes of training without activations, over all devices: weights, gradient, moments of AdamW, copies, cache.

    Args:
      config: the model.
      stored: bytes per number.
      copies: further copies of the weights, such as a reference model.
      cached: tokens in the cache of a rollout.
    """
    weights = param_count(param_specs(config)) * stored
    return weights * (4 + copies) + cached * cache_entry_bytes(config, stored)


def logits_bytes(config: ModelConfig, chunk: int) -> int:
    """Bytes of the float32 logits of ``chunk`` tokens and of their gradient."""
    return 2 * 4 * chunk * config.vocab_size


def forward_cost(config: ModelConfig, sequences: int, width: int, completion: int, size: int = 2) -> Cost:
    """Forward pass over sequences of ``width`` tokens with log-probabilities of the last ``completion`` tokens.

    The weights are read once. With causal attention, position t attends to t + 1 keys.
    """
    tokens = sequences * width
    flops = tokens * block_flops(config) + sequences * completion * head_flops(config)
    flops += tokens * attention_flops(config, (width + 1) / 2)
    return Cost(flops, param_count(param_specs(config)) * size)


def update_cost(config: ModelConfig, sequences: int, width: int, completion: int, size: int = 2) -> Cost:
    """Forward pass, backward pass (twice its operations), and AdamW over weights, gradients and both moments."""
    forward = forward_cost(config, sequences, width, completion, size)
    optimiser = param_count(param_specs(config)) * size * 7  # 4 reads: weight, gradient, 2 moments; 3 writes
    return Cost(3 * forward.flops, 3 * forward.bytes + optimiser)


def rollout_cost(config: ModelConfig, limits: np.ndarray, group: int, prompt: int, size: int = 2) -> Cost:
    """Prefill of each prompt, and decoding of ``limits`` [N] tokens, ``group`` sequences per prompt, all in parallel.

    Each step reads the weights, the cache of the live sequences, and that of each prompt once per group.
    """
    limits = np.asarray(limits, np.float64)
    prompts = len(limits) // group
    entry = cache_entry_bytes(config, size)
    weights = decoding_weights(config, len(limits)) * size
    own = (limits * (limits + 1) / 2).sum()
    shared = limits.reshape(prompts, group).max(axis=1).sum() * prompt
    decode_bytes = limits.max() * weights + (own + shared) * entry
    decode_flops = limits.sum() * (block_flops(config) + head_flops(config))
    decode_flops += attention_flops(config, 1, decoding=True) * (own + limits.sum() * prompt)
    prefill = forward_cost(config, prompts, prompt, 0, size)
    return Cost(prefill.flops + decode_flops, prefill.bytes + decode_bytes)
