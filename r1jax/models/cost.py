"""Operations and bytes that a model cannot do without, counted from its configuration.

A product of [m, k] and [k, n] is 2 m k n operations; norms, activations and softmax are left out, being a hundredth.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from r1jax.models.config import ModelConfig
from r1jax.models.transformer import param_specs
from r1jax.sharding import param_count


@dataclasses.dataclass(frozen=True)
class Cost:
    """Floating-point operations and bytes of device memory read or written."""

    flops: float
    bytes: float

    def seconds(self, flops_per_second: float, bytes_per_second: float) -> float:
        """The least time on a chip of these rates: the longer of the two."""
        return max(self.flops / flops_per_second, self.bytes / bytes_per_second)


def head_flops(config: ModelConfig) -> float:
    """Operations of the output head for one token."""
    return 2.0 * config.hidden_size * config.vocab_size


def block_flops(config: ModelConfig) -> float:
    """Operations of all blocks' products with weights for one token, without attention's own."""
    D, F = config.hidden_size, config.intermediate_size
    attention = D * (2 * config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    return 2.0 * config.num_layers * (attention + 3 * D * F)


def attention_flops(config: ModelConfig, keys: float) -> float:
    """Operations of scores and weighted values in all blocks for one token that attends to ``keys`` positions."""
    return 4.0 * config.num_layers * config.num_heads * config.head_dim * keys


def cache_entry_bytes(config: ModelConfig, size: int) -> int:
    """Bytes of keys and values of one token in all blocks, at ``size`` bytes a number."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * size


def training_bytes(config: ModelConfig, stored: int, copies: int = 0, cached: int = 0) -> int:
    """Bytes that training holds over all devices, but for activations: weights, gradient, AdamW's moments, and more.

    stored: bytes of a number. copies: of the weights besides, such as a reference. cached: tokens whose keys and values
    a rollout keeps.
    """
    weights = param_count(param_specs(config)) * stored
    return weights * (4 + copies) + cached * cache_entry_bytes(config, stored)


def logits_bytes(config: ModelConfig, chunk: int) -> int:
    """Bytes of the float32 logits of ``chunk`` tokens with their gradient."""
    return 2 * 4 * chunk * config.vocab_size


def forward_cost(config: ModelConfig, sequences: int, width: int, completion: int, size: int = 2) -> Cost:
    """One pass over sequences of ``width`` tokens with log-probabilities of the last ``completion``; weights read once.

    Causal attention: position t attends to t + 1 keys.
    """
    tokens = sequences * width
    flops = tokens * block_flops(config) + sequences * completion * head_flops(config)
    flops += tokens * attention_flops(config, (width + 1) / 2)
    return Cost(flops, param_count(param_specs(config)) * size)


def update_cost(config: ModelConfig, sequences: int, width: int, completion: int, size: int = 2) -> Cost:
    """Forward, backward at twice its operations, and AdamW's pass over weights, gradients and both moments."""
    forward = forward_cost(config, sequences, width, completion, size)
    optimiser = param_count(param_specs(config)) * size * 7  # read weight, gradient, two moments; write all but it
    return Cost(3 * forward.flops, 3 * forward.bytes + optimiser)


def rollout_cost(config: ModelConfig, limits: np.ndarray, group: int, prompt: int, size: int = 2) -> Cost:
    """Prefill of each prompt once, and decoding of ``limits`` [N] tokens, ``group`` rows to a prompt, all side by side.

    Each step reads the weights, the live sequences' own keys and values, and those of a prompt once for its group.
    """
    limits = np.asarray(limits, np.float64)
    prompts = len(limits) // group
    entry = cache_entry_bytes(config, size)
    weights = param_count(param_specs(config)) * size
    own = (limits * (limits + 1) / 2).sum()
    shared = limits.reshape(prompts, group).max(axis=1).sum() * prompt
    decode_bytes = limits.max() * weights + (own + shared) * entry
    decode_flops = limits.sum() * (block_flops(config) + head_flops(config))
    decode_flops += attention_flops(config, 1) * (own + limits.sum() * prompt)
    prefill = forward_cost(config, prompts, prompt, 0, size)
    return Cost(prefill.flops + decode_flops, prefill.bytes + decode_bytes)
