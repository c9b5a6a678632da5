"""What all steps of one training have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import optax

from r1jax.checkpoints.model import Model
from r1jax.models.config import ModelConfig
from r1jax.rl.config import RLConfig, UpdateContext, check_parts
from r1jax.rl.environment import Environment, SampleGroups, ScoreGroups, sample_groups, score_groups
from r1jax.rl.learned import Learner, make_learners
from r1jax.seeds import stage_seed
from r1jax.training.optimizer import make_optimizer

# (name, function) -> a function that computes the same; the name is that of a part of a step whose time is logged
Timed = Callable[[str, Callable[..., Any]], Callable[..., Any]]


def _untimed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    return function


@dataclasses.dataclass(frozen=True)
class StepSetup:
    """Settings, optimisers and the functions that sample and score; r1jax.rl.step reads them."""

    config: RLConfig
    model: ModelConfig
    context: UpdateContext
    optimizer: optax.GradientTransformation
    learners: Mapping[str, Learner]
    longest: int  # tokens of the longest possible prompt and completion
    sample: SampleGroups
    score: ScoreGroups
    timed: Timed = _untimed


def make_setup(model: Model, environment: Environment, config: RLConfig) -> StepSetup:
    """The setup of a training of config.steps steps; the weights of ``model`` are not read.

    Raises UserError if a setting does not fit the model.
    """
    check_parts(config, model.config)
    seed, stage = environment.seed, environment.stage
    return StepSetup(
        config=config,
        model=model.config,
        context=config.context(environment.sampling),
        optimizer=make_optimizer(config, config.steps * config.updates, stage_seed(seed, stage, "rounding")),
        learners=make_learners(config, model.config, seed, stage),
        longest=environment.sampling.max_tokens + environment.prompt_width,
        sample=sample_groups(model, environment, config),
        score=score_groups(model, environment, config),
    )
