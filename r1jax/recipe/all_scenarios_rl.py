"""RL for all scenarios: reasoning problems with rule rewards, and in the last steps general prompts with judges.

arXiv 2501.12948, section 2.3.4.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from r1jax.data.problems.dataset import ProblemsConfig, load_problems
from r1jax.pipeline.stage import Figures, Inputs
from r1jax.recipe.judge import load_judges, routed_rewards
from r1jax.recipe.loading import load_model
from r1jax.recipe.reasoning_rl import ReasoningRLSettings, train_with_rewards


@dataclasses.dataclass(frozen=True, kw_only=True)
class AllScenariosRLSettings(ReasoningRLSettings):
    """Settings of stage 5, RL for all scenarios."""

    general: ProblemsConfig
    general_from: int  # the first step with general prompts
    general_share: float  # of the prompts of such a step
    judges: tuple[str, ...]  # the judges that are reward models, which are inputs with these names


def all_scenarios_rl_stage(settings: AllScenariosRLSettings, inputs: Inputs, folder: Path) -> Figures:
    """Trains the input "policy" by reinforcement learning on reasoning problems and general prompts."""
    model = load_model(inputs["policy"], settings, settings.rl.param_dtype)
    problems, general = load_problems(settings.problems).train, load_problems(settings.general).train
    judges = load_judges(settings.judges, inputs, settings)
    with routed_rewards(settings.routes, settings.verifier, judges) as scorer:
        return train_with_rewards(
            settings, model, problems, scorer, inputs, folder, general, settings.general_from, settings.general_share
        )
