"""Hugging Face folders in and out: config.json, safetensors in one or many shards, and the tokenizer's files."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import json
import math
import re
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
from safetensors.numpy import save_file

from r1jax.checkpoints.layout import Stored, assemble, check_arrays, stored_arrays
from r1jax.checkpoints.model import Model
from r1jax.disk import sync
from r1jax.errors import UserError
from r1jax.models.config import Architecture, ModelConfig, RopeScaling
from r1jax.tokenizer import Tokenizer, load_tokenizer


@dataclasses.dataclass(frozen=True)
class Family:
    """What a Hugging Face architecture fixes or lets its config.json choose."""

    name: str  # in config.json's "architectures"
    biases: tuple[tuple[bool, bool], ...]  # allowed (attention_bias, output_bias)
    qk_norm: bool
    head_dim: int | None  # where config.json has none; None: hidden_size / heads


_CAUSAL, _SCALAR = "ForCausalLM", "ForSequenceClassification"

FAMILIES: dict[Architecture, Family] = {
    "llama": Family("LlamaForCausalLM", ((False, False), (True, True)), qk_norm=False, head_dim=None),
    "qwen2": Family("Qwen2ForCausalLM", ((True, False),), qk_norm=False, head_dim=None),
    "qwen3": Family("Qwen3ForCausalLM", ((False, False), (True, True)), qk_norm=True, head_dim=128),
}


def read_config(folder: str | Path) -> ModelConfig:
    """Reads config.json, in the spelling of old or new transformers, without touching the weights.

    Raises UserError naming what this project cannot compute: another architecture, rope type, activation, sliding
    window, quantisation, or a missing key.
    """
    file = Path(folder) / "config.json"
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{file} cannot be read ({reason}): a Hugging Face folder needs a valid one") from error

    names = raw.get("architectures") or ["none named"]
    scalar = names[0].endswith(_SCALAR)
    causal = names[0].removesuffix(_SCALAR) + _CAUSAL if scalar else names[0]
    architecture: Architecture | None = next((a for a, family in FAMILIES.items() if family.name == causal), None)
    labels = len(raw.get("id2label") or ()) or raw.get("num_labels", 2)  # transformers leaves out what is its default
    if scalar and labels != 1:
        raise UserError(f"{file}: a classifier of {labels} labels; one with 1 is supported")
    if architecture is None:
        supported = ", ".join(family.name for family in FAMILIES.values())
        raise UserError(f"{file}: architecture {names[0]} is not supported; these are: {supported}")
    family = FAMILIES[architecture]
    _refuse_unsupported(raw, file)

    def whole(key: str, default: int | None = None) -> int:
        value = default if raw.get(key) is None else raw[key]
        if value is None:
            raise KeyError(key)
        if not isinstance(value, int):
            raise ValueError(f"{key} is {value!r} where a whole number belongs")
        return value

    try:
        heads = whole("num_attention_heads")
        hidden_size = whole("hidden_size")
        asked = bool(raw.get("attention_bias", False))
        output_bias = dict(family.biases)
        attention_bias = asked if asked in output_bias else not asked  # Qwen2 has them whatever its config says
        theta, scaling = _read_rope(raw, file)
        return ModelConfig(
            architecture=architecture,
            vocab_size=whole("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=whole("intermediate_size"),
            num_layers=whole("num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=whole("num_key_value_heads", heads),
            head_dim=whole("head_dim", family.head_dim or hidden_size // heads),
            context_length=whole("max_position_embeddings"),
            rope_theta=theta,
            rope_scaling=scaling,
            norm_eps=raw.get("rms_norm_eps", 1e-6),
            attention_bias=attention_bias,
            output_bias=output_bias[attention_bias],
            qk_norm=family.qk_norm,
            tie_embeddings=raw.get("tie_word_embeddings", False),
            head="scalar" if scalar else "vocabulary",
        )
    except KeyError as error:
        raise UserError(f"{file}: key {error} is missing: complete it from the model's card") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"{file}: {error}: correct it from the model's card") from error


def _refuse_unsupported(raw: Mapping[str, Any], file: Path) -> None:
    if (activation := raw.get("hidden_act", "silu")) != "silu":
        raise UserError(f"{file}: hidden_act {activation} is not supported, only silu")
    if raw.get("mlp_bias"):
        raise UserError(f"{file}: mlp_bias is not supported: the feed-forward block has no biases here")
    if method := raw.get("quantization_config"):
        kind = method.get("quant_method", "unknown")
        raise UserError(f"{file}: weights quantised by {kind} are not supported: take the 16-bit release, or a GGUF")
    if raw.get("use_sliding_window") and raw.get("sliding_window"):
        layers = raw.get("layer_types") or []
        if "sliding_attention" in layers or raw.get("max_window_layers", 0) < raw.get("num_hidden_layers", 0):
            raise UserError(f"{file}: sliding-window attention (use_sliding_window) is not supported")


def _read_rope(raw: Mapping[str, Any], file: Path) -> tuple[float, RopeScaling | None]:
    rope = {**(raw.get("rope_scaling") or {}), **(raw.get("rope_parameters") or {})}
    kind = rope.get("rope_type", rope.get("type", "default"))
    theta = float(rope.get("rope_theta", raw.get("rope_theta", 10_000.0)))
    if rope.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0)) != 1.0:
        raise UserError(f"{file}: partial_rotary_factor is not supported: every pair of a head turns here")
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise UserError(f"{file}: rope type {kind} is not supported; default and llama3 are")
    return theta, RopeScaling(
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original_context=rope.get("original_max_position_embeddings") or raw["max_position_embeddings"],
    )


def config_json(config: ModelConfig, dtype: str, tokenizer: Tokenizer) -> dict[str, Any]:
    """config.json of an export, with rotary settings in both spellings.

    Raises UserError where no Hugging Face architecture computes what this config does.
    """
    family = FAMILIES[config.architecture]
    if (config.attention_bias, config.output_bias) not in family.biases or config.qk_norm != family.qk_norm:
        raise UserError(
            f"{family.name} cannot hold attention_bias={config.attention_bias}, output_bias={config.output_bias}, "
            f"qk_norm={config.qk_norm}: export under another ModelConfig.architecture"
        )
    scaling = None
    if (own := config.rope_scaling) is not None:
        scaling = {
            "rope_type": "llama3",
            "factor": own.factor,
            "low_freq_factor": own.low_freq_factor,
            "high_freq_factor": own.high_freq_factor,
            "original_max_position_embeddings": own.original_context,
        }
    eos = tokenizer.eos_ids
    scalar = config.head == "scalar"
    return {
        "architectures": [family.name.replace(_CAUSAL, _SCALAR) if scalar else family.name],
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
        "use_sliding_window": False,
        "sliding_window": None,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": eos[0] if len(eos) == 1 else list(eos),
        "pad_token_id": tokenizer.pad_id,
        "torch_dtype": dtype,
        "dtype": dtype,
    }


def load_huggingface(folder: str | Path, dtype: str = "float32", shardings: Any | None = None) -> Model:
    """Model of a folder with config.json, safetensors and tokenizer files; LlamaForCausalLM, Qwen2 and Qwen3.

    Parameters come in ``dtype`` ("float32" or "bfloat16"), each on its leaf of ``shardings`` (a tree of NamedSharding
    like the parameters) where one is given. Raises UserError naming what is missing, misshapen, damaged or not
    supported.
    """
    folder = Path(folder)
    config = read_config(folder)
    tokenizer = load_tokenizer(folder)
    expected = list(stored_arrays(config, "huggingface"))
    with contextlib.ExitStack() as stack:
        files: dict[str, Any] = {}
        for shard in _shards(folder):
            try:
                file = stack.enter_context(safetensors.safe_open(shard, framework="numpy"))
            except (OSError, safetensors.SafetensorError) as error:
                raise UserError(f"{shard} cannot be read ({error}): fetch it again") from error
            files |= dict.fromkeys(file.keys(), file)

        # Old checkpoints carry the rotary frequencies, and some repeat the tied embedding: both are redundant.
        repeated = config.tie_embeddings or config.head == "scalar"
        redundant = re.compile(r"rotary_emb\.inv_freq$" + (r"|^lm_head\.weight$" if repeated else ""))
        slices = {name: f.get_slice(name) for name, f in files.items() if not redundant.search(name)}
        check_arrays(expected, {name: tuple(s.get_shape()) for name, s in slices.items()}, folder)
        for name, part in slices.items():
            if (kind := part.get_dtype()) not in ("F32", "F16", "BF16"):
                raise UserError(f"{folder}: tensor {name} is of type {kind}; F32, F16 and BF16 are supported")
        params = assemble(expected, lambda array: files[array.name].get_tensor(array.name), dtype, shardings)
    return Model(config, params, tokenizer)


def _shards(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise UserError(f"{index} is damaged ({error!r}): fetch it again") from error
    else:
        names = ["model.safetensors"]
    for name in names:
        if not (folder / name).is_file():
            hint = "save the model from transformers as safetensors" if any(folder.glob("*.bin")) else "fetch it again"
            raise UserError(f"{folder}: file {name} is missing: {hint}")
    return [folder / name for name in names]


def save_huggingface(model: Model, folder: str | Path, shard_bytes: int = 5 * 2**30, replace: bool = False) -> None:
    """Writes a folder that transformers, and load_huggingface, read back to the same weights, in the parameters' dtype.

    Safetensors are split where a shard would pass ``shard_bytes``. All is written beside ``folder`` and renamed at the
    end: a killed export leaves nothing under that name, and what it left beside it the next one removes. Raises
    UserError where ``folder`` cannot be written, or is there and not empty, unless it is to be replaced.
    """
    folder = Path(folder)
    dtype = str(jax.tree.leaves(model.params)[0].dtype)
    config = config_json(model.config, dtype, model.tokenizer)
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not replace)):
        raise UserError(f"{folder} is there and not empty: remove it or name another folder")
    partial, old = (folder.parent / f".{folder.name}.{uuid.uuid4().hex}" for _ in range(2))
    try:
        for left in folder.parent.glob(f".{glob.escape(folder.name)}.{'[0-9a-f]' * 32}"):
            shutil.rmtree(left)
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): name another folder") from error
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
        raise UserError(f"{folder} cannot be written ({error}): make room or name another folder") from error
    finally:
        for left in (partial, old):
            shutil.rmtree(left, ignore_errors=True)


def _save_weights(model: Model, folder: Path, shard_bytes: int) -> None:
    def weight(array: Stored) -> jax.Array:
        leaf = model.params
        for key in array.path:
            leaf = leaf[key]
        return leaf if array.layer is None else leaf[array.layer]

    shards: list[list[Stored]] = [[]]
    sizes = [0]
    for array in stored_arrays(model.config, "huggingface"):
        size = math.prod(array.shape) * jax.tree.leaves(model.params)[0].dtype.itemsize
        if shards[-1] and sizes[-1] + size > shard_bytes:
            shards.append([])
            sizes.append(0)
        shards[-1].append(array)
        sizes[-1] += size

    names = {}
    for i, shard in enumerate(shards, 1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        # transformers refuses files that do not name their origin's format.
        arrays = {array.name: array.from_own(np.asarray(weight(array))) for array in shard}
        save_file(arrays, folder / file, metadata={"format": "pt"})
        shutil.copymode(folder / "config.json", folder / file)  # safetensors lets only its owner read it
        names |= dict.fromkeys(arrays, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes)}, "weight_map": names}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
