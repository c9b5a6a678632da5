"""Checkpoints with experts in other formats than that of the fixtures, built without the table of r1jax."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from r1jax.checkpoints.huggingface import read_config
from r1jax.models.config import ModelConfig, Yarn
from tests.checkpoints.helpers import copy_of, weights_of, write_gguf
from tests.helpers.paths import FIXTURES

_EXPERT = re.compile(r"(model\.layers\.\d+\.)(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(\w+)\.weight")
_OF_MIXTRAL = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}


def joined(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The experts of each layer in one array, LAYER.mlp.experts.gate_proj [E, F, D] and so on."""
    experts: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
    kept = {}
    for name, array in weights.items():
        if match := _EXPERT.fullmatch(name):
            layer, expert, kind = match.groups()
            experts[f"{layer}mlp.experts.{_OF_MIXTRAL.get(kind, kind)}"][int(expert)] = array
        else:
            kept[name.replace("block_sparse_moe.gate", "mlp.gate")] = array
    return kept | {name: np.stack([rows[i] for i in range(len(rows))]) for name, rows in experts.items()}


def fused_copy(name: str, folder: Path) -> Path:
    """A copy of a fixture with the names and arrays of transformers' save_original_format=False."""
    weights = joined(weights_of(name))
    for key in [key for key in weights if key.endswith("experts.gate_proj")]:
        layer = key.removesuffix("gate_proj")
        both = [weights.pop(key), weights.pop(f"{layer}up_proj")]
        weights[f"{layer}gate_up_proj"] = np.concatenate(both, axis=1)
    copy_of(name, folder)
    save_file(weights, folder / "model.safetensors")
    return folder


def fp8_copy(name: str, folder: Path) -> dict[str, np.ndarray]:
    """Writes a copy of a fixture with its projections in fp8, and returns the weights that it stands for."""
    copy_of(name, folder, quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})
    stored, meant = {}, {}
    for key, array in weights_of(name).items():
        stored[key] = meant[key] = array
        if "_proj" in key:
            scale = np.float32(np.abs(array).max() / 448)
            low = (array / scale).astype(ml_dtypes.float8_e4m3fn)
            stored[key], stored[f"{key}_scale_inv"] = low, np.full((1, 1), scale)
            meant[key] = low.astype(np.float32) * scale
    write_safetensors(folder / "model.safetensors", stored)
    return meant


def write_safetensors(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes a safetensors file with arrays in float32 and fp8, which the library does not write from numpy."""
    table, begin = {}, 0
    for name, array in arrays.items():
        kind = "F32" if array.dtype == np.float32 else "F8_E4M3"
        table[name] = {"dtype": kind, "shape": array.shape, "data_offsets": (begin, begin + array.nbytes)}
        begin += array.nbytes
    text = json.dumps(table).encode()
    data = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def write_expert_gguf(name: str, path: Path, split: bool = False, **metadata: Any) -> Path:
    """A GGUF file of a fixture, as llama.cpp converts it; ``split`` stores latent attention's keys and values apart."""
    config = read_config(FIXTURES / name)
    weights = {}
    for key, array in joined(weights_of(name)).items():
        name = key.replace("e_score_correction_bias", "e_score_correction.bias")
        if split and "kv_b_proj" in key:
            assert config.latent is not None
            both = array.reshape(config.num_heads, -1, config.latent.kv_rank)
            keys, values = np.split(both, [config.latent.nope_dim], axis=1)
            weights[name.replace("kv_b_proj", "k_b_proj")] = np.ascontiguousarray(keys.swapaxes(1, 2))
            weights[name.replace("kv_b_proj", "v_b_proj")] = values
        else:
            weights[name if "experts" not in name or "shared" in name else f"{name}.weight"] = array
    return write_gguf(path, config, weights, **(_keys(config, split) | metadata))


def _keys(config: ModelConfig, split: bool) -> dict[str, Any]:
    """The metadata of experts and latent attention that convert_hf_to_gguf.py writes."""
    experts, latent = config.experts, config.latent
    assert experts is not None
    keys: dict[str, Any] = {
        "expert_count": experts.number,
        "expert_used_count": experts.active,
        "expert_feed_forward_length": experts.width,
    }
    if latent is None:
        return {f"qwen3moe.{key}".replace(".", "__"): value for key, value in keys.items()}
    keys |= {
        "expert_shared_count": experts.shared_width // experts.width,
        "expert_weights_scale": experts.scale,
        "expert_weights_norm": experts.normalise,
        "expert_gating_func": 2 if experts.scores == "sigmoid" else 1,
        "expert_group_count": experts.groups,
        "expert_group_used_count": experts.active_groups,
        "leading_dense_block_count": experts.dense_layers,
        "attention.kv_lora_rank": latent.kv_rank,
        "rope.dimension_count": latent.rope_dim,
    }
    if latent.query_rank:
        keys["attention.q_lora_rank"] = latent.query_rank
    ending = "_mla" if split else ""
    keys |= {f"attention.key_length{ending}": config.head_dim, f"attention.value_length{ending}": latent.value_dim}
    if split:  # as attention with one key head
        rank = latent.kv_rank
        keys |= {"attention.head_count_kv": 1, "attention.key_length": rank + latent.rope_dim}
        keys |= {"attention.value_length": rank}
    if isinstance(yarn := config.rope_scaling, Yarn):
        keys |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": yarn.factor,
            "rope.scaling.original_context_length": yarn.original_context,
            "rope.scaling.yarn_log_multiplier": 0.1 * yarn.mscale_all_dim,
            "rope.scaling.yarn_beta_fast": yarn.beta_fast,
        }
    return {f"deepseek2.{key}".replace(".", "__"): value for key, value in keys.items()}
