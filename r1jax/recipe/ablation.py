"""An ablation as a stage: many trainings of one base model over a grid of settings and seeds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from r1jax.ablation.ablate import ablate
from r1jax.ablation.config import AblationConfig
from r1jax.ablation.grid import parse_axes
from r1jax.data.problems.dataset import ProblemsConfig, load_problems
from r1jax.models.config import ComputeOptions
from r1jax.pipeline.stage import Figures, Inputs
from r1jax.recipe.loading import load_model

RESULT, TABLE = "results.npz", "results.csv"


@dataclasses.dataclass(frozen=True, kw_only=True)
class AblationSettings(ComputeOptions):
    """Settings of an ablation."""

    arms: AblationConfig  # of all arms, where the grid does not change them
    grid: tuple[str, ...]  # NAME=VALUE,VALUE
    seeds: tuple[int, ...]
    problems: ProblemsConfig


def ablation_stage(settings: AblationSettings, inputs: Inputs, folder: Path) -> Figures:
    """Trains the input "policy" with every arm of the grid and every seed; writes results.npz and results.csv.

    Figures: trainings, steps of each, tokens of all, and seconds.
    """
    model = load_model(inputs["policy"], settings, settings.arms.rl.param_dtype)
    grid = {axis.name: axis.values for axis in parse_axes(settings.grid)}
    result = ablate(settings.arms, grid, settings.seeds, model, load_problems(settings.problems), folder)
    result.save(folder / RESULT)
    result.save_table(folder / TABLE)
    return {
        "trainings": len(result.arms) * len(result.seeds),
        "steps": result.steps,
        "tokens": float(result.metrics["tokens"].sum(dtype=np.float64)),
        "seconds": result.about["seconds"],
    }
