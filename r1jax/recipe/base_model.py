"""The base model of a run: a checkpoint of the user's, or a small model that a stage pretrains."""

from __future__ import annotations

from pathlib import Path

from r1jax.checkpoints.load import read_config, resolve
from r1jax.models.config import ModelConfig
from r1jax.recipe.pretraining import PretrainConfig, model_config

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
    """The path of the checkpoint, or the folder of the stage that pretrains the base, for the first line of a run."""
    return f"made in {folder}" if base == PRETRAIN else str(resolve(base)[0])
