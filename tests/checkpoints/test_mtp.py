"""Layers of multi-token prediction in the layout of the published weights of DeepSeek-V3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from r1jax.checkpoints.huggingface import load_huggingface, read_config, save_huggingface
from r1jax.errors import UserError
from tests.checkpoints.helpers import copy_of, edit_weights, weights_of
from tests.helpers.paths import FIXTURES

LAYER = "model.layers.3."


def predicting(folder: Path, **config: Any) -> dict[str, np.ndarray]:
    """Writes a copy of the fixture with a fourth layer, made of the third, and returns all weights."""
    copy_of("deepseek_v3", folder, num_nextn_predict_layers=1, **config)
    rng, weights = np.random.default_rng(0), weights_of("deepseek_v3")
    D = weights["model.norm.weight"].shape[0]
    layer = {key.removeprefix("model.layers.2."): w + 0.25 for key, w in weights.items() if ".layers.2." in key}
    layer |= {
        f"{name}.weight": rng.normal(size=D).astype(np.float32) for name in ("enorm", "hnorm", "shared_head.norm")
    }
    layer["eh_proj.weight"] = rng.normal(size=(D, 2 * D)).astype(np.float32)
    layer["embed_tokens.weight"] = weights["model.embed_tokens.weight"]
    layer["shared_head.head.weight"] = weights["lm_head.weight"]
    weights |= {LAYER + name: w for name, w in layer.items()}
    save_file(weights, folder / "model.safetensors")
    return weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mtp") / "model"


@pytest.fixture(scope="module")
def weights(folder: Path) -> dict[str, np.ndarray]:
    return predicting(folder)


def test_they_are_read(folder: Path, weights: dict[str, np.ndarray]) -> None:
    """The first half of the rows of the projection belongs to the embedding."""
    model, without = load_huggingface(folder), load_huggingface(FIXTURES / "deepseek_v3")
    assert model.config.mtp_layers == 1
    mtp = jax.device_get(model.params.pop("mtp"))
    jax.tree.map(np.testing.assert_array_equal, model.params, without.params)
    last = jax.tree.map(lambda w: np.asarray(w)[-1:] + np.float32(0.25), without.params["layers"])
    for name, own in (("embedding_norm", "enorm"), ("state_norm", "hnorm"), ("final_norm", "shared_head.norm")):
        np.testing.assert_array_equal(mtp.pop(name)[0], weights[f"{LAYER}{own}.weight"])
    joined, D = mtp.pop("projection")[0], model.config.hidden_size
    np.testing.assert_array_equal(joined[:D], weights[f"{LAYER}eh_proj.weight"][:, :D].T)
    np.testing.assert_array_equal(joined[D:], weights[f"{LAYER}eh_proj.weight"][:, D:].T)
    jax.tree.map(np.testing.assert_array_equal, mtp, last)


def test_they_are_written_as_they_were_read(folder: Path, weights: dict[str, np.ndarray], tmp_path: Path) -> None:
    """With the copies of the embedding and the output matrix."""
    save_huggingface(load_huggingface(folder), tmp_path / "export")
    got = load_file(tmp_path / "export" / "model.safetensors")
    assert got.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)
    assert read_config(tmp_path / "export") == read_config(folder)


def test_a_folder_may_lack_them(tmp_path: Path) -> None:
    folder = copy_of("deepseek_v3", tmp_path / "model", num_nextn_predict_layers=1)
    assert load_huggingface(folder).config == load_huggingface(FIXTURES / "deepseek_v3").config


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("hnorm", None, r"tensor model\.layers\.3\.hnorm\.weight of shape \(32,\) is missing"),
        ("mlp.experts.5.up_proj", None, r"experts\.5\.up_proj\.weight of .* is missing; 1 expert of 36 incomplete"),
        ("eh_proj", np.ones((32, 32), np.float32), r"eh_proj\.weight has shape \(32, 32\) .* expects \(32, 64\)"),
        ("shared_head.head", np.ones((3, 32), np.float32), r"shared_head\.head\.weight has shape \(3, 32\)"),
    ],
)
def test_wrong_tensors_are_named(name: str, array: Any, message: str, tmp_path: Path) -> None:
    predicting(tmp_path / "model")
    edit_weights(tmp_path / "model", **{f"{LAYER}{name}.weight".replace(".", "__"): array})
    with pytest.raises(UserError, match=message):
        load_huggingface(tmp_path / "model")


def test_a_reward_model_has_none(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    weights = predicting(folder, architectures=["DeepseekV3ForSequenceClassification"], id2label={"0": "score"})
    edit_weights(folder, score__weight=np.ones((1, 32), np.float32))
    with pytest.warns(UserWarning, match=r"multi-token prediction \(\d+ tensors\) are not read: a reward model"):
        model = load_huggingface(folder)
    assert "mtp" not in model.params and len(weights) > len(model.params)
