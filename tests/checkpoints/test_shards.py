"""Files of a Hugging Face folder that are damaged, missing, not read, or in contradiction with each other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from r1jax.checkpoints.huggingface import load_huggingface
from r1jax.errors import UserError
from tests.checkpoints.helpers import copy_of
from tests.helpers.paths import FIXTURES


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
