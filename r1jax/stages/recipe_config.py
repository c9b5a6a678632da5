"""Settings of the recipe's stages: what all have in common, and each one's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from r1jax.data.problems import ProblemsConfig
from r1jax.data.rewrite import PROMPT
from r1jax.evaluation.evaluate import EvaluationConfig
from r1jax.rewards.config import VerifierConfig
from r1jax.sampling.processors import Sampling
from r1jax.stages.distill import MatchConfig
from r1jax.stages.pretrain import PretrainConfig
from r1jax.stages.rejection_sampling import SelectConfig
from r1jax.stages.reward_model import RewardModelConfig
from r1jax.stages.rl_config import RLConfig
from r1jax.stages.sft import SFTConfig
from r1jax.training.loop import SaveConfig

SCORERS = ("helpfulness", "harmlessness")


@dataclasses.dataclass(frozen=True)
class Shared:
    """What all stages of a run have in common."""

    seed: int
    template: str
    problems: ProblemsConfig
    general: ProblemsConfig
    sampling: Sampling
    dtype: str
    remat: str
    attention: str
    unroll: bool
    verifier: VerifierConfig
    save: SaveConfig


@dataclasses.dataclass(frozen=True)
class PretrainSettings:
    """A small base model, made on the spot."""

    shared: Shared
    pretrain: PretrainConfig


@dataclasses.dataclass(frozen=True)
class RLSettings:
    """Reinforcement learning; the input "start" or the first one is where it starts from."""

    shared: Shared
    rl: RLConfig
    routes: tuple[str, ...]
    template: str
    temperature: float = 1.0
    general_from: int = -1  # the step from which general prompts are among the others; -1: never
    general_share: float = 0.5  # of them, in a step's prompts from then on
    scorers: tuple[str, ...] = ()  # of "helpfulness" and "harmlessness" those that are models, inputs of these names


@dataclasses.dataclass(frozen=True)
class SelectSettings:
    """A data set from a model's own samples."""

    shared: Shared
    select: SelectConfig
    template: str
    kind: Literal["cold start", "rejection sampling"]
    stand_in: int = 0  # cold start: the rows that it should have; rules write what Zero's samples do not fill
    rewrite_prompt: str = PROMPT  # cold start: what the input "rewriter" is asked, where there is one
    general_repeats: int = 0  # rejection sampling: how often each general reply is in the data


@dataclasses.dataclass(frozen=True)
class SFTSettings:
    """Fine-tuning on a data set of conversations."""

    shared: Shared
    sft: SFTConfig


@dataclasses.dataclass(frozen=True)
class RewardModelSettings:
    """A reward model from preferences, made by rule where no file of them is given."""

    shared: Shared
    kind: Literal["helpfulness", "harmlessness"]
    reward_model: RewardModelConfig


@dataclasses.dataclass(frozen=True)
class MatchSettings:
    """Distillation by distribution."""

    shared: Shared
    match: MatchConfig


@dataclasses.dataclass(frozen=True)
class EvaluateSettings:
    """The evaluation of a checkpoint on held-out reasoning problems and general prompts."""

    shared: Shared
    evaluation: EvaluationConfig
    template: str
    scorers: tuple[str, ...] = SCORERS  # those that are models, inputs of these names
    functions: tuple[tuple[str, str], ...] = ()  # the others that there are: (name, FILE.py:FUNCTION)


def evaluation_from(fields: Mapping[str, Any]) -> EvaluateSettings:
    """The EvaluateSettings that a manifest holds as JSON: what a teacher's run was measured with."""
    parts = {
        "problems": ProblemsConfig, "general": ProblemsConfig, "sampling": Sampling, "verifier": VerifierConfig,
        "save": SaveConfig,
    }  # fmt: skip
    shared = {name: parts[name](**value) if name in parts else value for name, value in fields["shared"].items()}
    functions = tuple((name, reward) for name, reward in fields["functions"])
    given = {"shared": Shared(**shared), "evaluation": EvaluationConfig(**fields["evaluation"])}
    return EvaluateSettings(**{**fields, **given, "scorers": tuple(fields["scorers"]), "functions": functions})
