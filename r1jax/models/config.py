"""One frozen description of a decoder, static under jit."""

from __future__ import annotations

import dataclasses
from typing import Literal

Architecture = Literal["llama", "qwen2", "qwen3"]


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama-3.1 scaling of rotary frequencies (arXiv 2407.21783): long wavelengths are divided by ``factor``."""

    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Shapes and numerics of a decoder.

    The first block is what a checkpoint fixes; the second is how a run computes it and is in no checkpoint.
    """

    architecture: Architecture = "llama"  # the name under which the weights are exported
    vocab_size: int = 256
    hidden_size: int = 64
    intermediate_size: int = 192
    num_layers: int = 2
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 16
    context_length: int = 256  # tokens
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-6
    attention_bias: bool = False  # on query, key and value
    output_bias: bool = False  # on the attention's output projection
    qk_norm: bool = False  # RMS norm of each query and key head (Qwen3)
    tie_embeddings: bool = True
    head: Literal["vocabulary", "scalar"] = "vocabulary"  # scalar: one number a position, as reward models give

    dtype: Literal["float32", "bfloat16"] = "float32"  # of activations and of the weights that enter products
    remat: Literal["none", "block", "dots"] = "none"  # what the backward pass computes again
    attention: Literal["auto", "xla", "cudnn"] = "auto"  # auto: cudnn for 16-bit types on a GPU
    unroll: bool = False  # blocks compiled one by one: a loop copies what the backward pass keeps, but compiles sooner

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is no multiple of num_kv_heads {self.num_kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd: rotary positions turn pairs")
