"""Makes a stage of the pipeline from a row of a table: adds inputs that its settings name, its costs and a check."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from r1jax.data.problems.dataset import ProblemsConfig
from r1jax.models.config import ModelConfig
from r1jax.pipeline.stage import Function, Stage
from r1jax.recipe.costs import costs
from r1jax.recipe.evaluation import GeneralPrompts
from r1jax.recipe.folders import EVALUATION
from r1jax.recipe.problems import problem_files
from r1jax.recipe.reasoning_rl import ReasoningRLSettings
from r1jax.recipe.sandbox_check import check_sandbox
from r1jax.recipe.starts import start_inputs

# A row of a table of stages: name, function, settings, and role -> input (None: the stage has no such input).
StageRow = tuple[str, Function, Any, Mapping[str, str | Path | None]]


def make_stage(
    name: str,
    function: Function,
    settings: Any,
    reads: Mapping[str, str | Path | None],
    model: ModelConfig,
    mesh: str,
    accompanies: str | None = None,
) -> Stage:
    """A stage with the inputs that are not None, the files of its problems, and the checkpoints of learned models.

    accompanies: as in Stage; by default a stage with the name EVALUATION + NAME accompanies NAME. model, mesh: for the
    estimate of the costs.
    """
    extended = ""
    if isinstance(settings, ReasoningRLSettings) and settings.rl.schedule != "constant":
        extended = (
            f"the {settings.rl.schedule} schedule of {settings.rl.steps} steps is followed from here; the earlier "
            "steps followed a shorter one"
        )
    given = {role: source for role, source in reads.items() if source is not None}
    reads = {**given, **_source_files(settings)}
    if isinstance(settings, ReasoningRLSettings):
        reads |= start_inputs(settings.rl)
    if name.startswith(EVALUATION) and accompanies is None:
        accompanies = name.removeprefix(EVALUATION)
    check = partial(check_sandbox, settings)
    return Stage(name, function, settings, reads, costs(settings, model, mesh), accompanies, extended, check)


def _source_files(settings: Any) -> dict[str, Path]:
    """Role -> path of the files that the problems and the general prompts of a stage come from."""
    general = getattr(settings, "general", None)
    sources = {
        "": getattr(settings, "problems", None),
        "general_": general.problems if isinstance(general, GeneralPrompts) else general,
    }
    files: dict[str, Path] = {}
    for prefix, problems in sources.items():
        if isinstance(problems, ProblemsConfig):
            files |= problem_files(problems, prefix)
    return files
