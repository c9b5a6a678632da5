"""Settings of the recipe: of a whole run, what its stages have in common, and each one's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from r1jax.data.problems.dataset import ProblemsConfig
from r1jax.data.text.bilingual_corpus import BilingualCorpusConfig
from r1jax.data.text.readable_reasoning import PROMPT
from r1jax.errors import UserError
from r1jax.evaluation.evaluate import EvaluationConfig
from r1jax.models.config import ComputeOptions
from r1jax.pipeline.graph import GraphConfig
from r1jax.recipe.distillation import MatchConfig
from r1jax.recipe.pretraining import PretrainConfig
from r1jax.recipe.rejection_sampling import SelectConfig
from r1jax.recipe.reward_models import RewardModelConfig
from r1jax.recipe.sft import SFTConfig
from r1jax.rewards.config import VerifierConfig
from r1jax.rl.config import RLConfig
from r1jax.sampling.processors import Sampling
from r1jax.training.loop import SaveConfig

SCORERS = ("helpfulness", "harmlessness")


@dataclasses.dataclass(frozen=True)
class RecipeConfig(ComputeOptions, GraphConfig):
    """Everything that a run of the recipe is made of; the defaults are for two CPU cores."""

    base: str = "pretrain"
    """The model to start from: pretrain (make a small one), smollm2, a Hugging Face folder, a .gguf file or a run."""
    out: Path | None = None
    """Output folder; None: runs/r1-BASE-seedSEED."""
    seed: int = 0
    """Of everything random."""
    no_zero: bool = False
    """Leave R1-Zero out: rules, or --cold-start, give the cold start's data."""
    cold_start: Path | None = None
    """Conversations of your own for the cold start: JSONL or parquet with the column messages."""
    rewriter: str | None = None
    """A model that rewrites R1-Zero's samples for the cold start, asked with --rewrite-prompt; None: rules do."""
    rewrite_prompt: str = PROMPT
    """With {question}, {reasoning} and {language} in their places."""
    general_data: Path | None = None
    """Conversations that stage 4 learns beside the reasoning: JSONL or parquet; None makes some by rule."""
    helpfulness: str | None = None
    """A reward model, or FILE.py:FUNCTION; None trains one."""
    harmlessness: str | None = None
    """A reward model, or FILE.py:FUNCTION; None trains one."""
    helpfulness_data: Path | None = None
    """JSONL or parquet with prompt, chosen and rejected, to train the model on; None makes some by rule."""
    harmlessness_data: Path | None = None
    """JSONL or parquet with prompt, response and safe, to train the model on; None makes some by rule."""
    template: str = "r1"
    """Prompt of all stages but R1-Zero."""
    zero_template: str = "r1"
    """Prompt of R1-Zero and of the base model."""
    language_weight: float = 1.0
    """Weight of the language reward in stages 2 and 5."""
    compare_language: bool = True
    """Also run stage 2 without the language reward, for the report."""
    general_steps: int = 24
    """Last steps of stage 5, in which general prompts and the reward models join; 400 of 1,700 in the paper."""
    general_share: float = 0.5
    """Of general prompts among the prompts of such a step; the paper does not say."""
    final_temperature: float = 0.7
    """Sampling temperature of stage 5; that of R1-Zero and stage 2 is sampling.temperature."""
    cold_start_rows: int = 600
    """Conversations of the cold start: where R1-Zero gives fewer, rules write the others."""
    general_repeats: int = 4
    """How often each general reply stands in the data of stage 4."""
    problems: ProblemsConfig = ProblemsConfig(source="word-problems")
    general: ProblemsConfig = ProblemsConfig(source="general", held_out_share=0.25)
    sampling: Sampling = Sampling(max_tokens=72)
    pretrain: PretrainConfig = PretrainConfig(steps=1000, width=60, vocabulary=480, corpus=BilingualCorpusConfig())
    zero: RLConfig = RLConfig(steps=70, prompts=32, group=8, learning_rate=4e-4, schedule="cosine")
    cold_start_select: SelectConfig = SelectConfig(problems=512, samples=4, per_problem=1)
    cold_start_sft: SFTConfig = SFTConfig(epochs=3, batch=8, width=256, learning_rate=1e-3)
    reasoning_rl: RLConfig = RLConfig(steps=50, prompts=32, group=8, learning_rate=4e-4, schedule="cosine")
    rejection: SelectConfig = SelectConfig(problems=768, samples=4, per_problem=2)
    sft: SFTConfig = SFTConfig(epochs=3, batch=16, width=256, learning_rate=2e-3)
    reward_model: RewardModelConfig = RewardModelConfig(epochs=8, batch=32, width=128, learning_rate=1e-3)
    final_rl: RLConfig = RLConfig(steps=50, prompts=32, group=8, learning_rate=3e-4, schedule="cosine")
    verifier: VerifierConfig = VerifierConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    save: SaveConfig = SaveConfig()

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**31:
            raise UserError(f"--seed={self.seed} must be at least 0 and below {2**31}")
        if not 0 <= self.general_steps <= self.final_rl.steps:
            raise UserError(
                f"--general-steps={self.general_steps}: choose from 0 to --final-rl.steps={self.final_rl.steps}"
            )
        if min(self.cold_start_rows, self.general_repeats) < 0 or self.language_weight < 0:
            raise UserError("--cold-start-rows, --general-repeats and --language-weight must be at least 0")
        if min(self.final_temperature, self.sampling.temperature) <= 0:
            raise UserError(
                "--final-temperature and --sampling.temperature must be above 0: equal samples teach nothing"
            )
        if not 0 <= self.general_share <= 1:
            raise UserError(f"--general-share={self.general_share}: choose one from 0 to 1")
        if "{reasoning}" not in self.rewrite_prompt:
            raise UserError("--rewrite-prompt has no {reasoning}: write where it stands")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shared(ComputeOptions):
    """What all stages of a run have in common."""

    seed: int
    template: str
    problems: ProblemsConfig
    general: ProblemsConfig
    sampling: Sampling
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
    given: tuple[tuple[str, str], ...] = ()  # of the models those that no stage makes: (name, path)


def evaluation_from(fields: Mapping[str, Any]) -> EvaluateSettings:
    """The EvaluateSettings that a manifest holds as JSON: what a teacher's run was measured with."""
    parts = {
        "problems": ProblemsConfig,
        "general": ProblemsConfig,
        "sampling": Sampling,
        "verifier": VerifierConfig,
        "save": SaveConfig,
    }
    shared = {name: parts[name](**value) if name in parts else value for name, value in fields["shared"].items()}
    pairs = {name: tuple((a, b) for a, b in fields[name]) for name in ("functions", "given")}
    whole = {"shared": Shared(**shared), "evaluation": EvaluationConfig(**fields["evaluation"])}
    return EvaluateSettings(**{**fields, **whole, **pairs, "scorers": tuple(fields["scorers"])})
