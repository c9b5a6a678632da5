"""Loading of the checkpoints that stages read onto the mesh."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from r1jax.checkpoints.load import load, read_config
from r1jax.checkpoints.model import Model
from r1jax.models.config import ComputeOptions, with_compute_options
from r1jax.models.transformer import param_specs
from r1jax.sharding import entered_mesh, param_shardings

Dtype = Literal["float32", "bfloat16"]


def load_model(path: Path, options: ComputeOptions, dtype: Dtype) -> Model:
    """Loads a checkpoint with weights in ``dtype`` onto the entered mesh, or one device; computes with ``options``."""
    model = load(path, dtype, param_shardings(param_specs(read_config(path)), entered_mesh()))
    return dataclasses.replace(model, config=with_compute_options(model.config, options))
