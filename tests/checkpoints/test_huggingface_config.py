"""Configs of Hugging Face folders: what is read from them, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from r1jax.checkpoints.huggingface import read_config
from r1jax.errors import UserError
from r1jax.models.config import ModelConfig, RopeScaling
from tests.checkpoints.helpers import copy_of
from tests.helpers.paths import FIXTURES

WHOLE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)
SWITCHES = ("tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window")
ROPE_TYPES = ("linear", "dynamic", "yarn", "longrope", "mrope")
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def test_every_field_of_a_config_is_read() -> None:
    assert read_config(FIXTURES / "llama_tied") == ModelConfig(
        architecture="llama",
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        context_length=128,
        rope_theta=100.0,
        rope_scaling=RopeScaling(factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=64),
        norm_eps=1e-6,
        tie_embeddings=True,
    )
    old = read_config(FIXTURES / "llama_bias")
    assert (old.num_kv_heads, old.head_dim, old.rope_theta) == (4, 8, 5000.0)
    assert (old.attention_bias, old.output_bias, old.tie_embeddings) == (True, True, False)
    qwen2 = read_config(FIXTURES / "qwen2")
    assert (qwen2.attention_bias, qwen2.output_bias, qwen2.qk_norm) == (True, False, False)
    qwen3 = read_config(FIXTURES / "qwen3")
    assert (qwen3.attention_bias, qwen3.qk_norm, qwen3.rope_theta) == (False, True, 1e6)


@pytest.mark.parametrize("key", ["rope_type", "type"])
def test_old_and_new_spelling_of_rotary_settings_agree(key: str, tmp_path: Path) -> None:
    new = read_config(FIXTURES / "llama_tied")
    scaling = {key: "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = 64
    old = copy_of("llama_tied", tmp_path / "old", rope_parameters=None, rope_theta=100.0, rope_scaling=scaling)
    assert read_config(old) == new


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architectures": ["MistralForCausalLM"]}, "MistralForCausalLM is not supported; supported: LlamaForCausalLM"),
        ({"architectures": None}, "architecture none named is not supported"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "rope_parameters": None}, "rope type yarn"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 4.0}}, "key 'low_freq_factor' is missing"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"hidden_act": "gelu"}, "hidden_act gelu"),
        ({"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1}, "sliding-window"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised by gptq"),
        ({"hidden_size": None}, "key 'hidden_size' is missing"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers is 'two' and must be a whole number"),
        ({"num_key_value_heads": 3}, "num_heads 4 is not a multiple of num_kv_heads 3"),
        *(({key: 0}, f"{key} is 0 and must be at least 1") for key in WHOLE),
        *(({key: -2}, f"{key} is -2 and must be at least 1") for key in WHOLE),
        *(({key: "8"}, f"{key} is '8' and must be a whole number") for key in WHOLE),
        *(({key: 8.5}, f"{key} is 8.5 and must be a whole number") for key in WHOLE),
        *(({key: True}, f"{key} is True and must be a whole number") for key in WHOLE),
        *(({key: "no"}, f"{key} is 'no' and must be true or false") for key in SWITCHES),
        *(({key: 0}, f"{key} is 0 and must be true or false") for key in SWITCHES),
        ({"head_dim": 7}, "head_dim 7 is odd"),
        ({"head_dim": None, "hidden_size": 30}, "hidden_size 30 is not a multiple of num_attention_heads 4"),
        ({"rms_norm_eps": "1e-6"}, "rms_norm_eps is '1e-6' and must be a number"),
        ({"rms_norm_eps": -1e-6}, "rms_norm_eps is -1e-06 and must be finite and above 0"),
        ({"rms_norm_eps": math.nan}, "rms_norm_eps is nan and must be finite"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps is 10+ and must be finite"),
        ({"rope_parameters": LLAMA3 | {"factor": 10**400}}, "rope factor is 10+ and must be finite"),
        ({"rope_parameters": {"rope_theta": [1e4]}}, r"rope_theta is \[10000.0\] and must be a number"),
        ({"rope_parameters": {"rope_theta": 0}}, "rope_theta is 0 and must be finite and above 0"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "separate rope_parameters for full_attention"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear' and must be an object"),
        *(({"rope_parameters": {"rope_type": kind, "factor": 2.0}}, f"rope type {kind} is not") for kind in ROPE_TYPES),
        ({"rope_parameters": LLAMA3 | {"factor": "8"}}, "rope factor is '8' and must be a number"),
        ({"rope_parameters": LLAMA3 | {"high_freq_factor": 1.0}}, "low_freq_factor 1.0 must be below"),
        (
            {"rope_parameters": LLAMA3 | {"original_max_position_embeddings": -1}},
            "original_max_position_embeddings is -1",
        ),
        ({"architectures": "LlamaForCausalLM"}, "architectures is 'LlamaForCausalLM' and must be a list of names"),
        ({"architectures": [3]}, r"architectures is \[3\]"),
        ({"layer_types": ["full_attention", "chunked_attention"]}, "layers of type chunked_attention"),
        ({"use_sliding_window": True, "max_window_layers": 0}, "sliding-window"),
        ({"use_sliding_window": True, "layer_types": ["full_attention", "sliding_attention"]}, "sliding-window"),
        ({"quantization_config": {"bits": 4}}, "quantised by unknown"),
        ({"quantization_config": "awq"}, "quantization_config is 'awq' and must be an object"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "classifier with 2 labels"),
    ],
)
def test_unsupported_and_wrong_configs_are_refused(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_config(copy_of("llama_tied", tmp_path / "model", **config))
    assert str(caught.value).startswith(f"{tmp_path}/model/config.json: ")


@pytest.mark.parametrize("text", ["[]", "null", '"llama"', "3"])
def test_a_config_that_is_not_an_object_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    folder = copy_of("llama_tied", tmp_path / "model")
    (folder / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json: contains .* instead of an object"):
        read_config(folder)


def test_a_config_nested_too_deep_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = copy_of("llama_tied", tmp_path / "model")
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        read_config(folder)


def test_null_and_absent_mean_the_default(tmp_path: Path) -> None:
    folder = copy_of("llama_bias", tmp_path / "model")
    file = folder / "config.json"
    nulls = dict.fromkeys(("num_key_value_heads", "head_dim", "mlp_bias", "tie_word_embeddings", "rope_scaling"))
    file.write_text(json.dumps(json.loads(file.read_text()) | nulls | {"partial_rotary_factor": None}))
    assert read_config(folder) == read_config(FIXTURES / "llama_bias")


def test_a_sliding_window_that_no_layer_uses_is_accepted(tmp_path: Path) -> None:
    window = {"sliding_window": 64, "max_window_layers": 1}
    read_config(copy_of("qwen2", tmp_path / "off", use_sliding_window=False, **window))
    unused = {"sliding_window": 64, "max_window_layers": 2}
    read_config(copy_of("qwen2", tmp_path / "above", use_sliding_window=True, layer_types=None, **unused))
    full = {"sliding_window": 64, "max_window_layers": 1, "layer_types": ["full_attention"] * 2}
    read_config(copy_of("qwen2", tmp_path / "full", use_sliding_window=True, **full))
