"""The config of a run of the recipe."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from r1jax.algorithms.grpo import GRPO
from r1jax.data.problems.dataset import ProblemsConfig
from r1jax.data.text.bilingual_corpus import BilingualCorpusConfig
from r1jax.data.text.readable_reasoning import PROMPT
from r1jax.errors import UserError
from r1jax.evaluation.evaluate import EvaluationConfig
from r1jax.models.config import ComputeOptions
from r1jax.pipeline.command import PipelineConfig
from r1jax.recipe.judged_samples import SelectConfig
from r1jax.recipe.pretraining import PretrainConfig
from r1jax.recipe.reward_models import RewardModelConfig
from r1jax.recipe.sft import SFTConfig
from r1jax.rewards.config import VerifierConfig
from r1jax.rl.config import RLConfig
from r1jax.sampling.processors import Sampling
from r1jax.training.loop import SaveConfig

# R1-Zero's published RL (arXiv 2501.12948). A step here is a rollout of 8,192 outputs and 16 updates: 650 steps are the
# paper's 10,400, and the reference is replaced every 25, which are its 400.
PUBLISHED_RL = RLConfig(
    steps=650,
    prompts=512,
    group=16,
    minibatches=16,
    microbatch=16,
    learning_rate=3e-6,
    algorithm=GRPO(beta=0.001),
    reference_every=25,
)


@dataclasses.dataclass(frozen=True)
class RecipeConfig(ComputeOptions, PipelineConfig):
    """The settings of a run of the recipe; the defaults suit two CPU cores."""

    base: str = "pretrain"
    """The base model: pretrain (a stage trains a small one), smollm2, a model of the hub (ORG/NAME[@REVISION]), a
    Hugging Face folder, a .gguf file, the folder of a stage, or the folder of a finished run of R1-Zero."""
    out: Path | None = None
    """The output folder. None: runs/r1-BASE-seedSEED."""
    seed: int = 0
    """The random seed."""
    no_zero: bool = False
    """Leave R1-Zero out. The data set of the cold start then comes from rules, or from --cold-start."""
    cold_start: str | None = None
    """Conversations for the cold start: a file, a folder or hf:ORG/NAME[:CONFIG][/SPLIT] with the column messages.
    None: a stage makes them."""
    rewriter: str | None = None
    """The model that rewrites R1-Zero's samples for the cold start, with --rewrite-prompt. None: rules rewrite them."""
    rewrite_prompt: str = PROMPT
    """The prompt of the rewriter, with the placeholders {question}, {reasoning} and {language}."""
    general_data: str | None = None
    """General conversations for stage 4: a file, a folder or hf:ORG/NAME[:CONFIG][/SPLIT] with the column messages.
    None: rules make them."""
    helpfulness: str | None = None
    """A reward model, or FILE.py:FUNCTION. None: a stage trains a reward model."""
    harmlessness: str | None = None
    """A reward model, or FILE.py:FUNCTION. None: a stage trains a reward model."""
    helpfulness_data: str | None = None
    """The reward model's training data: a file, a folder or hf:ORG/NAME[:CONFIG][/SPLIT] with the columns prompt,
    chosen and rejected. None: rules make it."""
    harmlessness_data: str | None = None
    """The reward model's training data: a file, a folder or hf:ORG/NAME[:CONFIG][/SPLIT] with the columns prompt,
    response and safe. None: rules make it."""
    template: str = "r1"
    """The prompt template of all stages except R1-Zero."""
    zero_template: str = "r1"
    """The prompt template of R1-Zero and of the base model."""
    language_weight: float = 1.0
    """The weight of the language reward in stages 2 and 5."""
    compare_language: bool = True
    """Run stage 2 also without the language reward, and compare both in the report."""
    general_steps: int = 24
    """The number of last steps of stage 5 that have general prompts and reward models; 400 of 1,700 in the paper."""
    general_share: float = 0.5
    """The share of general prompts in these steps. The paper does not give it."""
    final_temperature: float = 0.7
    """The sampling temperature of stage 5. R1-Zero and stage 2 use sampling.temperature."""
    cold_start_rows: int = 600
    """The number of conversations in the cold start. If R1-Zero gives fewer, rules write the others."""
    general_repeats: int = 4
    """The number of copies of each general conversation in the data set of stage 4."""
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
                f"--general-steps={self.general_steps}: must be from 0 to --final-rl.steps={self.final_rl.steps}"
            )
        if min(self.cold_start_rows, self.general_repeats) < 0 or self.language_weight < 0:
            raise UserError("--cold-start-rows, --general-repeats and --language-weight must be at least 0")
        if min(self.final_temperature, self.sampling.temperature) <= 0:
            raise UserError(
                "--final-temperature and --sampling.temperature must be above 0, since equal samples have no advantages"
            )
        if not 0 <= self.general_share <= 1:
            raise UserError(f"--general-share={self.general_share} must be from 0 to 1")
        if "{reasoning}" not in self.rewrite_prompt:
            raise UserError("--rewrite-prompt has no {reasoning}: add this placeholder")
