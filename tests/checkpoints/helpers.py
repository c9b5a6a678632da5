"""Copies of the fixtures with another config or other weights, and as GGUF files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import safetensors
from gguf import GGMLQuantizationType as Type
from gguf import TokenType
from safetensors.numpy import load_file, save_file

from r1jax.checkpoints.huggingface import read_config as read_huggingface_config
from r1jax.models.config import ModelConfig, RopeScaling
from r1jax.models.rotary import frequencies
from r1jax.tokenizer.byte_pieces import byte_characters
from tests.helpers.paths import FIXTURES

NAMES = ["llama_tied", "llama_bias", "llama_mlp_bias", "qwen2", "qwen3"]
EXPERTS = ["deepseek_v3", "deepseek_v2", "deepseek_v2_lite", "mixtral", "qwen3_moe", "olmoe"]


def copy_of(name: str, folder: Path, **config: Any) -> Path:
    """A copy of a fixture with changes to its config; None drops a key."""
    shutil.copytree(FIXTURES / name, folder)
    values = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
    return folder


def edit_weights(folder: Path, **arrays: np.ndarray | None) -> None:
    """Adds, replaces or (None) drops tensors of a folder with one shard; "." is written "__" in names."""
    weights: dict[str, Any] = load_file(folder / "model.safetensors")
    weights |= {name.replace("__", "."): array for name, array in arrays.items()}
    save_file({k: v for k, v in weights.items() if v is not None}, folder / "model.safetensors")


ARCHS = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}
ARCHS |= {"qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE}
ARCHS |= dict.fromkeys(("deepseek_v2", "deepseek_v3"), gguf.MODEL_ARCH.DEEPSEEK2)


def interleaved(array: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head reordered so that the pairs (i, i + K/2) become neighbours, as llama.cpp keeps Llama's."""
    size = len(array) // heads
    order = [h * size + i + half * size // 2 for h in range(heads) for i in range(size // 2) for half in range(2)]
    return array[order]


def weights_of(name: str) -> dict[str, np.ndarray]:
    weights = {}
    for file in sorted((FIXTURES / name).glob("*.safetensors")):
        with safetensors.safe_open(file, framework="numpy") as f:
            weights |= {key: f.get_tensor(key).astype(np.float32) for key in f.keys()}  # noqa: SIM118
    return weights


def write_gguf(
    path: Path,
    config: ModelConfig,
    weights: dict[str, np.ndarray],
    kind: Type = Type.F32,
    encode: Callable[[np.ndarray, Type], np.ndarray] = gguf.quantize,
    **metadata: Any,
) -> Path:
    """A GGUF file of Hugging Face ``weights``, its matrices encoded as ``kind``.

    ``metadata`` adds or replaces keys ("." is written "__" in them); None drops one.
    """
    names = gguf.get_tensor_name_map(ARCHS[config.architecture], config.num_layers)
    arrays: dict[str, np.ndarray] = {}
    for key, array in weights.items():
        if config.architecture == "llama" and "q_proj" in key:
            array = interleaved(array, config.num_heads)
        if config.architecture == "llama" and "k_proj" in key:
            array = interleaved(array, config.num_kv_heads)
        arrays[names.get_name(key, try_suffixes=(".weight", ".bias")) or key] = array
    if isinstance(config.rope_scaling, RopeScaling):
        bare = frequencies(ModelConfig(head_dim=config.head_dim, rope_theta=config.rope_theta))
        arrays["rope_freqs.weight"] = bare / frequencies(config)

    tokens = ["<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", *byte_characters()[:122], "ab"]
    values: dict[str, Any] = {
        "block_count": config.num_layers,
        "context_length": config.context_length,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.key_length": config.head_dim,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": config.rope_theta,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
    }
    architecture = gguf.MODEL_ARCH_NAMES[ARCHS[config.architecture]]
    values = {f"{architecture}.{key}": value for key, value in values.items()}
    values |= {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [int(TokenType.CONTROL)] * 5 + [int(TokenType.NORMAL)] * (len(tokens) - 5),
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.chat_template": "{{ messages[0].content }}</s>",
    }
    values |= {key.replace("__", "."): value for key, value in metadata.items()}

    writer = gguf.GGUFWriter(path, values.pop("general.architecture", architecture))
    add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32, list: writer.add_array}
    add |= {bool: writer.add_bool}
    for key, value in values.items():
        if value is not None:
            add[type(value)](key, value)
    for key, array in arrays.items():
        if array.ndim > 1:
            writer.add_tensor(key, encode(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(key, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_fixture(name: str, path: Path, kind: Type = Type.F32, **metadata: Any) -> Path:
    return write_gguf(path, read_huggingface_config(FIXTURES / name), weights_of(name), kind, **metadata)
