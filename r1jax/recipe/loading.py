"""Loading of the checkpoints that stages read onto the mesh."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from r1jax.checkpoints.load import load, read_config
from r1jax.checkpoints.model import Model
from r1jax.models.config import ComputeOptions, with_compute_options
from r1jax.models.transformer import param_specs
from r1jax.sharding import entered_mesh, param_shardings

Dtype = Literal["float32", "bfloat16"]

_KEPT: contextvars.ContextVar[dict[tuple[Path, Dtype], Model] | None] = contextvars.ContextVar("kept", default=None)


@contextlib.contextmanager
def keep_models() -> Iterator[None]:
    """A context in which load_model reads a checkpoint once, for stages that do not donate its weights.

    At the end of the context the weights are free.
    """
    token = _KEPT.set({})
    try:
        yield
    finally:
        _KEPT.reset(token)


def load_model(path: Path, options: ComputeOptions, dtype: Dtype) -> Model:
    """Loads a checkpoint with weights in ``dtype`` onto the entered mesh, or one device; computes with ``options``."""
    kept = _KEPT.get()
    model = None if kept is None else kept.get((path, dtype))
    if model is None:
        model = load(path, dtype, param_shardings(param_specs(read_config(path)), entered_mesh()))
        if kept is not None:
            kept[path, dtype] = model
    return dataclasses.replace(model, config=with_compute_options(model.config, options))
