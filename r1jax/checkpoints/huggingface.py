"""Import and export of Hugging Face folders: config.json, safetensors in one or more shards, tokenizer files."""

from __future__ import annotations

import dataclasses
import glob
import json
import math
import shutil
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
from safetensors.numpy import save_file

from r1jax.checkpoints import fp8
from r1jax.checkpoints.assemble import assemble
from r1jax.checkpoints.huggingface_config import (
    CAUSAL,
    FAMILIES,
    SCALAR,
    Storage,
    config_of,
    parse_config,
    parse_storage,
)
from r1jax.checkpoints.huggingface_experts import written_parts, written_rope
from r1jax.checkpoints.layout import Stored, check_arrays, mtp_copies, stored_arrays
from r1jax.checkpoints.model import Model
from r1jax.checkpoints.shards import Tensor, opened_tensors
from r1jax.disk import sync
from r1jax.errors import UserError
from r1jax.hub import INDEX, SINGLE
from r1jax.models.config import ModelConfig, Yarn
from r1jax.tokenizer import Tokenizer, load_tokenizer

_EMBEDDING, _OUTPUT = "model.embed_tokens.weight", "lm_head.weight"


def read_config(folder: str | Path) -> ModelConfig:
    """Reads the config of a Hugging Face folder, written by old or new versions of transformers.

    An output matrix that is stored and differs from the embedding is used even if tie_word_embeddings is true, with a
    warning, as in transformers 5. Layers of multi-token prediction are part of the config if the folder has weights of
    them: transformers writes none.

    Raises UserError if the architecture, rope type, activation, attention window or quantisation is not supported, or
    if a key is missing or has an invalid value.
    """
    folder = Path(folder)
    config = _with_mtp(parse_config(folder / "config.json"), folder)
    if not config.tie_embeddings or config.head == "scalar" or not any(folder.glob("*.safetensors")):
        return config
    with opened_tensors(folder) as tensors:
        embedding, output = tensors.get(_EMBEDDING), tensors.get(_OUTPUT)
        if embedding is None or output is None or embedding.equals(output):
            return config
    warnings.warn(
        f"{folder}: {_OUTPUT} is not the embedding although tie_word_embeddings is true: {_OUTPUT} is used",
        stacklevel=1,  # a fixed place, so that Python shows it once
    )
    return dataclasses.replace(config, tie_embeddings=False)


def _with_mtp(config: ModelConfig, folder: Path) -> ModelConfig:
    layers = parse_storage(folder / "config.json").mtp_layers
    if not layers or config.head == "scalar" or not any(folder.glob("*.safetensors")):
        return config
    with opened_tensors(folder) as tensors:
        found = _mtp_tensors(tensors, config, layers)
    return dataclasses.replace(config, mtp_layers=layers) if found else config


def _mtp_tensors(tensors: Mapping[str, Tensor], config: ModelConfig, layers: int) -> list[str]:
    """The names of the tensors of layers of multi-token prediction, which follow those of the decoder."""
    prefixes = tuple(f"model.layers.{config.num_layers + layer}." for layer in range(layers))
    return [name for name in tensors if name.startswith(prefixes)]


def config_json(config: ModelConfig, dtype: str, tokenizer: Tokenizer) -> dict[str, Any]:
    """The config.json of an export, with the rotary settings of old and new versions of transformers.

    Raises UserError if the Hugging Face architecture does not support this config.
    """
    family = FAMILIES[config.architecture]
    held = (config.attention_bias, config.output_bias) in family.biases and config.qk_norm == family.qk_norm
    if not held or config.mlp_bias > family.mlp_bias:
        raise UserError(
            f"{family.name} does not support attention_bias={config.attention_bias}, output_bias={config.output_bias}, "
            f"mlp_bias={config.mlp_bias}, qk_norm={config.qk_norm}: change ModelConfig.architecture"
        )
    scaling = None
    if isinstance(own := config.rope_scaling, Yarn):
        scaling = written_rope(own)
    elif own is not None:
        scaling = {
            "rope_type": "llama3",
            "factor": own.factor,
            "low_freq_factor": own.low_freq_factor,
            "high_freq_factor": own.high_freq_factor,
            "original_max_position_embeddings": own.original_context,
        }
    eos = tokenizer.eos_ids
    scalar = config.head == "scalar"
    entries = {
        "architectures": [family.name.replace(CAUSAL, SCALAR) if scalar else family.name],
        **({"id2label": {"0": "score"}, "label2id": {"score": 0}} if scalar else {}),
        "model_type": config.architecture,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling,
        "rope_parameters": {"rope_type": "default", **(scaling or {}), "rope_theta": config.rope_theta},
        "attention_bias": config.attention_bias,
        **({"mlp_bias": config.mlp_bias} if family.mlp_bias else {}),
        "use_sliding_window": False,
        "sliding_window": None,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": eos[0] if len(eos) == 1 else list(eos),
        "pad_token_id": tokenizer.pad_id,
        "torch_dtype": dtype,
        "dtype": dtype,
        **written_parts(config),
    }
    _check_round_trip(entries, config)
    return entries


def _check_round_trip(entries: dict[str, Any], config: ModelConfig) -> None:
    """Raises UserError for parts of the config that the architecture does not support."""
    name = entries["architectures"][0]
    try:
        again = config_of(entries)
    except (KeyError, ValueError, UserError) as error:
        raise UserError(f"{name} does not support this config ({error}): change ModelConfig.architecture") from error
    for part in ("experts", "latent", "rope_scaling", "qk_norm_joint"):
        if getattr(again, part) != getattr(config, part):
            raise UserError(
                f"{name} does not support {part}={getattr(config, part)}: it would be read as {getattr(again, part)}; "
                "change ModelConfig.architecture"
            )
    if config.latent is not None and config.experts is not None and not config.experts.shared_width:
        raise UserError(f"{name} needs shared experts: set Experts.shared_width")


def load_huggingface(folder: str | Path, dtype: str = "float32", shardings: Any | None = None) -> Model:
    """Loads a folder with config.json, safetensors and tokenizer files of an architecture of FAMILIES.

    Each expert may be stored alone or, as transformers holds them in memory, with all others of its layer. Parameters
    are cast to ``dtype`` ("float32" or "bfloat16"); ``shardings``, if given, is a tree of NamedSharding with their
    structure.

    Raises UserError if a file is missing, damaged or not supported, or if a tensor is missing or has the wrong shape.
    """
    folder = Path(folder)
    config, storage = read_config(folder), parse_storage(folder / "config.json")
    tokenizer = load_tokenizer(folder)
    with opened_tensors(folder) as tensors:
        used = _without_redundant(_without_mtp(tensors, config, storage, folder), config)
        _check_output(used, config, folder)
        scales = fp8.check_scales(used, folder) if storage.fp8 else {}
        apart = {tensor.name for tensor in scales.values()}
        used = {name: tensor for name, tensor in used.items() if name not in apart}
        fused = any(name.endswith(".mlp.experts.gate_up_proj") for name in used)
        expected = list(stored_arrays(config, "fused" if fused else "huggingface", storage.interleaved))
        check_arrays(expected, {name: tensor.shape for name, tensor in used.items()}, folder)
        for name, tensor in used.items():
            if (kind := tensor.dtype) not in ("F32", "F16", "BF16") and name not in scales:
                raise UserError(f"{folder}: tensor {name} is of type {kind}; F32, F16 and BF16 are supported")

        def read(array: Stored) -> np.ndarray:
            values = used[array.name].read(array.part)
            return fp8.dequantise(values, scales[array.name].read()) if array.name in scales else values

        params = assemble(expected, read, dtype, shardings)
    return Model(config, params, tokenizer)


def _without_mtp(
    tensors: Mapping[str, Tensor], config: ModelConfig, storage: Storage, folder: Path
) -> Mapping[str, Tensor]:
    """The tensors without those of multi-token prediction that are not read.

    These are the copies of the embedding and the output matrix, and in a reward model all, with a warning.
    """
    if config.mtp_layers:
        copies = {array.name: array.shape for array in mtp_copies(config)}
        for name in copies.keys() & tensors.keys():
            if tensors[name].shape != copies[name]:
                raise UserError(
                    f"{folder}: tensor {name} has shape {tensors[name].shape} but the config expects {copies[name]}: "
                    "one of the two belongs to another model"
                )
        return {name: tensor for name, tensor in tensors.items() if name not in copies}
    skipped = set(_mtp_tensors(tensors, config, storage.mtp_layers))
    if skipped:
        warnings.warn(
            f"{folder}: the layers of multi-token prediction ({len(skipped)} tensors) are not read: a reward model "
            "predicts no tokens",
            stacklevel=1,
        )
    return {name: tensor for name, tensor in tensors.items() if name not in skipped}


def _without_redundant(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The tensors without rotary frequencies (stored in old checkpoints) and without an unused output matrix.

    The output matrix is unused in reward models, and if it equals the embedding. If only the output matrix is stored,
    it becomes the embedding.
    """
    used = {name: tensor for name, tensor in tensors.items() if not name.endswith("rotary_emb.inv_freq")}
    if config.head == "scalar":
        used.pop(_OUTPUT, None)
    elif config.tie_embeddings and _OUTPUT in used:
        used.setdefault(_EMBEDDING, used.pop(_OUTPUT))
    return used


def _check_output(found: Mapping[str, Tensor], config: ModelConfig, folder: Path) -> None:
    if config.head == "vocabulary" and not config.tie_embeddings and _OUTPUT not in found:
        raise UserError(
            f"{folder}: tensor {_OUTPUT} is missing and tie_word_embeddings is not set in config.json: the file is "
            "incomplete, or the output matrix is the embedding and tie_word_embeddings must be true"
        )


def save_huggingface(model: Model, folder: str | Path, shard_bytes: int = 5 * 2**30, replace: bool = False) -> None:
    """Writes a folder that transformers and load_huggingface read, with weights in the dtype of the parameters.

    A new shard starts when one would exceed ``shard_bytes``. The files are written to a temporary folder that is
    renamed at the end, so a killed export leaves no incomplete ``folder``. The next export removes what is left.

    Raises UserError if ``folder`` cannot be written, or if it is not empty and ``replace`` is false.
    """
    folder = Path(folder)
    dtype = str(jax.tree.leaves(model.params)[0].dtype)
    config = config_json(model.config, dtype, model.tokenizer)
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not replace)):
        raise UserError(f"{folder} exists and is not empty: remove it or choose another folder")
    partial, old = (folder.parent / f".{folder.name}.{uuid.uuid4().hex}" for _ in range(2))
    try:
        for left in folder.parent.glob(f".{glob.escape(folder.name)}.{'[0-9a-f]' * 32}"):
            shutil.rmtree(left)
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): choose another folder") from error
    try:
        model.tokenizer.save(partial)
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        _save_weights(model, partial, shard_bytes)
        for file in partial.iterdir():
            sync(file)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        sync(folder.parent)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{folder} cannot be written ({error}): free disk space or choose another folder") from error
    finally:
        for left in (partial, old):
            shutil.rmtree(left, ignore_errors=True)


def _save_weights(model: Model, folder: Path, shard_bytes: int) -> None:
    def weight(array: Stored) -> jax.Array:
        leaf = model.params
        for key in array.path:
            leaf = leaf[key]
        return leaf

    shards: list[list[Stored]] = [[]]
    sizes = [0]
    for array in [*stored_arrays(model.config, "huggingface"), *mtp_copies(model.config)]:
        size = math.prod(array.shape) * weight(array).dtype.itemsize
        if shards[-1] and sizes[-1] + size > shard_bytes:
            shards.append([])
            sizes.append(0)
        shards[-1].append(array)
        sizes[-1] += size

    names = {}
    for i, shard in enumerate(shards, 1):
        file = SINGLE if len(shards) == 1 else f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        # transformers refuses files without this metadata.
        arrays = {array.name: array.from_own(np.asarray(weight(array)[array.index])) for array in shard}
        save_file(arrays, folder / file, metadata={"format": "pt"})
        shutil.copymode(folder / "config.json", folder / file)  # safetensors makes the file readable only by its owner
        names |= dict.fromkeys(arrays, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes)}, "weight_map": names}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
