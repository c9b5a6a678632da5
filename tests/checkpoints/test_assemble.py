"""Weights that are built array by array: the memory of the host, and the parts of the devices."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from r1jax.checkpoints.assemble import assemble
from r1jax.checkpoints.huggingface import load_huggingface, save_huggingface
from r1jax.checkpoints.layout import Stored, stored_arrays
from r1jax.checkpoints.model import Model
from r1jax.models.config import Experts, ModelConfig
from r1jax.models.transformer import param_specs
from r1jax.sharding import make_mesh, map_specs, param_shardings
from r1jax.tokenizer import ByteTokenizer

MIB = 2**20
CONFIG = ModelConfig(
    architecture="mixtral",
    vocab_size=512,
    hidden_size=512,
    intermediate_size=512,
    num_heads=4,
    num_kv_heads=2,
    head_dim=128,
    norm_eps=1e-5,
    tie_embeddings=False,
    experts=Experts(number=4, active=2, width=512),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose largest array has 1 MiB, and whose three weights of experts have 8 MiB each."""
    folder = tmp_path_factory.mktemp("experts") / "model"
    params = map_specs(lambda spec: np.zeros(spec.shape, np.float32), param_specs(CONFIG))
    save_huggingface(Model(CONFIG, params, ByteTokenizer()), folder)
    return folder


def test_the_host_holds_less_than_two_arrays_beyond_the_devices(folder: Path) -> None:
    shardings = param_shardings(param_specs(CONFIG), make_mesh("1x2"))
    load_huggingface(folder, shardings=shardings)  # compiles
    tracemalloc.start()
    try:
        params = load_huggingface(folder, shardings=shardings).params
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    sizes = [weight.nbytes for weight in jax.tree.leaves(params)]
    assert max(sizes) == 8 * MIB
    in_place = sum(size for size in sizes if size <= MIB)  # on a CPU, these may stay where numpy has put them
    assert peak < in_place + 2 * MIB


SMALL = ModelConfig(
    architecture="mixtral", num_layers=3, num_heads=8, num_kv_heads=2, experts=Experts(number=4, active=2, width=192)
)


def values(array: Stored) -> np.ndarray:
    """Different numbers in each stored array."""
    return np.random.default_rng(list(array.name.encode())).normal(size=array.shape).astype(np.float32)


@pytest.mark.parametrize("axes", [(None, "model", "data"), (None, None, None, ("model", "data"))])
def test_each_device_gets_its_part(axes: tuple) -> None:
    expected = list(stored_arrays(SMALL, "huggingface"))
    mesh = make_mesh("2x2")

    def split(weight: jax.Array) -> NamedSharding:
        names = [name if weight.shape[i] % 4 == 0 else None for i, name in enumerate(axes[: weight.ndim])]
        return NamedSharding(mesh, PartitionSpec(*names))

    whole = assemble(expected, values, "float32", None)
    with jax.set_mesh(mesh):  # as in an experiment
        parts = assemble(expected, values, "float32", jax.tree.map(split, whole))
    assert jax.tree.map(lambda weight: weight.sharding, parts) == jax.tree.map(split, whole)
    jax.tree.map(np.testing.assert_array_equal, parts, whole)
    gate = next(array for array in expected if array.name.endswith("layers.2.block_sparse_moe.experts.3.w1.weight"))
    np.testing.assert_array_equal(parts["layers"]["mlp"]["gate"][2, 3], values(gate).T)


def test_weights_are_rounded_as_numpy_rounds_them() -> None:
    expected = list(stored_arrays(SMALL, "huggingface"))
    wide, low = (assemble(expected, values, dtype, None) for dtype in ("float32", "bfloat16"))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a).astype(b.dtype), b), wide, low)
