"""The settings of each stage of the recipe, made from the config of a run: exactly those that the stage reads."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from r1jax.data.formats.sources import part_of_origin
from r1jax.data.problems.dataset import load_problems
from r1jax.models.config import COMPUTE_OPTIONS
from r1jax.recipe.all_scenarios_rl import AllScenariosRLSettings
from r1jax.recipe.cold_start import ColdStartSettings
from r1jax.recipe.config import RecipeConfig
from r1jax.recipe.evaluation import EvaluationSettings, GeneralPrompts
from r1jax.recipe.judge import JUDGES, reward_routes
from r1jax.recipe.judged_samples import SamplesSettings, SelectConfig
from r1jax.recipe.pretraining import PretrainSettings, pretrain_settings
from r1jax.recipe.problems import GeneralSplit, for_evaluation, for_training
from r1jax.recipe.reasoning_rl import ReasoningRLSettings
from r1jax.recipe.rejection_sampling import RejectionSettings
from r1jax.recipe.reward_models import RewardModelSettings
from r1jax.recipe.sft import SFTSettings
from r1jax.rl.config import RLConfig


def judge_rewards(config: RecipeConfig) -> dict[str, str]:
    """Judge -> its reward: the name of the judge if it is a reward model, or FILE.py:FUNCTION."""
    given = {name: getattr(config, name) for name in JUDGES}
    return {name: path if path and ".py:" in path else name for name, path in given.items()}


def judge_models(config: RecipeConfig) -> tuple[str, ...]:
    """The judges that are reward models, whether a stage trains them or the user gives them."""
    return tuple(name for name, reward in judge_rewards(config).items() if reward == name)


def routes(config: RecipeConfig, language: float, general: bool = False) -> tuple[str, ...]:
    """The rewards of a stage of RL by kind of problem. general: include general prompts and their judges."""
    kinds = {problem.kind for problem in load_problems(config.problems).train}
    return reward_routes(kinds, language, judge_rewards(config) if general else {})


def _part(source: str | None) -> str:
    return part_of_origin(source) if source else ""


class StageSettings:
    """The settings of the stages of one run."""

    def __init__(self, config: RecipeConfig) -> None:
        self._config = config
        self._options: dict[str, Any] = {name: getattr(config, name) for name in COMPUTE_OPTIONS}
        self._trained = {"seed": config.seed, "save": config.save}
        self._problems = for_training(config.problems)
        self._split = GeneralSplit(config.general.held_out_share, config.general.seed)

    def base(self) -> PretrainSettings:
        """Pretraining of the base model."""
        c = self._config
        return pretrain_settings(c.pretrain, c.template, c.problems, c.general, c.sampling.max_tokens, c.seed, c.save)

    def reward_model(self, kind: Literal["helpfulness", "harmlessness"]) -> RewardModelSettings:
        """Training of a reward model, one of the judges."""
        data = getattr(self._config, f"{kind}_data")
        return RewardModelSettings(
            kind=kind,
            reward_model=self._config.reward_model,
            general=None if data else self._split,
            source=_part(data),
            **self._trained,
            **self._options,
        )

    def evaluation(self, template: str) -> EvaluationSettings:
        """Evaluation of a model. template: of the reasoning prompts."""
        c = self._config
        general = GeneralPrompts(
            problems=for_evaluation(c.general),
            template=c.template,
            judges=judge_models(c),
            functions=tuple((name, reward) for name, reward in judge_rewards(c).items() if name != reward),
        )
        return EvaluationSettings(
            evaluation=c.evaluation,
            problems=for_evaluation(c.problems),
            template=template,
            general=general,
            sampling=dataclasses.replace(c.sampling, temperature=c.evaluation.temperature),
            weights=c.dtype,
            verifier=c.verifier,
            seed=c.seed,
            **self._options,
        )

    def zero(self) -> ReasoningRLSettings:
        """RL of R1-Zero."""
        return self._reasoning_rl(self._config.zero, self._config.zero_template, language=0.0)

    def reasoning_rl(self) -> ReasoningRLSettings:
        """Stage 2: reasoning RL."""
        return self._reasoning_rl(self._config.reasoning_rl, self._config.template, self._config.language_weight)

    def reasoning_rl_no_language(self) -> ReasoningRLSettings:
        """Stage 2 without the language reward."""
        return self._reasoning_rl(self._config.reasoning_rl, self._config.template, language=0.0)

    def _reasoning_rl(self, rl: RLConfig, template: str, language: float) -> ReasoningRLSettings:
        return ReasoningRLSettings(
            rl=rl,
            problems=self._problems,
            template=template,
            sampling=self._config.sampling,
            routes=routes(self._config, language),
            verifier=self._config.verifier,
            **self._trained,
            **self._options,
        )

    def cold_start_data(self) -> ColdStartSettings:
        """The data set of stage 1, the cold start."""
        c = self._config
        return ColdStartSettings(
            problems=self._problems,
            template=c.template,
            rows=c.cold_start_rows,
            samples=None if c.no_zero else self._samples(c.cold_start_select, c.zero_template),
            rewrite_prompt=c.rewrite_prompt if c.rewriter else None,
            seed=c.seed,
        )

    def cold_start(self) -> SFTSettings:
        """Stage 1: fine-tuning on the cold start."""
        source = _part(self._config.cold_start)
        return SFTSettings(sft=self._config.cold_start_sft, source=source, **self._trained, **self._options)

    def sft(self) -> SFTSettings:
        """Stage 4: fine-tuning of the base model."""
        return SFTSettings(sft=self._config.sft, **self._trained, **self._options)

    def rejection_sampling(self) -> RejectionSettings:
        """Stage 3: rejection sampling, for the data set of stage 4."""
        c = self._config
        by_rule = c.general_repeats > 0 and not c.general_data
        return RejectionSettings(
            problems=self._problems,
            template=c.template,
            samples=self._samples(c.rejection, c.template),
            general_repeats=c.general_repeats,
            general=self._split if by_rule else None,
            general_source=_part(c.general_data),
            seed=c.seed,
        )

    def r1(self) -> AllScenariosRLSettings:
        """Stage 5: RL for all scenarios."""
        c = self._config
        return AllScenariosRLSettings(
            rl=c.final_rl,
            problems=self._problems,
            template=c.template,
            sampling=dataclasses.replace(c.sampling, temperature=c.final_temperature),
            routes=routes(c, c.language_weight, general=True),
            verifier=c.verifier,
            general=for_training(c.general),
            general_from=c.final_rl.steps - c.general_steps,
            general_share=c.general_share,
            judges=judge_models(c),
            **self._trained,
            **self._options,
        )

    def _samples(self, select: SelectConfig, template: str) -> SamplesSettings:
        sampling = dataclasses.replace(self._config.sampling, temperature=select.temperature)
        verifier = self._config.verifier
        return SamplesSettings(select=select, template=template, sampling=sampling, verifier=verifier, **self._options)
