"""The DeepSeek-R1 training recipe in pure-functional JAX.

Letters of shapes in comments, docstrings and einsums:

    B  batch                        V  vocabulary
    T  time, in tokens              L  layers
    D  model width                  S  slots of the sampler
    F  feed-forward width           N  sequences
    H  query heads                  P  prompts
    G  key and value heads          M  new tokens
    K  head size

``import r1jax`` is fast: the names below are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from r1jax.checkpoints.huggingface import save_huggingface
    from r1jax.checkpoints.load import load
    from r1jax.checkpoints.model import Model
    from r1jax.models.config import ModelConfig
    from r1jax.models.transformer import forward
    from r1jax.sampling.sampler import sample

__all__ = ["Model", "ModelConfig", "forward", "load", "sample", "save_huggingface"]

__version__ = "0.1.0"

_HOMES = {
    "Model": "r1jax.checkpoints.model",
    "ModelConfig": "r1jax.models.config",
    "forward": "r1jax.models.transformer",
    "load": "r1jax.checkpoints.load",
    "sample": "r1jax.sampling.sampler",
    "save_huggingface": "r1jax.checkpoints.huggingface",
}


def __getattr__(name: str) -> Any:
    # Reward workers import r1jax too and do not need jax.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
