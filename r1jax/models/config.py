"""The config of a decoder: frozen, and static under jit."""

from __future__ import annotations

import dataclasses
import math
import numbers
from typing import Any, Literal

from r1jax.settings import may_change

Architecture = Literal["llama", "qwen2", "qwen3"]


def check_whole(name: str, value: Any) -> int:
    """Returns ``value`` if it is a whole number of at least 1; otherwise raises ValueError with ``name``."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise ValueError(f"{name} is {value!r} and must be a whole number")
    if value < 1:
        raise ValueError(f"{name} is {value} and must be at least 1")
    return int(value)


def check_positive(name: str, value: Any) -> float:
    """Returns ``value`` as a float if it is finite and above 0; otherwise raises ValueError with ``name``."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise ValueError(f"{name} is {value!r} and must be a number")
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
            check_positive(f"rope scaling {name}", getattr(self, name))
        check_whole("rope scaling original_context", self.original_context)
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError(
                f"rope scaling low_freq_factor {self.low_freq_factor} must be below high_freq_factor "
                f"{self.high_freq_factor}"
            )


@dataclasses.dataclass(frozen=True)
class ComputeOptions:
    """How the decoder is computed. These options belong to a run and are not stored in checkpoints."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute activations in this type, with weights cast to it for matrix products."""
    remat: Literal["none", "block", "dots"] = may_change("none")
    """Recompute in the backward pass, instead of storing: nothing, each block, or all but the matrix products."""
    attention: Literal["auto", "xla", "cudnn"] = may_change("auto")
    """Use this attention kernel in training and prefill; auto selects cudnn for bfloat16 on a GPU, else xla."""
    unroll: bool = may_change(False)
    """Compile each block separately: updates are faster, compilation takes longer."""
    gather: Literal["auto", "update", "layer"] = may_change("auto")
    """Gather weights split over the data axis once per update or in each layer; auto: per update up to 16 GiB."""


COMPUTE_OPTIONS = tuple(field.name for field in dataclasses.fields(ComputeOptions))

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
class ModelConfig(ComputeOptions):
    """Architecture of a decoder, which its checkpoint fixes, and the options of its computation, which the run sets."""

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
    head: Literal["vocabulary", "scalar"] = "vocabulary"  # scalar: one number per position (reward models)

    def __post_init__(self) -> None:
        for name in _WHOLE:
            check_whole(name, getattr(self, name))
        for name in ("rope_theta", "norm_eps"):
            check_positive(name, getattr(self, name))
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd: rotary embeddings rotate pairs of dimensions")


def with_compute_options(config: ModelConfig, options: ComputeOptions) -> ModelConfig:
    """The config with the compute options of another config."""
    return dataclasses.replace(config, **{name: getattr(options, name) for name in COMPUTE_OPTIONS})
