"""One frozen description of a decoder, static under jit."""

from __future__ import annotations

import dataclasses
import math
import numbers
from typing import Any, Literal

Architecture = Literal["llama", "qwen2", "qwen3"]


def check_whole(name: str, value: Any) -> int:
    """``value``, where it is a whole number from 1; raises ValueError otherwise, naming it ``name``."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise ValueError(f"{name} is {value!r} where a whole number belongs")
    if value < 1:
        raise ValueError(f"{name} is {value} and must be at least 1")
    return int(value)


def check_positive(name: str, value: Any) -> float:
    """``value`` as a float, where it is a finite number above 0; raises ValueError otherwise, naming it ``name``."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise ValueError(f"{name} is {value!r} where a number belongs")
    try:
        number = float(value)
    except OverflowError:  # JSON holds whole numbers of any size
        number = math.inf
    if not 0 < number < math.inf:
        raise ValueError(f"{name} is {value} and must be finite and above 0")
    return number


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama-3.1 scaling of rotary frequencies (arXiv 2407.21783): long wavelengths are divided by ``factor``."""

    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192

    def __post_init__(self) -> None:
        for name in ("factor", "low_freq_factor", "high_freq_factor"):
            check_positive(f"rope scaling's {name}", getattr(self, name))
        check_whole("rope scaling's original_context", self.original_context)
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError(
                f"rope scaling's low_freq_factor {self.low_freq_factor} must be below its high_freq_factor "
                f"{self.high_freq_factor}"
            )


@dataclasses.dataclass(frozen=True)
class Numerics:
    """How a run computes a decoder: its own affair, and in no checkpoint."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations and of the weights in products."""
    remat: Literal["none", "block", "dots"] = "none"
    """What the backward pass computes again instead of storing it."""
    attention: Literal["auto", "xla", "cudnn"] = "auto"
    """Attention kernel of training and prefill; auto: cudnn for bfloat16 on a GPU."""
    unroll: bool = False
    """Compile the blocks one by one: faster updates, longer compilation."""
    gather: Literal["auto", "update", "layer"] = "auto"
    """Collect weights split over the data axis once an update, or by layer in each pass; auto: once up to 16 GiB."""


NUMERICS = tuple(field.name for field in dataclasses.fields(Numerics))
FREE_NUMERICS = tuple(name for name in NUMERICS if name != "dtype")  # with others of these a run may go on


_WHOLE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "context_length",
)


@dataclasses.dataclass(frozen=True)
class ModelConfig(Numerics):
    """Shapes of a decoder, which its checkpoint fixes, and its numerics, which the run does."""

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
    mlp_bias: bool = False  # on gate, up and down
    qk_norm: bool = False  # RMS norm of each query and key head (Qwen3)
    tie_embeddings: bool = True
    head: Literal["vocabulary", "scalar"] = "vocabulary"  # scalar: one number a position, as reward models give

    def __post_init__(self) -> None:
        for name in _WHOLE:
            check_whole(name, getattr(self, name))
        for name in ("rope_theta", "norm_eps"):
            check_positive(name, getattr(self, name))
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is no multiple of num_kv_heads {self.num_kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd: rotary positions turn pairs")


def computed_as(config: ModelConfig, numerics: Numerics) -> ModelConfig:
    """The same decoder with these numerics."""
    return dataclasses.replace(config, **{name: getattr(numerics, name) for name in NUMERICS})
