"""Exported Hugging Face folders: a round trip, their files, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
from safetensors.numpy import load_file

from r1jax.checkpoints.huggingface import load_huggingface, save_huggingface
from r1jax.checkpoints.layout import stored_arrays
from r1jax.checkpoints.model import Model
from r1jax.errors import UserError
from r1jax.models.config import ModelConfig
from r1jax.tokenizer import ByteTokenizer
from tests.checkpoints.helpers import EXPERTS, NAMES
from tests.helpers.paths import FIXTURES


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, "float32") for name in NAMES + EXPERTS), *((name, "bfloat16") for name in NAMES)]
)
def test_save_and_load_keep_everything(name: str, dtype: str, tmp_path: Path) -> None:
    model = load_huggingface(FIXTURES / name, dtype)
    save_huggingface(model, tmp_path / "export", shard_bytes=30_000)
    again = load_huggingface(tmp_path / "export", dtype)
    assert again.config == model.config
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
    assert again.tokenizer.encode("seven") == model.tokenizer.encode("seven")
    assert again.tokenizer.eos_ids == model.tokenizer.eos_ids


@pytest.mark.parametrize("name", NAMES + EXPERTS)
def test_exported_tensors_are_those_that_were_read(name: str, tmp_path: Path) -> None:
    def tensors(folder: Path) -> dict[str, np.ndarray]:
        found = {}
        for file in folder.glob("*.safetensors"):
            with safetensors.safe_open(file, framework="numpy") as f:
                found |= {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
        return found

    dtype = "bfloat16" if name in ("qwen2", "deepseek_v2_lite") else "float32"
    save_huggingface(load_huggingface(FIXTURES / name, dtype), tmp_path / "export")
    expected, got = tensors(FIXTURES / name), tensors(tmp_path / "export")
    assert expected.keys() == got.keys()
    for key, array in expected.items():
        assert array.dtype == got[key].dtype
        np.testing.assert_array_equal(got[key], array, err_msg=key)


def test_an_exported_config_has_the_keys_of_old_and_new_transformers(tmp_path: Path) -> None:
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
