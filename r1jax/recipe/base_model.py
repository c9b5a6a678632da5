"""The base model of a run: a checkpoint of the user's, or a small model that a stage pretrains."""

from __future__ import annotations

from pathlib import Path

from r1jax import hub
from r1jax.checkpoints.load import load, read_config, resolve, short_name
from r1jax.checkpoints.model import Model
from r1jax.data.problems.dataset import ProblemsConfig
from r1jax.models.config import ModelConfig
from r1jax.pipeline.execute import execute_pipeline
from r1jax.pipeline.stage import Stage
from r1jax.recipe.pretraining import PretrainConfig, model_config, pretrain_settings, pretrain_stage
from r1jax.training.loop import SaveConfig

PRETRAIN = "pretrain"  # the value of --base and --student for a model that a stage pretrains


def base_input(base: str, stage: str) -> str | Path:
    """What stages read as their base: the name of the stage that pretrains it, or the path of the checkpoint."""
    return stage if base == PRETRAIN else resolve(base)[0]


def base_config(base: str, pretrain: PretrainConfig, max_tokens: int) -> ModelConfig:
    """The architecture of the base model. max_tokens: of a completion, for the context of a pretrained one."""
    if base != PRETRAIN:
        return read_config(base)
    return model_config(pretrain, pretrain.vocabulary, pretrain.width + max_tokens)


def base_description(base: str, folder: Path) -> str:
    """The origin of the base model, for the first line of a run.

    It is the path of the checkpoint, the name and commit of a model of the hub, or the folder of the stage that
    pretrains the base.
    """
    return f"made in {folder}" if base == PRETRAIN else hub.describe(resolve(base)[0])


def base_title(base: str) -> str:
    """The name of the base model in manifests and in the titles of reports; of a model of the hub with its commit."""
    return hub.describe(resolve(base)[0]) if base != PRETRAIN and hub.parse_name(base) else short_name(base)


def run_name(base: str, pretrain: PretrainConfig) -> str:
    """The name of the base model in the default output folder, with the architecture of a pretrained one."""
    other = base == PRETRAIN and pretrain.architecture != PretrainConfig().architecture
    return f"{short_name(base)}-{pretrain.architecture}" if other else short_name(base)


def small_base_stage(steps: int = 900, seed: int = 0) -> Stage:
    """The stage that pretrains a small model on two-digit sums and differences, as experiments/r1_zero.py does.

    Prompts are those of the template "think", and completions have at most 48 tokens.
    """
    settings = pretrain_settings(
        PretrainConfig(steps=steps), "think", ProblemsConfig(), None, max_tokens=48, seed=seed, save=SaveConfig()
    )
    return Stage(PRETRAIN, pretrain_stage, settings)


def small_base(out: Path | str, steps: int = 900, seed: int = 0) -> Model:
    """The model of small_base_stage, from ``out``/pretrain; pretrained there first, and again for other settings."""
    execute_pipeline([small_base_stage(steps, seed)], Path(out), force=True, report=lambda line: None)
    return load(Path(out) / PRETRAIN)
