"""DeepSeek-R1 in five stages (arXiv 2501.12948), from a base model to R1, with a report of what each stage achieved.

    python experiments/r1.py                        pretrains a bilingual base model first; minutes on two CPU cores
    python experiments/r1.py --preset smollm2       SmolLM2-135M; minutes on one GPU
    python experiments/r1.py --dry-run              prints what would run, with steps, tokens and memory
    python experiments/r1.py --until cold_start     stops after this stage; the same command without it resumes

R1-Zero, cold start, reasoning RL (also without the language reward, for comparison), rejection sampling, SFT from base,
RL for all scenarios: r1jax.recipe.table lists the stages. Each stage has its own folder, and each model is evaluated on
the same held-out problems. Finished stages are skipped; after a kill the same command resumes.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rich.console import Console

from r1jax import cli
from r1jax.algorithms.grpo import GRPO
from r1jax.checkpoints.load import read_config, read_tokenizer
from r1jax.data.formats.conversations import read_conversations
from r1jax.data.formats.preferences import read_labelled, read_pairs
from r1jax.data.problems.dataset import ProblemsConfig, check_problems, load_problems
from r1jax.data.text.conversations import check_reasoning_is_kept
from r1jax.data.text.readability import ReadabilityConfig
from r1jax.data.text.template import find_template
from r1jax.errors import UserError
from r1jax.evaluation.evaluate import EvaluationConfig
from r1jax.models.attention import check_attention
from r1jax.models.config import SAVING_OPTIONS
from r1jax.models.experts import check_mesh
from r1jax.pipeline.command import call_and_exit, run_experiment
from r1jax.recipe.base_model import PRETRAIN, base_description, base_title, run_name
from r1jax.recipe.config import PUBLISHED_RL, RecipeConfig
from r1jax.recipe.judge import JUDGES
from r1jax.recipe.judged_samples import SelectConfig
from r1jax.recipe.problems import problems_opening
from r1jax.recipe.reasoning_rl import check_context
from r1jax.recipe.reward_models import RewardModelConfig, check_reward_model
from r1jax.recipe.sft import SFTConfig, check_sft
from r1jax.recipe.sft_data import worked
from r1jax.recipe.stage_settings import routes
from r1jax.recipe.starts import check_starts
from r1jax.recipe.table import recipe_model, recipe_stages
from r1jax.report.recipe_run import write_report
from r1jax.report.recipe_screen import print_recipe
from r1jax.rewards.routing import check_kinds, parse_routes, rule_specs
from r1jax.rl.config import RLConfig, check_run
from r1jax.sampling.processors import Sampling
from r1jax.sampling.speculative import check_draft
from r1jax.sharding import parse_mesh
from r1jax.training.by_device import check_gather
from r1jax.training.loop import SaveConfig
from r1jax.training.multi_token import check_mtp_weight

_LONG = Sampling(max_tokens=32_768)
_PAPER_LATER = GRPO(beta=0.001, eps_low=10.0, eps_high=10.0)  # of reasoning RL and the last stage
_PAPER_PROMPTS = 20_000  # 16 samples of each, at most 4 kept: the paper has 600,000 rows and names no number of prompts
_PAPER_SFT = SFTConfig(epochs=2, batch=128, width=32_768, microbatch=8, learning_rate=5e-5)

_TINY = RecipeConfig()

PRESETS = {
    "tiny": ("a small pretrained bilingual model; minutes on two CPU cores", _TINY),
    "tiny-moe": (
        "a small pretrained model like DeepSeek-V3, with experts and latent attention, for the rest as tiny",
        RecipeConfig(  # half the learning rates of tiny, as in r1_zero.py
            pretrain=dataclasses.replace(_TINY.pretrain, architecture="deepseek_v3"),
            zero=dataclasses.replace(_TINY.zero, learning_rate=2e-4),
            reasoning_rl=dataclasses.replace(_TINY.reasoning_rl, learning_rate=2e-4),
            final_rl=dataclasses.replace(_TINY.final_rl, learning_rate=1.5e-4),
        ),
    ),
    "smollm2": (
        "SmolLM2-135M on one-digit sums and stories; minutes on one GPU",
        RecipeConfig(
            base="smollm2",
            zero_template="steps",
            dtype="bfloat16",
            problems=ProblemsConfig(source="word-problems", digits=1, held_out_share=0.25),
            sampling=Sampling(max_tokens=128),
            zero=RLConfig(steps=60, prompts=64, group=16, microbatch=256, learning_rate=3e-5, warmup_steps=5),
            cold_start_sft=SFTConfig(epochs=3, batch=8, width=512, learning_rate=3e-4),
            reasoning_rl=RLConfig(steps=40, prompts=64, group=16, microbatch=256, learning_rate=2e-5, warmup_steps=5),
            sft=SFTConfig(epochs=3, batch=8, width=512, learning_rate=2e-4),
            reward_model=RewardModelConfig(epochs=12, batch=32, width=256, learning_rate=1e-4),
            final_rl=RLConfig(steps=40, prompts=64, group=16, microbatch=256, learning_rate=1e-5, warmup_steps=5),
            general_steps=20,
            evaluation=EvaluationConfig(samples=16),
            save=SaveConfig(every=50),
        ),
    ),
    "deepseek-r1": (
        "the published settings (arXiv 2501.12948): give --base, --problems.source and a --mesh that holds it",
        RecipeConfig(
            dtype="bfloat16",
            remat="block",
            template="r1",
            zero_template="r1-zero",
            problems=ProblemsConfig(source="gym:gsm_symbolic", train_size=_PAPER_PROMPTS),
            sampling=_LONG,
            zero=PUBLISHED_RL,
            reasoning_rl=dataclasses.replace(PUBLISHED_RL, algorithm=_PAPER_LATER),
            # 1,700 steps of 512 outputs are 106 rollouts here, the last 400 of them 25.
            final_rl=dataclasses.replace(PUBLISHED_RL, steps=106, algorithm=_PAPER_LATER),
            general_steps=25,
            cold_start_rows=5_000,
            cold_start_select=SelectConfig(
                problems=10_000, samples=16, per_problem=1, readability=ReadabilityConfig(paragraph=4_000)
            ),
            rejection=SelectConfig(
                problems=_PAPER_PROMPTS, samples=16, per_problem=4, readability=ReadabilityConfig(paragraph=4_000)
            ),
            cold_start_sft=_PAPER_SFT,
            sft=_PAPER_SFT,
            reward_model=RewardModelConfig(microbatch=16),
            compare_language=False,
            evaluation=EvaluationConfig(samples=64),
            save=SaveConfig(every=5),
        ),
    ),
}


def check(config: RecipeConfig) -> None:
    """Raises UserError for settings that cannot work together, before any device work."""
    check_problems(config.problems)
    check_problems(config.general, "--general")
    data = parse_mesh(config.mesh).rows
    check_mesh(config.mesh, recipe_model(config))
    check_gather(config.gather, config.mesh, recipe_model(config))
    for rl in (config.zero, config.reasoning_rl, config.final_rl):
        check_run(rl, config.sampling, data)
    for one in (config.cold_start_sft, config.sft):
        check_sft(one, data)
    check_reward_model(config.reward_model, data)
    if config.base == PRETRAIN:
        if config.problems.source != "word-problems":
            raise UserError(
                f"--problems.source={config.problems.source} needs another --base, since --base=pretrain trains a "
                "model on word-problems only: give --base=FOLDER, --base=FILE.gguf or --base=smollm2, or set "
                "--problems.source=word-problems"
            )
        if config.zero_template != config.template:
            raise UserError(
                "--base=pretrain trains a model on one template: set --zero-template to the value of --template"
            )
    template, zero_template = find_template(config.template), find_template(config.zero_template)
    if not (template.tags and template.prose and template.chat):
        raise UserError(f"--template={config.template} is not a chat template with reasoning and a summary: choose r1")
    problems = load_problems(config.problems).train
    if config.no_zero and not config.cold_start and not worked(problems, template, min(config.cold_start_rows, 1)):
        raise UserError(
            f"without R1-Zero the cold start has no conversations: no rule solves {config.problems.source}, or "
            "--cold-start-rows is 0; give --cold-start"
        )
    _check_given(config)
    mixtures = parse_routes(routes(config, config.language_weight, general=True))
    check_kinds((*problems, *load_problems(config.general, "--general").train), mixtures)
    rule_specs(mixtures, JUDGES)
    check_draft(config.sampling, recipe_model(config))
    for name, one in (("cold-start-sft", config.cold_start_sft), ("sft", config.sft)):
        check_mtp_weight(one.mtp_weight, recipe_model(config), f"{name}.mtp-weight")
    context = recipe_model(config).context_length
    if config.sampling.max_tokens >= context:
        raise UserError(f"--sampling.max-tokens={config.sampling.max_tokens} leaves no room in a context of {context}")
    tokenizer = None if config.base == PRETRAIN else read_tokenizer(config.base)
    for rl in (config.zero, config.reasoning_rl, config.final_rl):
        check_starts(rl, recipe_model(config), tokenizer)
    if tokenizer:
        templates = (template, zero_template)
        width = max(len(one.prompt_ids(problem, tokenizer)) for one in templates for problem in problems)
        check_context(width, config.sampling, context)


def _check_given(config: RecipeConfig) -> None:
    """Reads the user's files and checkpoints, so that errors in them are reported before any device work."""
    for conversations in (config.cold_start, config.general_data):
        if conversations:
            read_conversations(conversations)
    for name, read in zip(JUDGES, (read_pairs, read_labelled), strict=True):
        given, data = getattr(config, name), getattr(config, f"{name}_data")
        if given and data:
            raise UserError(f"--{name}-data trains a reward model, and --{name} gives one: leave one of them out")
        if data:
            read(data)
        if given and ".py:" not in given and read_config(given).head != "scalar":
            raise UserError(f"--{name}={given} has no scalar head: give a reward model, or FILE.py:FUNCTION")
        if given and "=" in given.rpartition(":")[2]:
            raise UserError(f"--{name}={given}: a judge has no weight: leave it out")
    judge = config.harmlessness or config.base
    if judge != PRETRAIN and ".py:" not in judge:  # harmlessness is judged on the reasoning, too
        check_reasoning_is_kept(read_tokenizer(judge))
    if config.rewriter:
        if config.no_zero or config.cold_start:
            raise UserError("--rewriter rewrites R1-Zero's samples: leave --no-zero and --cold-start out")
        read_tokenizer(config.rewriter).chat([{"role": "user", "content": config.rewrite_prompt}])
        if read_config(config.rewriter).head == "scalar":
            raise UserError(f"--rewriter={config.rewriter} is a reward model, which gives no tokens")
    if config.general.source != "general":  # rules write conversations and judgements for their own prompts only
        complete = config.general_data and all(getattr(config, n) or getattr(config, f"{n}_data") for n in JUDGES)
        if config.base == PRETRAIN or not complete:
            raise UserError(
                f"--general.source={config.general.source} needs --base, --general-data, and for --helpfulness and "
                "--harmlessness a model, a function or data"
            )


def main() -> None:
    """Runs the recipe that the command line asks for."""
    config = cli.parse(PRESETS, "tiny", prog="r1.py", description=(__doc__ or "").splitlines()[0])
    out = config.out or Path("runs") / f"r1-{run_name(config.base, config.pretrain)}-seed{config.seed}"
    check(config)
    if not config.dry_run:
        check_attention(config)

    def report(console: Console) -> None:
        print_recipe(write_report(out), out, console)

    weights = base_description(config.base, out / "base")
    run_experiment(
        recipe_stages(config),
        out,
        config,
        "experiments/r1.py",
        weights=weights,
        model=base_title(config.base),
        opening=problems_opening(load_problems(config.problems), find_template(config.template), config.base),
        report=report,
    )


if __name__ == "__main__":
    call_and_exit(main, f"lower microbatch or logprob-chunk of the stage, or add {SAVING_OPTIONS}")
