"""DeepSeek-R1 as a table of stages (arXiv 2501.12948, figure 2), each with its function, settings and inputs.

r1jax.recipe.stage_settings makes the settings of the stages from the config.
"""

from __future__ import annotations

from pathlib import Path

from r1jax.checkpoints.load import resolve
from r1jax.data.formats.sources import origin
from r1jax.models.config import ModelConfig
from r1jax.pipeline.stage import Stage
from r1jax.recipe.all_scenarios_rl import all_scenarios_rl_stage
from r1jax.recipe.base_model import PRETRAIN, base_config, base_input
from r1jax.recipe.cold_start import cold_start_stage
from r1jax.recipe.config import RecipeConfig
from r1jax.recipe.evaluation import evaluation_stage
from r1jax.recipe.folders import EVALUATION
from r1jax.recipe.judge import JUDGES
from r1jax.recipe.make_stage import StageRow, make_stage
from r1jax.recipe.pretraining import pretrain_stage
from r1jax.recipe.reasoning_rl import reasoning_rl_stage
from r1jax.recipe.rejection_sampling import rejection_sampling_stage
from r1jax.recipe.reward_models import reward_model_stage
from r1jax.recipe.sft import sft_stage
from r1jax.recipe.stage_settings import StageSettings, judge_models, judge_rewards


def recipe_stages(config: RecipeConfig) -> list[Stage]:
    """The stages in the order in which they run. A stage reads other stages by name and files by path."""
    base = base_input(config.base, "base")
    zero = None if config.no_zero else "zero"
    rewriter = resolve(config.rewriter)[0] if config.rewriter else None
    conversations = origin(config.cold_start) if config.cold_start else "cold_start_data"
    general, pairs, labelled = (
        origin(source) if source else None
        for source in (config.general_data, config.helpfulness_data, config.harmlessness_data)
    )
    zero_template, template = config.zero_template, config.template
    judges = judge_inputs(config)
    settings = StageSettings(config)
    helpfulness, harmlessness = settings.reward_model("helpfulness"), settings.reward_model("harmlessness")
    rejection = settings.rejection_sampling()

    def evaluation(of: str, template: str, policy: str | Path | None = None) -> StageRow:
        return EVALUATION + of, evaluation_stage, settings.evaluation(template), {"policy": policy or of, **judges}

    table: list[StageRow] = [  # stage, function, settings, inputs
        ("base", pretrain_stage, settings.base(), {}),
        ("helpfulness", reward_model_stage, helpfulness, {"policy": base, "preferences": pairs}),
        ("harmlessness", reward_model_stage, harmlessness, {"policy": base, "preferences": labelled}),
        evaluation("base", zero_template, base),
        # R1-Zero: RL on the base model
        ("zero", reasoning_rl_stage, settings.zero(), {"policy": base}),
        evaluation("zero", zero_template),
        # Stage 1: cold start
        ("cold_start_data", cold_start_stage, settings.cold_start_data(), {"policy": zero, "rewriter": rewriter}),
        ("cold_start", sft_stage, settings.cold_start(), {"policy": base, "conversations": conversations}),
        evaluation("cold_start", template),
        # Stage 2: reasoning RL
        ("reasoning_rl", reasoning_rl_stage, settings.reasoning_rl(), {"policy": "cold_start"}),
        evaluation("reasoning_rl", template),
        ("reasoning_rl_no_language", reasoning_rl_stage, settings.reasoning_rl_no_language(), {"policy": "cold_start"}),
        evaluation("reasoning_rl_no_language", template),
        # Stages 3 and 4: rejection sampling, and fine-tuning of the base model
        ("rejection_sampling", rejection_sampling_stage, rejection, {"policy": "reasoning_rl", "general": general}),
        ("sft", sft_stage, settings.sft(), {"policy": base, "conversations": "rejection_sampling"}),
        evaluation("sft", template),
        # Stage 5: RL for all scenarios
        ("r1", all_scenarios_rl_stage, settings.r1(), {"policy": "sft", **judges}),
        evaluation("r1", template),
    ]
    model = recipe_model(config)
    return [make_stage(*row, model, config.mesh) for row in table if row[0] not in _left_out(config)]


def recipe_model(config: RecipeConfig) -> ModelConfig:
    """The architecture of all models of the run, which is that of the base model."""
    return base_config(config.base, config.pretrain, config.sampling.max_tokens)


def judge_inputs(config: RecipeConfig) -> dict[str, str | Path]:
    """The judges of general prompts as inputs: role -> the stage that trains the judge, its checkpoint, or its file."""
    rewards = judge_rewards(config)
    models = {name: getattr(config, name) for name in judge_models(config)}
    functions = {name: Path(reward.rpartition(":")[0]) for name, reward in rewards.items() if name not in models}
    return {
        **{name: name if given is None else resolve(given)[0] for name, given in models.items()},
        **{f"{name}_file": file.expanduser() for name, file in functions.items()},
    }


def _left_out(config: RecipeConfig) -> set[str]:
    """The names of the stages in the table that this config leaves out."""
    names = {name for name in JUDGES if getattr(config, name) is not None}
    if config.base != PRETRAIN:
        names.add("base")
    if config.no_zero:
        names |= {"zero", f"{EVALUATION}zero"}
    if config.cold_start:
        names.add("cold_start_data")
    if not config.compare_language:
        names |= {"reasoning_rl_no_language", f"{EVALUATION}reasoning_rl_no_language"}
    return names
