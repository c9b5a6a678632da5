"""Reads the config.json of a Hugging Face folder and refuses architectures that this project does not support."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from r1jax.checkpoints.fp8 import BLOCK
from r1jax.checkpoints.huggingface_experts import LATENT, ROUTED, read_experts, read_latent, read_yarn
from r1jax.errors import UserError
from r1jax.models.config import Architecture, ModelConfig, RopeScaling, Yarn, check_positive, check_whole


@dataclasses.dataclass(frozen=True)
class Family:
    """Properties of a Hugging Face architecture: fixed ones, and the values that its config.json may choose."""

    name: str  # in config.json's "architectures"
    biases: tuple[tuple[bool, bool], ...]  # allowed (attention_bias, output_bias)
    mlp_bias: bool  # allowed
    qk_norm: bool
    head_dim: int | None  # default if config.json has none; None: hidden_size / heads
    qk_norm_joint: bool = False
    rope_theta: float = 10_000.0  # default
    norm_eps: float = 1e-6  # default


CAUSAL, SCALAR = "ForCausalLM", "ForSequenceClassification"

FAMILIES: dict[Architecture, Family] = {
    "llama": Family("LlamaForCausalLM", ((False, False), (True, True)), mlp_bias=True, qk_norm=False, head_dim=None),
    "qwen2": Family("Qwen2ForCausalLM", ((True, False),), mlp_bias=False, qk_norm=False, head_dim=None),
    "qwen3": Family("Qwen3ForCausalLM", ((False, False), (True, True)), mlp_bias=False, qk_norm=True, head_dim=128),
    "mixtral": Family(
        "MixtralForCausalLM",
        ((False, False),),
        mlp_bias=False,
        qk_norm=False,
        head_dim=None,
        rope_theta=1e6,
        norm_eps=1e-5,
    ),
    "qwen3_moe": Family(
        "Qwen3MoeForCausalLM", ((False, False), (True, True)), mlp_bias=False, qk_norm=True, head_dim=None
    ),
    "olmoe": Family(
        "OlmoeForCausalLM",
        ((False, False), (True, True)),
        mlp_bias=False,
        qk_norm=True,
        head_dim=None,
        qk_norm_joint=True,
        norm_eps=1e-5,
    ),
    "deepseek_v2": Family("DeepseekV2ForCausalLM", ((False, False),), mlp_bias=False, qk_norm=False, head_dim=None),
    "deepseek_v3": Family("DeepseekV3ForCausalLM", ((False, False),), mlp_bias=False, qk_norm=False, head_dim=None),
}


@dataclasses.dataclass(frozen=True)
class Storage:
    """How a folder stores the weights, where folders of one architecture differ."""

    interleaved: bool  # rotary pairs are neighbours, not two halves
    fp8: bool  # some weights are in fp8, with a scale for each block of fp8.BLOCK
    mtp_layers: int  # of multi-token prediction, which the folder may lack


def parse_config(file: Path) -> ModelConfig:
    """Reads a config.json; raises UserError, which names the file, if it is not valid or not supported."""
    return _parsed(file, config_of)


def parse_storage(file: Path) -> Storage:
    """Reads from a config.json how the weights are stored; raises as parse_config."""
    return _parsed(file, _storage_of)


def _parsed(file: Path, read: Callable[[Any], Any]) -> Any:
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{file} cannot be read ({reason}): a Hugging Face folder needs a valid config.json") from error
    try:
        return read(raw)
    except KeyError as error:
        raise UserError(f"{file}: key {error} is missing: add it as in the published model") from error
    except ValueError as error:
        raise UserError(f"{file}: {error}: correct it as in the published model") from error
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def _storage_of(raw: Mapping[str, Any]) -> Storage:
    architecture, _ = _read_architecture(raw)
    layers = raw.get("num_nextn_predict_layers") or 0
    return Storage(
        # transformers reads rope_interleave for DeepSeek-V3 only.
        interleaved=architecture == "deepseek_v2"
        or (architecture == "deepseek_v3" and raw.get("rope_interleave") is not False),
        fp8=_object(raw, "quantization_config").get("quant_method") == "fp8",
        mtp_layers=check_whole("num_nextn_predict_layers", layers) if layers else 0,
    )


def config_of(raw: Any) -> ModelConfig:
    """Converts the parsed config.json.

    Raises KeyError for a missing key, ValueError for an invalid value, and UserError for an unsupported one.
    """
    if not isinstance(raw, dict):
        raise ValueError(f"contains {type(raw).__name__} instead of an object")
    architecture, scalar = _read_architecture(raw)
    family = FAMILIES[architecture]
    _refuse_unsupported(raw, architecture)

    def whole(key: str, default: int | None = None) -> int:
        value = default if raw.get(key) is None else raw[key]
        if value is None:
            raise KeyError(key)
        return check_whole(key, value)

    heads, hidden_size = whole("num_attention_heads"), whole("hidden_size")
    latent = read_latent(raw) if architecture in LATENT else None
    if latent is not None:  # transformers writes the rotated part as head_dim
        head_dim = latent.nope_dim + latent.rope_dim
    elif raw.get("head_dim") is None and family.head_dim is None:
        head_dim, rest = divmod(hidden_size, heads)
        if rest:
            raise ValueError(f"hidden_size {hidden_size} is not a multiple of num_attention_heads {heads}")
    else:
        head_dim = whole("head_dim", family.head_dim)
    asked = _flag(raw, "attention_bias")
    output_bias = dict(family.biases)
    attention_bias = asked if asked in output_bias else not asked  # Qwen2 always has these biases
    theta, scaling = _read_rope(raw, architecture)
    return ModelConfig(
        architecture=architecture,
        vocab_size=whole("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=whole("intermediate_size"),
        num_layers=whole("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=whole("num_key_value_heads", heads),
        head_dim=head_dim,
        context_length=whole("max_position_embeddings"),
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=check_positive("rms_norm_eps", raw.get("rms_norm_eps", family.norm_eps)),
        attention_bias=attention_bias,
        output_bias=output_bias[attention_bias],
        mlp_bias=family.mlp_bias and _flag(raw, "mlp_bias"),  # Qwen never has these biases
        qk_norm=family.qk_norm,
        qk_norm_joint=family.qk_norm_joint,
        tie_embeddings=_flag(raw, "tie_word_embeddings"),
        head="scalar" if scalar else "vocabulary",
        latent=latent,
        experts=read_experts(raw, architecture) if architecture in ROUTED else None,
    )


def _read_architecture(raw: Mapping[str, Any]) -> tuple[Architecture, bool]:
    """The architecture, and True if it has a scalar head."""
    names = raw.get("architectures") or ["none named"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"architectures is {names!r} and must be a list of names")
    scalar = names[0].endswith(SCALAR)
    causal = names[0].removesuffix(SCALAR) + CAUSAL if scalar else names[0]
    architecture: Architecture | None = next((a for a, family in FAMILIES.items() if family.name == causal), None)
    if architecture is None:
        supported = ", ".join(family.name for family in FAMILIES.values())
        raise UserError(f"architecture {names[0]} is not supported; supported: {supported}")
    if scalar:
        # transformers omits default values
        labels = len(_object(raw, "id2label")) or check_whole("num_labels", raw.get("num_labels", 2))
        if labels != 1:
            raise UserError(f"a classifier with {labels} labels is not supported, only one with 1 label")
    return architecture, scalar


def _flag(raw: Mapping[str, Any], key: str) -> bool:
    """A boolean; False if it is missing or null."""
    if not isinstance(value := raw.get(key), bool | None):
        raise ValueError(f"{key} is {value!r} and must be true or false")
    return bool(value)


def _object(raw: Mapping[str, Any], key: str) -> dict[str, Any]:
    """An object; empty if it is missing or null."""
    if not isinstance(value := raw.get(key), dict | None):
        raise ValueError(f"{key} is {value!r} and must be an object")
    return value or {}


def _refuse_unsupported(raw: Mapping[str, Any], architecture: Architecture) -> None:
    if (activation := raw.get("hidden_act", "silu")) not in ("silu", "swish"):  # two names of one function
        raise UserError(f"hidden_act {activation} is not supported, only silu")
    if quantisation := _object(raw, "quantization_config"):
        kind = quantisation.get("quant_method", "unknown")
        if kind != "fp8":
            raise UserError(f"weights quantised by {kind} are not supported: use the 16-bit release or a GGUF file")
        if (block := quantisation.get("weight_block_size")) != list(BLOCK):
            raise UserError(f"fp8 weights with weight_block_size {block} are not supported, only {list(BLOCK)}")
    if (clip := raw.get("clip_qkv")) is not None:
        raise UserError(f"clip_qkv {clip} is not supported")
    layers = raw.get("layer_types")
    if not isinstance(layers, list | None):
        raise ValueError(f"layer_types is {layers!r} and must be a list of names")
    if others := [kind for kind in layers or () if kind not in ("full_attention", "sliding_attention")]:
        raise UserError(f"layers of type {others[0]} (layer_types) are not supported")
    if architecture == "mixtral" and raw.get("sliding_window") is not None:
        raise UserError(f"sliding_window {raw['sliding_window']} is not supported")
    if not _flag(raw, "use_sliding_window") or raw.get("sliding_window", 4096) is None:
        return
    check_whole("sliding_window", raw.get("sliding_window", 4096))
    full = raw.get("max_window_layers", 28)  # the first layers have no window; 28 is the default of transformers
    number = check_whole("num_hidden_layers", raw.get("num_hidden_layers"))
    if full != 0:
        check_whole("max_window_layers", full)
    if architecture == "qwen3_moe" or (full < number if layers is None else "sliding_attention" in layers):
        raise UserError("sliding-window attention (use_sliding_window) is not supported")


def _read_rope(raw: Mapping[str, Any], architecture: Architecture) -> tuple[float, RopeScaling | Yarn | None]:
    rope = {**_object(raw, "rope_scaling"), **_object(raw, "rope_parameters")}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    theta = check_positive(
        "rope_theta", rope.get("rope_theta", raw.get("rope_theta", FAMILIES[architecture].rope_theta))
    )
    if rope.get("partial_rotary_factor", raw.get("partial_rotary_factor")) not in (None, 1.0):
        raise UserError("partial_rotary_factor is not supported: all dimensions of a head are rotated")
    if nested := [key for key, value in rope.items() if isinstance(value, dict)]:
        raise UserError(f"separate rope_parameters for {nested[0]} are not supported")
    if kind == "default":
        return theta, None
    if kind == "yarn" and architecture in LATENT:
        return theta, read_yarn(rope, raw["max_position_embeddings"])
    if kind != "llama3" or architecture in LATENT:
        supported = "yarn" if architecture in LATENT else "llama3"
        raise UserError(f"rope type {kind} is not supported; supported: default, {supported}")
    context = rope.get("original_max_position_embeddings") or raw["max_position_embeddings"]
    return theta, RopeScaling(
        factor=check_positive("rope factor", rope["factor"]),
        low_freq_factor=check_positive("low_freq_factor", rope["low_freq_factor"]),
        high_freq_factor=check_positive("high_freq_factor", rope["high_freq_factor"]),
        original_context=check_whole("original_max_position_embeddings", context),
    )
