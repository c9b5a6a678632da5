"""Weights of Hugging Face folders, compared with the logits that transformers computed from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import r1jax
from r1jax.checkpoints import load as loading
from r1jax.checkpoints.huggingface import load_huggingface, save_huggingface
from r1jax.errors import UserError
from r1jax.models.transformer import forward, param_specs
from r1jax.sharding import make_mesh, param_shardings
from tests.checkpoints.helpers import NAMES, copy_of, edit_weights
from tests.helpers.paths import FIXTURES


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(name: str) -> None:
    model = load_huggingface(FIXTURES / name)
    expected = np.load(FIXTURES / name / "logits.npz")
    logits = forward(model.params, jnp.asarray(expected["tokens"]), model.config)
    assert np.ptp(expected["logits"]) > 5  # far more than the tolerance
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-4, rtol=0)


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
