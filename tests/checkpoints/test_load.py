"""Loading a checkpoint of any kind."""

from __future__ import annotations

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import r1jax
from r1jax.checkpoints import load as loading
from r1jax.checkpoints.huggingface import load_huggingface
from r1jax.errors import UserError
from r1jax.models.transformer import param_specs
from r1jax.sharding import make_mesh, param_shardings
from r1jax.tokenizer import ByteTokenizer
from tests.checkpoints.helpers import copy_of
from tests.helpers.paths import FIXTURES


def test_loaded_weights_have_the_given_shardings() -> None:
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


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    folder = copy_of("llama_tied", tmp_path / "model")
    ByteTokenizer().save(folder)
    with pytest.raises(UserError, match="ids go up to 258 and the model has 128 rows"):
        r1jax.load(folder)


def write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")


def test_the_folder_of_a_run_stands_for_its_exported_model(tmp_path: Path) -> None:
    for name in ("config.json", "pretrain/r1jax.json", "r1-zero/r1jax.json", "model/config.json"):
        write(tmp_path / name)
    assert loading.resolve(tmp_path) == (tmp_path / "model", "huggingface")
    assert loading.resolve(tmp_path / "r1-zero") == (tmp_path / "r1-zero", "native")
    write(tmp_path / "r1jax.json")  # as in runs of version 0.1.0, whose folder is a checkpoint
    assert loading.resolve(tmp_path) == (tmp_path, "native")


def test_the_folder_of_a_run_without_an_exported_model_is_refused_with_its_checkpoints(tmp_path: Path) -> None:
    for name in ("config.json", "base/r1jax.json", "r1/r1jax.json", ".removed-zero/r1jax.json", "sft_data/x.jsonl"):
        write(tmp_path / name)
    with pytest.raises(UserError, match=r"not a checkpoint, but contains base, r1: give one of them, such as \S*/r1$"):
        loading.resolve(tmp_path)


def test_a_hugging_face_folder_is_itself_whatever_else_it_contains(tmp_path: Path) -> None:
    for name in ("config.json", "model-00001-of-00002.safetensors", "original/r1jax.json", "model/config.json"):
        write(tmp_path / name)
    assert loading.resolve(tmp_path) == (tmp_path, "huggingface")
