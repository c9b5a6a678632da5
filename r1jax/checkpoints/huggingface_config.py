"""Reads the config.json of a Hugging Face folder and refuses architectures that this project does not support."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r1jax.errors import UserError
from r1jax.models.config import Architecture, ModelConfig, RopeScaling, check_positive, check_whole


@dataclasses.dataclass(frozen=True)
class Family:
    """Properties of a Hugging Face architecture: fixed ones, and the values that its config.json may choose."""

    name: str  # in config.json's "architectures"
    biases: tuple[tuple[bool, bool], ...]  # allowed (attention_bias, output_bias)
    mlp_bias: bool  # allowed
    qk_norm: bool
    head_dim: int | None  # default if config.json has none; None: hidden_size / heads


CAUSAL, SCALAR = "ForCausalLM", "ForSequenceClassification"

FAMILIES: dict[Architecture, Family] = {
    "llama": Family("LlamaForCausalLM", ((False, False), (True, True)), mlp_bias=True, qk_norm=False, head_dim=None),
    "qwen2": Family("Qwen2ForCausalLM", ((True, False),), mlp_bias=False, qk_norm=False, head_dim=None),
    "qwen3": Family("Qwen3ForCausalLM", ((False, False), (True, True)), mlp_bias=False, qk_norm=True, head_dim=128),
}


def parse_config(file: Path) -> ModelConfig:
    """Reads a config.json; raises UserError, which names the file, if it is not valid or not supported."""
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{file} cannot be read ({reason}): a Hugging Face folder needs a valid config.json") from error
    try:
        return _config_of(raw)
    except KeyError as error:
        raise UserError(f"{file}: key {error} is missing: add it as in the published model") from error
    except ValueError as error:
        raise UserError(f"{file}: {error}: correct it as in the published model") from error
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def _config_of(raw: Any) -> ModelConfig:
    """Converts the parsed config.json.

    Raises KeyError for a missing key, ValueError for an invalid value, and UserError for an unsupported one.
    """
    if not isinstance(raw, dict):
        raise ValueError(f"contains {type(raw).__name__} instead of an object")
    architecture, scalar = _read_architecture(raw)
    family = FAMILIES[architecture]
    _refuse_unsupported(raw)

    def whole(key: str, default: int | None = None) -> int:
        value = default if raw.get(key) is None else raw[key]
        if value is None:
            raise KeyError(key)
        return check_whole(key, value)

    heads, hidden_size = whole("num_attention_heads"), whole("hidden_size")
    head_dim = family.head_dim
    if raw.get("head_dim") is None and head_dim is None:
        head_dim, rest = divmod(hidden_size, heads)
        if rest:
            raise ValueError(f"hidden_size {hidden_size} is not a multiple of num_attention_heads {heads}")
    asked = _flag(raw, "attention_bias")
    output_bias = dict(family.biases)
    attention_bias = asked if asked in output_bias else not asked  # Qwen2 always has these biases
    theta, scaling = _read_rope(raw)
    return ModelConfig(
        architecture=architecture,
        vocab_size=whole("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=whole("intermediate_size"),
        num_layers=whole("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=whole("num_key_value_heads", heads),
        head_dim=whole("head_dim", head_dim),
        context_length=whole("max_position_embeddings"),
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=check_positive("rms_norm_eps", raw.get("rms_norm_eps", 1e-6)),
        attention_bias=attention_bias,
        output_bias=output_bias[attention_bias],
        mlp_bias=family.mlp_bias and _flag(raw, "mlp_bias"),  # Qwen never has these biases
        qk_norm=family.qk_norm,
        tie_embeddings=_flag(raw, "tie_word_embeddings"),
        head="scalar" if scalar else "vocabulary",
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


def _refuse_unsupported(raw: Mapping[str, Any]) -> None:
    if (activation := raw.get("hidden_act", "silu")) not in ("silu", "swish"):  # two names of one function
        raise UserError(f"hidden_act {activation} is not supported, only silu")
    if quantisation := _object(raw, "quantization_config"):
        kind = quantisation.get("quant_method", "unknown")
        raise UserError(f"weights quantised by {kind} are not supported: use the 16-bit release or a GGUF file")
    layers = raw.get("layer_types")
    if not isinstance(layers, list | None):
        raise ValueError(f"layer_types is {layers!r} and must be a list of names")
    if others := [kind for kind in layers or () if kind not in ("full_attention", "sliding_attention")]:
        raise UserError(f"layers of type {others[0]} (layer_types) are not supported")
    if not _flag(raw, "use_sliding_window") or raw.get("sliding_window", 4096) is None:
        return
    check_whole("sliding_window", raw.get("sliding_window", 4096))
    full = raw.get("max_window_layers", 28)  # the first layers have no window; 28 is the default of transformers
    number = check_whole("num_hidden_layers", raw.get("num_hidden_layers"))
    if full != 0:
        check_whole("max_window_layers", full)
    if full < number if layers is None else "sliding_attention" in layers:
        raise UserError("sliding-window attention (use_sliding_window) is not supported")


def _read_rope(raw: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    rope = {**_object(raw, "rope_scaling"), **_object(raw, "rope_parameters")}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    theta = check_positive("rope_theta", rope.get("rope_theta", raw.get("rope_theta", 10_000.0)))
    if rope.get("partial_rotary_factor", raw.get("partial_rotary_factor")) not in (None, 1.0):
        raise UserError("partial_rotary_factor is not supported: all dimensions of a head are rotated")
    if nested := [key for key, value in rope.items() if isinstance(value, dict)]:
        raise UserError(f"separate rope_parameters for {nested[0]} are not supported")
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise UserError(f"rope type {kind} is not supported; supported: default, llama3")
    context = rope.get("original_max_position_embeddings") or raw["max_position_embeddings"]
    return theta, RopeScaling(
        factor=check_positive("rope factor", rope["factor"]),
        low_freq_factor=check_positive("low_freq_factor", rope["low_freq_factor"]),
        high_freq_factor=check_positive("high_freq_factor", rope["high_freq_factor"]),
        original_context=check_whole("original_max_position_embeddings", context),
    )
