"""The config of a decoder: frozen, and static under jit."""

from __future__ import annotations

import dataclasses
import math
import numbers
from typing import Any, Literal

from r1jax.kernels.platform import WantedKernels
from r1jax.settings import may_change

Architecture = Literal["llama", "qwen2", "qwen3", "mixtral", "qwen3_moe", "olmoe", "deepseek_v2", "deepseek_v3"]


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
class Yarn:
    """YaRN scaling of rotary frequencies (arXiv 2309.00071), with the temperature of DeepSeek-V2 (arXiv 2405.04434).

    Pairs that turn at least ``beta_fast`` times over the original context keep their frequency, those that turn at most
    ``beta_slow`` times are divided by ``factor``, and those between are interpolated. With m(x) = 1 + 0.1 x ln(factor),
    the rotated parts are multiplied by m(mscale) / m(mscale_all_dim), or by m(1) if one of the two is 0, and the scores
    of latent attention by m(mscale_all_dim)^2.
    """

    factor: float = 40.0
    original_context: int = 4096
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0
    mscale_all_dim: float = 0.0
    attention_factor: float | None = None  # on the rotated parts, in place of the one computed from mscale
    truncate: bool = True  # round the limits of the interpolated pairs outwards to whole pairs

    def __post_init__(self) -> None:
        for name in ("factor", "beta_fast", "beta_slow"):
            check_positive(f"rope scaling {name}", getattr(self, name))
        check_whole("rope scaling original_context", self.original_context)
        if self.factor < 1:
            raise ValueError(f"rope scaling factor {self.factor} must be at least 1")
        if self.beta_slow >= self.beta_fast:
            raise ValueError(f"rope scaling beta_slow {self.beta_slow} must be below beta_fast {self.beta_fast}")
        for name in ("mscale", "mscale_all_dim"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"rope scaling {name} is {getattr(self, name)} and must be finite and at least 0")
        if self.attention_factor is not None:
            check_positive("rope scaling attention_factor", self.attention_factor)


@dataclasses.dataclass(frozen=True)
class Latent:
    """Multi-head latent attention (arXiv 2405.04434): the keys and values of all heads come from one vector per token.

    The key of a head is ``nope_dim`` numbers computed from the compressed vector of ``kv_rank``, and ``rope_dim``
    rotated numbers that all heads share. Decoding keeps only the compressed vector and the rotated part.
    """

    kv_rank: int = 512
    nope_dim: int = 128  # of a query or key of a head, without position
    rope_dim: int = 64  # of a query or key of a head, with rotary position
    value_dim: int = 128  # of a head
    query_rank: int = 0  # of the compressed queries; 0: queries are computed from the hidden states

    def __post_init__(self) -> None:
        for name in ("kv_rank", "nope_dim", "rope_dim", "value_dim"):
            check_whole(name, getattr(self, name))
        if self.query_rank:
            check_whole("query_rank", self.query_rank)
        if self.rope_dim % 2:
            raise ValueError(f"rope_dim {self.rope_dim} is odd: rotary embeddings rotate pairs of dimensions")


@dataclasses.dataclass(frozen=True)
class Experts:
    """Routed experts in place of the feed-forward block, of which each token uses a few, and shared experts.

    With a score s_e for each expert, the sigmoid or the softmax over experts of the router's output, the choice is the
    ``active`` experts with the highest s_e, plus the bias if there is one, among the ``active_groups`` best groups. The
    weight of a chosen expert is s_e without the bias, divided by their sum (normalise), times ``scale``.
    """

    number: int = 8  # routed experts
    active: int = 2  # experts of a token
    width: int = 64  # hidden size of an expert
    shared_width: int = 0  # hidden size of the shared experts together
    dense_layers: int = 0  # leading layers with a dense feed-forward block of intermediate_size
    scores: Literal["softmax", "sigmoid"] = "softmax"
    normalise: bool = True
    scale: float = 1.0
    groups: int = 1
    active_groups: int = 1
    group_score: Literal["highest", "two highest"] = "highest"  # of a group: its best score, or the sum of its best two
    bias: bool = False  # on the scores, for the choice alone; it balances the load (arXiv 2408.15664)

    def __post_init__(self) -> None:
        for name in ("number", "active", "width", "groups", "active_groups"):
            check_whole(f"experts: {name}", getattr(self, name))
        for name in ("shared_width", "dense_layers"):
            if getattr(self, name):
                check_whole(f"experts: {name}", getattr(self, name))
        check_positive("experts: scale", self.scale)
        if self.number % self.groups:
            raise ValueError(f"{self.number} experts do not divide into {self.groups} groups")
        if self.active_groups > self.groups:
            raise ValueError(f"{self.active_groups} active groups of experts, but there are only {self.groups} groups")
        size = self.number // self.groups
        if self.active > self.active_groups * size:
            raise ValueError(
                f"{self.active} active experts, but {self.active_groups} groups of {size} have only "
                f"{self.active_groups * size}"
            )
        if self.group_score == "two highest" and size < 2:
            raise ValueError(f"groups of {size} expert have no two highest scores")


@dataclasses.dataclass(frozen=True)
class ComputeOptions:
    """How the decoder is computed. These options belong to a run and are not stored in checkpoints."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute activations in this type, with weights cast to it for matrix products."""
    remat: Literal["none", "block", "dots"] = may_change("none")
    """Recompute in the backward pass, instead of storing: nothing, each block, or all but the matrix products."""
    attention: Literal["auto", "xla", "cudnn", "packed"] = may_change("auto")
    """Use this attention kernel in training and prefill; auto selects cudnn for bfloat16 on a GPU, else xla. packed is
    cudnn that in rows of several texts computes each text by itself, without a mask of all pairs of tokens of the row,
    on Hopper GPUs with jax 0.11.2 or newer; there, auto does so on one device for rows of more than 4,096 tokens."""
    kernels: WantedKernels = may_change("auto")
    """Compute decoding and the output head with these kernels on a GPU; auto selects those that were measured to be
    fastest, and plain uses none. triton has none for the output head."""
    unroll: bool = may_change(False)
    """Compile each block separately: updates are faster, compilation takes longer."""
    gather: Literal["auto", "update", "layer", "device"] = may_change("auto")
    """Gather weights split over the data axis once per update or in each layer; auto: per update up to 16 GiB. device:
    once per update, and each device computes its rows by itself, with the kernels of one device; gradients are added
    over the devices once per update, and each device holds a whole sum of them until then. It needs a mesh with a data
    axis alone and a model without experts."""
    accumulate: Literal["float32", "bfloat16"] = may_change("float32")
    """Add up the gradients of microbatches, and with --gather=device those of devices, in this type; bfloat16 halves
    the memory and rounds after each of them."""
    decoding_weights: Literal["copied", "stored"] = may_change("copied")
    """Decode with a copy of the layers in which matrices with the same input are joined (copied), or with the stored
    matrices, which on a GPU saves the memory of the copy and takes more kernels (stored). Latent attention copies."""


# Flags that save memory in an update, for the advice of an experiment that ran out of it.
SAVING_OPTIONS = "--remat=block, --accumulate=bfloat16 or --gather=layer"

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
    rope_scaling: RopeScaling | Yarn | None = None
    norm_eps: float = 1e-6
    attention_bias: bool = False  # on query, key and value
    output_bias: bool = False  # on the attention's output projection
    mlp_bias: bool = False  # on gate, up and down
    qk_norm: bool = False  # RMS norm of each query and key head (Qwen3)
    qk_norm_joint: bool = False  # with qk_norm: one RMS norm over all heads together (OLMoE)
    tie_embeddings: bool = True
    head: Literal["vocabulary", "scalar"] = "vocabulary"  # scalar: one number per position (reward models)
    latent: Latent | None = None  # latent attention, whose head_dim is nope_dim + rope_dim
    experts: Experts | None = None
    mtp_layers: int = 0  # layers of multi-token prediction after the others (arXiv 2412.19437, section 2.2)

    def __post_init__(self) -> None:
        for name in _WHOLE:
            check_whole(name, getattr(self, name))
        for name in ("rope_theta", "norm_eps"):
            check_positive(name, getattr(self, name))
        if isinstance(self.rope_scaling, Yarn) and self.rope_theta <= 1:
            raise ValueError(f"rope_theta is {self.rope_theta} and must be above 1 for YaRN")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        if self.latent is None and self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd: rotary embeddings rotate pairs of dimensions")
        if (latent := self.latent) is not None:
            if self.head_dim != latent.nope_dim + latent.rope_dim:
                raise ValueError(
                    f"head_dim {self.head_dim} is not nope_dim + rope_dim, {latent.nope_dim} + {latent.rope_dim}"
                )
            if self.num_kv_heads != self.num_heads:
                raise ValueError(f"latent attention has keys of {self.num_heads} heads, not of {self.num_kv_heads}")
            for name in ("attention_bias", "output_bias", "qk_norm"):
                if getattr(self, name):
                    raise ValueError(f"latent attention has no {name}")
        if self.experts is not None and self.experts.dense_layers >= self.num_layers:
            raise ValueError(f"{self.experts.dense_layers} dense layers of {self.num_layers} leave none with experts")
        if self.mtp_layers:
            check_whole("mtp_layers", self.mtp_layers)
            if self.architecture != "deepseek_v3":
                raise ValueError(f"mtp_layers {self.mtp_layers}: {self.architecture} has no multi-token prediction")
            if self.head == "scalar":
                raise ValueError(f"mtp_layers {self.mtp_layers}: a model with a scalar head predicts no tokens")

    @property
    def copies_layers(self) -> bool:
        """True if decoding has a copy of the layers, as latent attention always does."""
        return self.decoding_weights == "copied" or self.latent is not None

    @property
    def rotary_dim(self) -> int:
        """Dimensions of a query or key that are rotated."""
        return self.head_dim if self.latent is None else self.latent.rope_dim


def with_compute_options(config: ModelConfig, options: ComputeOptions) -> ModelConfig:
    """The config with the compute options of another config."""
    return dataclasses.replace(config, **{name: getattr(options, name) for name in COMPUTE_OPTIONS})
