"""Hugging Face folders: logits against those of transformers, and round trips of import and export."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

import r1jax
from r1jax.checkpoints import load as loading
from r1jax.checkpoints.huggingface import load_huggingface, read_config, save_huggingface
from r1jax.checkpoints.layout import stored_arrays
from r1jax.checkpoints.model import Model
from r1jax.errors import UserError
from r1jax.models.config import ModelConfig, RopeScaling
from r1jax.models.transformer import forward, param_specs
from r1jax.sharding import make_mesh, param_shardings
from r1jax.tokenizer import ByteTokenizer

FIXTURES = Path(__file__).parents[1] / "fixtures"
NAMES = ["llama_tied", "llama_bias", "llama_mlp_bias", "qwen2", "qwen3"]

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


def copy_of(name: str, folder: Path, **config: Any) -> Path:
    """A copy of a fixture with changed keys of its config; None removes a key."""
    shutil.copytree(FIXTURES / name, folder)
    values = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
    return folder


def edit_weights(folder: Path, **arrays: np.ndarray | None) -> None:
    """Adds, replaces or (None) removes tensors of a folder with one shard; "." is written "__" in their names."""
    weights: dict[str, Any] = load_file(folder / "model.safetensors")
    weights |= {name.replace("__", "."): array for name, array in arrays.items()}
    save_file({k: v for k, v in weights.items() if v is not None}, folder / "model.safetensors")


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(name: str) -> None:
    model = load_huggingface(FIXTURES / name)
    expected = np.load(FIXTURES / name / "logits.npz")
    logits = forward(model.params, jnp.asarray(expected["tokens"]), model.config)
    assert np.ptp(expected["logits"]) > 5  # far more than the tolerance
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-4, rtol=0)


def test_configs_are_read_whole() -> None:
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
def test_what_is_not_supported_is_named(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_config(copy_of("llama_tied", tmp_path / "model", **config))
    assert str(caught.value).startswith(f"{tmp_path}/model/config.json: ")


@pytest.mark.parametrize("text", ["[]", "null", '"llama"', "3"])
def test_a_config_that_is_no_object_is_one_line(text: str, tmp_path: Path) -> None:
    folder = copy_of("llama_tied", tmp_path / "model")
    (folder / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json: contains .* instead of an object"):
        read_config(folder)


def test_a_config_nested_too_deep_is_one_line(tmp_path: Path) -> None:
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


def test_wrong_tensors_are_named(tmp_path: Path) -> None:
    def fails(message: str, name: str = "model.safetensors", **arrays: np.ndarray | None) -> None:
        folder = tmp_path / message[:20]
        copy_of("llama_tied", folder)
        edit_weights(folder, **arrays)
        with pytest.raises(UserError, match=message):
            load_huggingface(folder)

    ones = np.ones(3, np.float32)
    fails(r"model\.norm\.weight of shape \(32,\) is missing", model__norm__weight=None)
    fails(r"norm\.weight has shape \(3,\) but the config expects \(32,\)", model__norm__weight=ones)
    fails(r"tensor extra\.weight and 1 more is not part of this architecture", extra__weight=ones, other__weight=ones)
    fails(r"norm\.weight is of type I32", model__norm__weight=np.ones(32, np.int32))


def test_redundant_tensors_are_skipped(tmp_path: Path) -> None:
    folder = copy_of("llama_tied", tmp_path / "model")
    embedding = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    extra: dict[str, np.ndarray | None] = {"lm_head__weight": embedding}
    extra["model__layers__0__self_attn__rotary_emb__inv_freq"] = np.ones(8, np.float32)
    edit_weights(folder, **extra)
    expected, got = load_huggingface(FIXTURES / "llama_tied"), load_huggingface(folder)
    jax.tree.map(np.testing.assert_array_equal, got.params, expected.params)


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    folder = copy_of("llama_bias", tmp_path / "model")
    shard = folder / "model-00002-of-00004.safetensors"
    shard.write_bytes(shard.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"model-00002-of-00004\.safetensors cannot be read"):
        load_huggingface(folder)
    shard.unlink()
    with pytest.raises(UserError, match=r"model-00002-of-00004\.safetensors of .* is missing.*: download it again"):
        load_huggingface(folder)
    for text in ("{}", "[" * 100_000):
        (folder / "model.safetensors.index.json").write_text(text)
        with pytest.raises(UserError, match=r"index\.json is damaged"):
            load_huggingface(folder)
    for file in folder.glob("model*"):
        file.unlink()
    (folder / "pytorch_model.bin").touch()
    with pytest.raises(UserError, match=r"model\.safetensors is missing: save the model from transformers"):
        load_huggingface(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        load_huggingface(folder)


def with_head(name: str, folder: Path, head: np.ndarray, **config: Any) -> Path:
    """A copy of a fixture with tie_word_embeddings set, and ``head`` as lm_head."""
    copy_of(name, folder, tie_word_embeddings=True, **config)
    edit_weights(folder, lm_head__weight=head)
    return folder


@pytest.mark.parametrize("name", ["llama_tied", "qwen2", "qwen3"])
def test_an_output_matrix_beside_a_tied_config_is_used_with_a_warning(name: str, tmp_path: Path) -> None:
    expected = np.load(FIXTURES / name / "logits.npz")
    weights: dict[str, Any] = load_file(FIXTURES / name / "model.safetensors")
    own = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    folder = with_head(name, tmp_path / "model", np.ascontiguousarray(own[::-1]))  # tokens in reverse order
    with pytest.warns(UserWarning, match=r"lm_head\.weight is not the embedding") as warned:
        config = loading.read_config(folder)
        model = r1jax.load(folder, shardings=param_shardings(param_specs(config), make_mesh("1x1")))
    assert not any("\n" in str(one.message) for one in warned)
    logits = forward(model.params, jnp.asarray(expected["tokens"]), model.config)
    np.testing.assert_allclose(logits, expected["logits"][..., ::-1], atol=1e-4, rtol=0)

    save_huggingface(model, tmp_path / "export")
    assert json.loads((tmp_path / "export" / "config.json").read_text())["tie_word_embeddings"] is False
    again = load_huggingface(tmp_path / "export")
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)


@pytest.mark.filterwarnings("error")
def test_an_output_matrix_that_is_the_embedding_stays_tied(tmp_path: Path) -> None:
    expected = load_huggingface(FIXTURES / "qwen2")
    embedding = load_file(FIXTURES / "qwen2" / "model.safetensors")["model.embed_tokens.weight"]
    same = load_huggingface(with_head("qwen2", tmp_path / "same", embedding))
    wide = load_huggingface(with_head("qwen2", tmp_path / "wide", embedding.astype(np.float32)))
    alone = with_head("qwen2", tmp_path / "alone", embedding)
    edit_weights(alone, model__embed_tokens__weight=None)
    for model in (same, wide, load_huggingface(alone)):
        assert model.config == expected.config
        jax.tree.map(np.testing.assert_array_equal, model.params, expected.params)


@pytest.mark.filterwarnings("error")
def test_a_reward_model_needs_no_output_matrix(tmp_path: Path) -> None:
    folder = with_head("reward", tmp_path / "model", np.ones((128, 32), np.float32))
    expected = load_huggingface(FIXTURES / "reward")
    jax.tree.map(np.testing.assert_array_equal, load_huggingface(folder).params, expected.params)


def test_a_missing_output_matrix_and_one_of_another_shape_are_named(tmp_path: Path) -> None:
    folder = copy_of("qwen3", tmp_path / "none")
    edit_weights(folder, lm_head__weight=None)
    with pytest.raises(UserError, match=r"lm_head\.weight is missing.*tie_word_embeddings must be true"):
        load_huggingface(folder)
    folder = with_head("llama_tied", tmp_path / "short", np.ones((100, 32), np.float32))
    with (
        pytest.warns(UserWarning, match=r"lm_head\.weight"),
        pytest.raises(UserError, match=r"lm_head\.weight has shape \(100, 32\)"),
    ):
        load_huggingface(folder)


def test_a_single_file_is_read_before_older_shards_with_a_warning(tmp_path: Path) -> None:
    """model.safetensors takes precedence, as in transformers."""
    folder = copy_of("llama_bias", tmp_path / "model")
    arrays: dict[str, Any] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        arrays |= load_file(shard)
    save_file({name: array + 1 for name, array in arrays.items()}, folder / "model.safetensors")
    with pytest.warns(UserWarning, match=r"model\.safetensors is read, as in transformers") as warned:
        params = load_huggingface(folder).params
    assert len(warned) == 1
    old = load_huggingface(FIXTURES / "llama_bias").params
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b + 1), params, old)


def test_files_that_are_not_read_are_named(tmp_path: Path) -> None:
    sharded, single = copy_of("llama_bias", tmp_path / "sharded"), copy_of("llama_tied", tmp_path / "single")
    shutil.copy(sharded / "model-00001-of-00004.safetensors", sharded / "model-00001-of-00003.safetensors")
    shutil.copy(single / "model.safetensors", single / "adapter_model.safetensors")
    for folder, name in ((sharded, r"model-00001-of-00003\.safetensors"), (single, r"adapter_model\.safetensors")):
        with pytest.warns(UserWarning, match=f"{name} is not part of the model and is not read"):
            load_huggingface(folder)


def test_shards_that_contradict_each_other_or_their_index_are_refused(tmp_path: Path) -> None:
    def fails(message: str, edit: Callable[[Path, dict[str, Any]], None]) -> None:
        folder = copy_of("llama_bias", tmp_path / str(len(list(tmp_path.iterdir()))))
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        edit(folder, index)
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(UserError, match=message):
            load_huggingface(folder)

    first, second = "model-00001-of-00004.safetensors", "model-00002-of-00004.safetensors"

    def twice(folder: Path, _: dict[str, Any]) -> None:
        arrays: dict[str, Any] = load_file(folder / second)
        name, array = next(iter(load_file(folder / first).items()))
        save_file({**arrays, name: array + 1}, folder / second)

    def moved(_: Path, index: dict[str, Any]) -> None:
        name = next(name for name, file in index["weight_map"].items() if file == first)
        index["weight_map"][name] = second

    def without(_: Path, index: dict[str, Any]) -> None:
        index["weight_map"] = {name: file for name, file in index["weight_map"].items() if file != first}

    def empty(_: Path, index: dict[str, Any]) -> None:
        index["weight_map"] = {}

    def number(_: Path, index: dict[str, Any]) -> None:
        index["weight_map"] = dict.fromkeys(index["weight_map"], 3)

    def lost(folder: Path, _: dict[str, Any]) -> None:
        (folder / second).unlink()

    fails(f"is in {first} and in {second}: shards of two models are mixed", twice)
    fails(f"in {second}, but it is in {first}: the index belongs to other shards", moved)
    fails(r"tensor .* of shape .* is missing", without)
    fails(r"index\.json is damaged", empty)
    fails(r"index\.json is damaged", number)
    fails(f"file {second} of model.safetensors.index.json is missing", lost)


def test_shards_without_their_index_and_adapters_are_named(tmp_path: Path) -> None:
    folder = copy_of("llama_bias", tmp_path / "model")
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(UserError, match=r"index\.json is missing although there are shards"):
        load_huggingface(folder)
    folder = copy_of("llama_tied", tmp_path / "adapter")
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="this folder is an adapter; merge it into its base model"):
        load_huggingface(folder)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_save_and_load_keep_everything(name: str, dtype: str, tmp_path: Path) -> None:
    model = load_huggingface(FIXTURES / name, dtype)
    save_huggingface(model, tmp_path / "export", shard_bytes=30_000)
    again = load_huggingface(tmp_path / "export", dtype)
    assert again.config == model.config
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
    assert again.tokenizer.encode("seven") == model.tokenizer.encode("seven")
    assert again.tokenizer.eos_ids == model.tokenizer.eos_ids


@pytest.mark.parametrize("name", NAMES)
def test_exported_tensors_are_those_that_were_read(name: str, tmp_path: Path) -> None:
    def tensors(folder: Path) -> dict[str, np.ndarray]:
        found = {}
        for file in folder.glob("*.safetensors"):
            with safetensors.safe_open(file, framework="numpy") as f:
                found |= {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
        return found

    dtype = "bfloat16" if name == "qwen2" else "float32"
    save_huggingface(load_huggingface(FIXTURES / name, dtype), tmp_path / "export")
    expected, got = tensors(FIXTURES / name), tensors(tmp_path / "export")
    assert expected.keys() == got.keys()
    for key, array in expected.items():
        assert array.dtype == got[key].dtype
        np.testing.assert_array_equal(got[key], array, err_msg=key)


def test_old_and_new_transformers_read_the_exported_config(tmp_path: Path) -> None:
    save_huggingface(load_huggingface(FIXTURES / "llama_tied"), tmp_path / "export")
    config = json.loads((tmp_path / "export" / "config.json").read_text())
    original = json.loads((FIXTURES / "llama_tied" / "config.json").read_text())
    ours = {"initializer_range", "pretraining_tp", "use_cache", "attention_dropout", "transformers_version"}
    assert {k: config.get(k) for k in original.keys() - ours} == {k: v for k, v in original.items() if k not in ours}
    assert config["rope_theta"] == 100.0
    assert config["rope_scaling"]["rope_type"] == "llama3"
    assert config["torch_dtype"] == config["dtype"] == "float32"


def test_shards_keep_to_their_size_and_their_index_is_whole(tmp_path: Path) -> None:
    model = load_huggingface(FIXTURES / "qwen3")
    save_huggingface(model, tmp_path / "export", shard_bytes=30_000)
    index = json.loads((tmp_path / "export" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == {a.name for a in stored_arrays(model.config, "huggingface")}
    assert index["metadata"]["total_size"] == 4 * sum(w.size for w in jax.tree.leaves(model.params))
    files = sorted((tmp_path / "export").glob("*.safetensors"))
    assert {f.name for f in files} == set(index["weight_map"].values())
    assert len(files) > 3
    assert len({f.stat().st_mode for f in (tmp_path / "export").iterdir()}) == 1  # who reads one reads all
    for file in files:
        arrays = load_file(file)
        assert sum(a.nbytes for a in arrays.values()) <= 30_000
        assert {index["weight_map"][name] for name in arrays} == {file.name}


def test_export_leaves_nothing_half_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_huggingface(FIXTURES / "llama_tied")

    def fails(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("r1jax.checkpoints.huggingface.save_file", fails)
        with pytest.raises(UserError, match="No space left"):
            save_huggingface(model, tmp_path / "export")
    assert list(tmp_path.iterdir()) == []

    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="exists and is not empty"):
        save_huggingface(model, tmp_path / "export")
    assert (tmp_path / "export" / "notes.txt").read_text() == "mine"


def test_export_refuses_what_the_architecture_cannot_hold(tmp_path: Path) -> None:
    config = ModelConfig(attention_bias=True)  # and none on the output
    model = Model(config, {"embedding": jnp.zeros(1)}, ByteTokenizer())
    with pytest.raises(UserError, match=r"LlamaForCausalLM does not support attention_bias=True, output_bias=False"):
        save_huggingface(model, tmp_path / "export")
    qwen = dataclasses.replace(model, config=ModelConfig(architecture="qwen2", attention_bias=True, mlp_bias=True))
    with pytest.raises(UserError, match=r"Qwen2ForCausalLM does not support .*mlp_bias=True"):
        save_huggingface(qwen, tmp_path / "export")


def test_weights_arrive_on_their_shardings() -> None:
    name = FIXTURES / "llama_bias"
    mesh = make_mesh("4x2")
    shardings = param_shardings(param_specs(loading.read_config(name)), mesh)
    model = loading.load(name, shardings=shardings)
    jax.tree.map(lambda w, s: np.testing.assert_equal(w.sharding, s), model.params, shardings)
    assert model.params["layers"]["mlp"]["gate"].sharding == NamedSharding(mesh, PartitionSpec(None, "data", "model"))
    jax.tree.map(np.testing.assert_array_equal, model.params, load_huggingface(name).params)


def test_load_finds_the_kind_by_itself(tmp_path: Path) -> None:
    model = r1jax.load(FIXTURES / "qwen2", dtype="bfloat16")
    assert model.config.dtype == "bfloat16"
    assert {w.dtype for w in jax.tree.leaves(model.params)} == {jnp.dtype("bfloat16")}

    run = tmp_path / "run"
    shutil.copytree(FIXTURES / "qwen2", run / "export")
    (run / "10" / "params").mkdir(parents=True)
    (run / "r1jax.json").touch()
    for path, kind in (
        (FIXTURES / "qwen2", "huggingface"),
        (run / "export", "huggingface"),
        (run, "native"),
        (run / "10", "native"),
    ):
        assert loading.resolve(path) == (path, kind)

    (tmp_path / "empty").mkdir()
    for path, message in (
        (tmp_path / "nowhere", "nowhere does not exist: use a Hugging Face folder"),
        (tmp_path / "empty", "is empty: use"),
        (FIXTURES, "contains no checkpoint: use"),
        (FIXTURES / "chats.json", r"chats\.json is not a checkpoint: use"),
    ):
        with pytest.raises(UserError, match=message):
            r1jax.load(path)
    with pytest.raises(UserError, match="dtype=float16"):
        r1jax.load(FIXTURES / "qwen2", dtype="float16")


def test_a_model_is_printed_in_a_few_lines() -> None:
    lines = repr(r1jax.load(FIXTURES / "qwen2", dtype="bfloat16")).splitlines()
    # 128 * 32 for the embedding, the last norm, and a block: norms, query and output, key and value, biases, the MLP.
    block = 2 * 32 + 2 * 32 * 32 + 2 * 32 * 16 + 32 + 2 * 16 + 3 * 32 * 64
    assert lines[0] == f"Model: qwen2 language model, {128 * 32 + 32 + 2 * block:,} parameters in bfloat16"
    assert "2 layers of width 32, 4 heads of 8, 2 of keys and values" in lines[1]
    assert "128 ids, a chat template, end tokens 1" in lines[2] and len(lines) == 3
    reward = repr(load_huggingface(FIXTURES / "reward"))
    assert reward.startswith("Model: qwen2 reward model, ") and len(reward.splitlines()) == 3


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    folder = copy_of("llama_tied", tmp_path / "model")
    ByteTokenizer().save(folder)
    with pytest.raises(UserError, match="ids go up to 258 and the model has 128 rows"):
        r1jax.load(folder)
