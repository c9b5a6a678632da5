"""The public names of ``r1jax``, and the cost of its import."""

from __future__ import annotations

import subprocess
import sys

import pytest

import r1jax


def test_import_loads_no_heavy_library() -> None:
    heavy = {"jax", "numpy", "flax", "tokenizers", "orbax"}
    code = f"import sys, r1jax; print(sorted({heavy} & set(sys.modules)), 'load' in dir(r1jax))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] True\n"


def test_every_public_name_is_there() -> None:
    homes = {name: getattr(r1jax, name).__module__ for name in r1jax.__all__}
    assert homes == {
        "Model": "r1jax.checkpoints.model",
        "ModelConfig": "r1jax.models.config",
        "forward": "r1jax.models.transformer",
        "load": "r1jax.checkpoints.load",
        "sample": "r1jax.sampling.sampler",
        "save_huggingface": "r1jax.checkpoints.huggingface",
    }
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = r1jax.lod
