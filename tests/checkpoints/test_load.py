"""Which file or folder a path to a checkpoint stands for."""

import pytest

from r1jax.checkpoints.load import resolve
from r1jax.errors import UserError


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")


def test_the_folder_of_a_run_stands_for_its_exported_model(tmp_path):
    for name in ("config.json", "pretrain/r1jax.json", "r1-zero/r1jax.json", "model/config.json"):
        write(tmp_path / name)
    assert resolve(tmp_path) == (tmp_path / "model", "huggingface")
    assert resolve(tmp_path / "r1-zero") == (tmp_path / "r1-zero", "native")
    write(tmp_path / "r1jax.json")  # as in runs of version 0.1.0, whose folder is a checkpoint
    assert resolve(tmp_path) == (tmp_path, "native")


def test_the_folder_of_a_run_without_an_exported_model_is_refused_with_its_checkpoints(tmp_path):
    for name in ("config.json", "base/r1jax.json", "r1/r1jax.json", ".removed-zero/r1jax.json", "sft_data/x.jsonl"):
        write(tmp_path / name)
    with pytest.raises(UserError, match=r"not a checkpoint, but contains base, r1: give one of them, such as \S*/r1$"):
        resolve(tmp_path)


def test_a_hugging_face_folder_is_itself_whatever_else_it_contains(tmp_path):
    for name in ("config.json", "model-00001-of-00002.safetensors", "original/r1jax.json", "model/config.json"):
        write(tmp_path / name)
    assert resolve(tmp_path) == (tmp_path, "huggingface")
