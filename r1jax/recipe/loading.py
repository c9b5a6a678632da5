"""Loading of a checkpoint onto the mesh, which most stages of the recipe begin with."""

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
    """A checkpoint with weights in ``dtype`` on the entered mesh, or on one device, computed with ``options``."""
    model = load(path, dtype, param_shardings(param_specs(read_config(path)), entered_mesh()))
    return dataclasses.replace(model, config=with_compute_options(model.config, options))


def inference_dtype(options: ComputeOptions) -> Dtype:
    """The type of weights that are not trained: that of the computation."""
    return options.dtype
