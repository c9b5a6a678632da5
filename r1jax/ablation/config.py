"""The settings of an ablation, and the program's spec that follows from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from r1jax.ablation.answers import expected_answers
from r1jax.ablation.rewards import check_rewards
from r1jax.ablation.spec import Evaluation, LoopSpec, check_algorithm
from r1jax.data.problems.dataset import ProblemSet
from r1jax.data.text.template import find_template
from r1jax.errors import UserError
from r1jax.evaluation.evaluate import EvaluationConfig
from r1jax.rewards.config import parse_rewards
from r1jax.rl.config import RLConfig, check_run
from r1jax.sampling.processors import Sampling
from r1jax.settings import may_change


@dataclasses.dataclass(frozen=True)
class ChunkConfig:
    """How the trainings of an ablation are divided; a training is an arm of the grid with one seed."""

    every: int = may_change(10)
    """Run this many steps in one call of the compiled program; states and metrics are saved after each call."""
    at_once: int = may_change(0)
    """Train at most this many arms times seeds in one program; 0 trains all that compile alike."""

    def __post_init__(self) -> None:
        if self.every < 1 or self.at_once < 0:
            raise UserError("chunks: every must be at least 1 and at-once at least 0")


@dataclasses.dataclass(frozen=True)
class AblationConfig:
    """The settings of all arms, where the grid does not change them."""

    template: str = "think"
    """The prompt template: think, r1-zero or r1-zero-chat."""
    rewards: tuple[str, ...] = ("accuracy", "format")
    """The rewards, each as NAME[=WEIGHT]: accuracy, format or length."""
    sampling: Sampling = Sampling(max_tokens=48)
    rl: RLConfig = RLConfig(steps=100, prompts=32, group=8, learning_rate=4e-4, schedule="cosine")
    evaluation: EvaluationConfig = EvaluationConfig()
    chunks: ChunkConfig = ChunkConfig()


def loop_spec(config: AblationConfig) -> LoopSpec:
    """The spec of a program that trains one arm with these settings."""
    return LoopSpec(
        rl=config.rl,
        sampling=config.sampling,
        template=find_template(config.template),
        rewards=parse_rewards(config.rewards),
        evaluation=Evaluation(config.evaluation.samples, config.evaluation.temperature),
    )


def check_arms(configs: Sequence[AblationConfig], problems: ProblemSet) -> None:
    """Raises UserError for settings of an arm that do not fit together, or that have no form inside a program.

    The answers of the problems, which all arms share, must have such a form, too.
    """
    for config in configs:
        spec = loop_spec(config)
        check_run(config.rl, config.sampling, data_axis=1)
        if config.sampling.draft != "none":
            raise UserError(f"sampling.draft={config.sampling.draft} is not supported in an ablation: leave it out")
        default = Sampling(max_tokens=config.sampling.max_tokens)
        for name in ("draft_tokens", "draft_slots"):
            if getattr(config.sampling, name) != getattr(default, name):
                raise UserError(f"sampling.{name.replace('_', '-')} has no effect in an ablation: leave it out")
        if config.sampling.slots:
            raise UserError(
                f"sampling.slots={config.sampling.slots} has no effect in an ablation, whose program decodes all "
                "sequences together: leave it out, and lower chunks.at-once for less memory"
            )
        check_rewards(spec.rewards, spec.template)
        check_algorithm(spec)
    expected_answers((*problems.train, *problems.held_out))
