"""Export of a checkpoint as a Hugging Face folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from r1jax.checkpoints.huggingface import save_huggingface
from r1jax.models.config import ComputeOptions
from r1jax.pipeline.stage import Figures, Inputs
from r1jax.recipe.loading import Dtype, load_model


@dataclasses.dataclass(frozen=True)
class ExportSettings:
    """Settings of an export."""

    dtype: Dtype  # the type of the exported weights


def export_stage(settings: ExportSettings, inputs: Inputs, folder: Path) -> Figures:
    """Writes the input "policy" to ``folder`` in the format of Hugging Face."""
    save_huggingface(load_model(inputs["policy"], ComputeOptions(), settings.dtype), folder, replace=True)
    return {}
