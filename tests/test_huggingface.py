"""Hugging Face folders against the logits that transformers computed from them, and after a round trip."""

from __future__ import annotations

import json
import shutil
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

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = ["llama_tied", "llama_bias", "qwen2", "qwen3"]


def copy_of(name: str, folder: Path, **config: Any) -> Path:
    """A copy of a fixture with some of its config changed; None drops a key."""
    shutil.copytree(FIXTURES / name, folder)
    values = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
    return folder


def edit_weights(folder: Path, **arrays: np.ndarray | None) -> None:
    """Adds, replaces or (None) drops tensors of a folder with one shard; "." is written "__" in their names."""
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
        ({"architectures": ["MistralForCausalLM"]}, "MistralForCausalLM is not supported; these are: LlamaForCausalLM"),
        ({"architectures": None}, "architecture none named is not supported"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "rope_parameters": None}, "rope type yarn"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 4.0}}, "key 'low_freq_factor' is missing"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"hidden_act": "gelu"}, "hidden_act gelu"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1}, "sliding-window"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised by gptq"),
        ({"hidden_size": None}, "key 'hidden_size' is missing"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers is 'two' where a whole number belongs"),
        ({"num_key_value_heads": 3}, "num_heads 4 is no multiple of num_kv_heads 3"),
    ],
)
def test_what_is_not_supported_is_named(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_config(copy_of("llama_tied", tmp_path / "model", **config))


def test_a_sliding_window_that_no_layer_uses_is_accepted(tmp_path: Path) -> None:
    window = {"sliding_window": 64, "max_window_layers": 1}
    read_config(copy_of("qwen2", tmp_path / "off", use_sliding_window=False, **window))
    unused = {"sliding_window": 64, "max_window_layers": 2}
    read_config(copy_of("qwen2", tmp_path / "above", use_sliding_window=True, **unused))


def test_wrong_tensors_are_named(tmp_path: Path) -> None:
    def fails(message: str, name: str = "model.safetensors", **arrays: np.ndarray | None) -> None:
        folder = tmp_path / message[:20]
        copy_of("llama_tied", folder)
        edit_weights(folder, **arrays)
        with pytest.raises(UserError, match=message):
            load_huggingface(folder)

    ones = np.ones(3, np.float32)
    fails(r"model\.norm\.weight of shape \(32,\) is missing", model__norm__weight=None)
    fails(r"norm\.weight has shape \(3,\) and the config asks for \(32,\)", model__norm__weight=ones)
    fails(r"tensor extra\.weight and 1 more has no place", extra__weight=ones, other__weight=ones)
    fails(r"norm\.weight is of type I32", model__norm__weight=np.ones(32, np.int32))


def test_redundant_tensors_are_passed_over(tmp_path: Path) -> None:
    folder = copy_of("llama_tied", tmp_path / "model")
    extra: dict[str, np.ndarray | None] = {"lm_head__weight": np.ones((128, 32), np.float32)}
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
    with pytest.raises(UserError, match=r"model-00002-of-00004\.safetensors is missing: fetch it again"):
        load_huggingface(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UserError, match=r"index\.json is damaged"):
        load_huggingface(folder)
    (folder / "model.safetensors.index.json").unlink()
    (folder / "pytorch_model.bin").touch()
    with pytest.raises(UserError, match=r"model\.safetensors is missing: save the model from transformers"):
        load_huggingface(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
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


def test_exported_config_speaks_to_old_and_new_transformers(tmp_path: Path) -> None:
    save_huggingface(load_huggingface(FIXTURES / "llama_tied"), tmp_path / "export")
    config = json.loads((tmp_path / "export" / "config.json").read_text())
    original = json.loads((FIXTURES / "llama_tied" / "config.json").read_text())
    ours = {"initializer_range", "pretraining_tp", "use_cache", "attention_dropout", "transformers_version"}
    assert {k: config.get(k) for k in original.keys() - ours - {"mlp_bias"}} == {
        k: v for k, v in original.items() if k not in ours | {"mlp_bias"}
    }
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
    with pytest.raises(UserError, match="there and not empty"):
        save_huggingface(model, tmp_path / "export")
    assert (tmp_path / "export" / "notes.txt").read_text() == "mine"


def test_export_refuses_what_the_architecture_cannot_hold(tmp_path: Path) -> None:
    config = ModelConfig(attention_bias=True)  # and none on the output
    model = Model(config, {"embedding": jnp.zeros(1)}, ByteTokenizer())
    with pytest.raises(UserError, match=r"LlamaForCausalLM cannot hold attention_bias=True, output_bias=False"):
        save_huggingface(model, tmp_path / "export")


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
        (tmp_path / "nowhere", "nowhere does not exist: give a Hugging Face folder"),
        (tmp_path / "empty", "is empty: give"),
        (FIXTURES, "holds no checkpoint: give"),
        (FIXTURES / "chats.json", r"chats\.json is no checkpoint: give"),
    ):
        with pytest.raises(UserError, match=message):
            r1jax.load(path)
    with pytest.raises(UserError, match="dtype=float16"):
        r1jax.load(FIXTURES / "qwen2", dtype="float16")


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    folder = copy_of("llama_tied", tmp_path / "model")
    ByteTokenizer().save(folder)
    with pytest.raises(UserError, match="ids go up to 258 and the model has 128 rows"):
        r1jax.load(folder)
