"""Import of GGUF files of the ARCHITECTURES below, in all quantisations that the gguf library reads."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from r1jax.checkpoints.assemble import assemble
from r1jax.checkpoints.gguf_experts import KEY_UP, KV_UP, VALUE_UP, Keys, read_experts, read_latent, read_yarn
from r1jax.checkpoints.layout import Stored, check_arrays, stored_arrays
from r1jax.checkpoints.model import Model
from r1jax.errors import UserError
from r1jax.models import rotary
from r1jax.models.config import Architecture, ModelConfig, RopeScaling
from r1jax.tokenizer import Tokenizer
from r1jax.tokenizer.gguf_vocabulary import read_vocabulary

# The names of GGUF files, and ours. A deepseek2 that scores experts with the softmax is deepseek_v2.
ARCHITECTURES: dict[str, Architecture] = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3moe": "qwen3_moe",
    "deepseek2": "deepseek_v3",
}
_ROPE_FACTORS = "rope_freqs.weight"


def read_config(path: str | Path) -> ModelConfig:
    """Reads the config of a GGUF file without its weights; raises UserError if it is not supported."""
    metadata, tensors = _open(Path(path))
    return _config(metadata, tensors, Path(path))


def read_tokenizer(path: str | Path) -> Tokenizer:
    """Reads the tokenizer of a GGUF file without its weights; raises UserError if it is not supported."""
    return read_vocabulary(_open(Path(path))[0], Path(path))


def load_gguf(path: str | Path, dtype: str = "float32", shardings: Any | None = None) -> Model:
    """Loads a GGUF file, dequantised to ``dtype`` ("float32" or "bfloat16").

    ``shardings``, if given, is a tree of NamedSharding with the structure of the parameters.

    Raises UserError if the file is damaged or not supported, or if a tensor is missing or has the wrong shape.
    """
    path = Path(path)
    metadata, tensors = _open(path)
    config = _config(metadata, tensors, path)
    split = config.latent is not None and f"blk.0.{KV_UP}" not in tensors
    unused = (_ROPE_FACTORS,) if config.latent is None or split else (_ROPE_FACTORS, KEY_UP, VALUE_UP)
    expected = list(stored_arrays(config, "gguf split" if split else "gguf"))
    shapes = {name: _shape(tensor) for name, tensor in tensors.items() if not name.endswith(unused)}
    check_arrays(expected, shapes, path)

    def read(array: Stored) -> np.ndarray:
        tensor = tensors[array.name]
        try:
            return gguf.dequantize(tensor.data[array.part], tensor.tensor_type)
        except NotImplementedError as error:
            raise UserError(
                f"{path}: tensor {array.name} is of type {tensor.tensor_type.name}, which gguf cannot dequantise"
            ) from error

    tokenizer = read_vocabulary(metadata, path)
    return Model(config, assemble(expected, read, dtype, shardings), tokenizer)


def _open(path: Path) -> tuple[Mapping[str, Any], Mapping[str, gguf.ReaderTensor]]:
    """Metadata and memory-mapped tensors by name."""
    try:
        found = path.stat()
        return _parse(path, found.st_size, found.st_mtime_ns)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name a GGUF file") from error


# A large vocabulary takes seconds to parse, and a command reads the config, the tokenizer and the weights apart.
@functools.lru_cache(maxsize=2)
def _parse(path: Path, size: int, modified: int) -> tuple[Mapping[str, Any], Mapping[str, gguf.ReaderTensor]]:
    """What _open returns; ``size`` and ``modified`` identify the contents of the file."""
    try:
        reader = gguf.GGUFReader(path)
        metadata = {key: field.contents() for key, field in reader.fields.items()}
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        # The reader defines no exception type: a truncated file fails in various ways.
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is damaged or not a GGUF file ({reason}): download it again") from error
    return metadata, {tensor.name: tensor for tensor in reader.tensors}


def _shape(tensor: gguf.ReaderTensor) -> tuple[int, ...]:
    return tuple(reversed(tensor.shape.tolist()))  # GGUF lists the fastest dimension first


def _config(metadata: Mapping[str, Any], tensors: Mapping[str, gguf.ReaderTensor], path: Path) -> ModelConfig:
    if (parts := metadata.get("split.count", 1)) > 1:
        raise UserError(f"{path} is one of {parts} parts: join them with llama-gguf-split --merge")
    name = metadata.get("general.architecture")
    if name not in ARCHITECTURES:
        raise UserError(f"{path}: architecture {name} is not supported; supported: {', '.join(ARCHITECTURES)}")

    try:
        return _decoder(Keys(metadata, name, path), tensors)
    except ValueError as error:
        raise UserError(f"{path}: {error}: convert the model again") from error


def _decoder(keys: Keys, tensors: Mapping[str, gguf.ReaderTensor]) -> ModelConfig:
    """The config that the metadata and the names of the tensors describe."""
    name, path = keys.architecture, keys.path
    latent = read_latent(keys) if name == "deepseek2" else None
    if name in ("qwen3moe", "deepseek2"):
        experts = read_experts(keys, tensors)
    elif number := keys.value("expert_count", 0):
        raise UserError(f"{path}: {name} with {number} experts is not supported: take a dense model")
    else:
        experts = None
    if "token_embd.weight" not in tensors:
        raise UserError(f"{path}: tensor token_embd.weight is missing: the file is incomplete")
    heads = keys.whole("attention.head_count")
    if latent is not None:
        head_dim = latent.nope_dim + latent.rope_dim
    else:
        head_dim = keys.whole("attention.key_length", keys.whole("embedding_length") // heads)
    if latent is None and keys.value("rope.dimension_count", head_dim) != head_dim:
        raise UserError(f"{path}: {name}.rope.dimension_count below the head size {head_dim} is not supported")
    yarn = (kind := keys.value("rope.scaling.type", "none")) == "yarn" and latent is not None
    if kind != "none" and not yarn:
        raise UserError(f"{path}: rope type {kind} ({name}.rope.scaling.type) is not supported")
    config = ModelConfig(
        architecture="deepseek_v2" if latent and experts and experts.scores == "softmax" else ARCHITECTURES[name],
        vocab_size=_shape(tensors["token_embd.weight"])[0],
        hidden_size=keys.whole("embedding_length"),
        intermediate_size=keys.whole("feed_forward_length"),
        num_layers=keys.whole("block_count"),
        num_heads=heads,
        num_kv_heads=heads if latent else keys.whole("attention.head_count_kv", heads),
        head_dim=head_dim,
        context_length=keys.whole("context_length"),
        rope_theta=keys.positive("rope.freq_base", 10_000.0),
        rope_scaling=read_yarn(keys) if yarn else None,
        norm_eps=keys.positive("attention.layer_norm_rms_epsilon"),
        attention_bias="blk.0.attn_q.bias" in tensors,
        output_bias="blk.0.attn_output.bias" in tensors,
        mlp_bias="blk.0.ffn_gate.bias" in tensors,
        qk_norm="blk.0.attn_q_norm.weight" in tensors,
        tie_embeddings="output.weight" not in tensors,
        latent=latent,
        experts=experts,
    )
    if (factors := tensors.get(_ROPE_FACTORS)) is None:
        return config
    scaling = recover_rope_scaling(gguf.dequantize(factors.data, factors.tensor_type), config)
    if scaling is None:
        raise UserError(f"{path}: tensor {_ROPE_FACTORS} is not a rotary scaling of Llama 3.1: not supported")
    return dataclasses.replace(config, rope_scaling=scaling)


def recover_rope_scaling(factors: np.ndarray, config: ModelConfig) -> RopeScaling | None:
    """The Llama-3.1 scaling that divides the frequencies of ``config`` by ``factors`` [K/2]; None if there is none.

    For a blended pair, the kept share of its frequency is (context / (2 pi) * frequency - low) / (high - low). This is
    linear in the frequency, and its two coefficients give context and high for low = 1. The factors determine only the
    ratios context / low and high / low; all published models use low = 1.
    """
    frequencies = rotary.frequencies(config).astype(np.float64)
    if factors.shape != frequencies.shape:
        return None
    factor = float(factors.max())
    if not 0 < factor < math.inf:
        return None
    kept = (1 / factors.astype(np.float64) - 1 / factor) / max(1 - 1 / factor, 1e-9)
    blended = (kept > 1e-4) & (kept < 1 - 1e-4)
    scaling = RopeScaling(factor=factor)  # with the context and bounds of Llama 3.1
    if blended.sum() >= 2:
        slope, intercept = np.polyfit(frequencies[blended], kept[blended], 1)
        if slope <= 0 or intercept >= 0:
            return None
        high = 1 - 1 / intercept
        context = max(1, round(2 * math.pi * slope * (high - 1)))
        scaling = RopeScaling(factor=factor, high_freq_factor=round(high, 3), original_context=context)
    scaled = rotary.frequencies(dataclasses.replace(config, rope_scaling=scaling))
    return scaling if np.allclose(scaled * factors, frequencies, rtol=1e-4, atol=0) else None
