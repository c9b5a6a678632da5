"""The checkpoints that stages read, each once inside keep_models."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import jax
import numpy as np
import pytest

from r1jax.models.config import ComputeOptions
from r1jax.recipe import loading
from r1jax.recipe.loading import keep_models, load_model
from tests.helpers.paths import FIXTURES

PATH = FIXTURES / "llama_tied"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The checkpoints that are read from disk."""
    found: list[Any] = []
    load = loading.load

    def counted(path: Any, *rest: Any) -> Any:
        found.append(path)
        return load(path, *rest)

    monkeypatch.setattr(loading, "load", counted)
    return found


def test_a_checkpoint_is_read_once_for_each_type_and_freed_at_the_end(loads: list[Any]) -> None:
    with keep_models():
        one = load_model(PATH, ComputeOptions(), "float32")
        two = load_model(PATH, ComputeOptions(remat="block"), "float32")
        half = load_model(PATH, ComputeOptions(dtype="bfloat16"), "bfloat16")
        assert len(loads) == 2
        assert all(a is b for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(two.params), strict=True))
        assert (one.config.remat, two.config.remat) == ("none", "block")
        assert {x.dtype for x in jax.tree.leaves(half.params)} == {np.dtype("bfloat16")}
        held = weakref.ref(jax.tree.leaves(one.params)[0])
        del one, two, half
        assert held() is not None
    gc.collect()
    assert held() is None
    load_model(PATH, ComputeOptions(), "float32")
    load_model(PATH, ComputeOptions(), "float32")
    assert len(loads) == 4
