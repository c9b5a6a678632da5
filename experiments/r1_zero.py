"""R1-Zero: reinforcement learning from rule rewards on a base model (arXiv 2501.12948, section 2.2).

    python experiments/r1_zero.py                          pretrains a small base model first; minutes on two CPU cores
    python experiments/r1_zero.py --preset smollm2         SmolLM2-135M on arithmetic; minutes on one GPU
    python experiments/r1_zero.py --base PATH --mesh 8x1   any Llama or Qwen checkpoint, on eight devices
    python experiments/r1_zero.py --base ORG/NAME          a model of the Hugging Face hub

The stages are base model, evaluation, RL with accuracy and format rewards, evaluation and export, each in its own
folder; RL uses GRPO unless --rl.algorithm names another algorithm. The same command resumes a run that was stopped or
killed; with a larger --rl.steps it trains a finished run further. Cold start, supervised fine-tuning and reward models
belong to R1 (experiments/r1.py).
"""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from r1jax import cli
from r1jax.checkpoints.load import read_tokenizer
from r1jax.checkpoints.model import Model
from r1jax.data.problems.dataset import ProblemsConfig, ProblemSet, check_problems, load_problems
from r1jax.data.problems.problem import Problem
from r1jax.data.text.numbers import parse_number
from r1jax.data.text.template import find_template
from r1jax.errors import UserError
from r1jax.evaluation.evaluate import EvaluationConfig
from r1jax.evaluation.summary import Evaluation
from r1jax.models.attention import check_attention
from r1jax.models.config import COMPUTE_OPTIONS, SAVING_OPTIONS, ComputeOptions, ModelConfig
from r1jax.models.experts import check_mesh
from r1jax.pipeline.command import PipelineConfig, call_and_exit, keep_compiled, print_opening, run_experiment
from r1jax.pipeline.execute import execute_pipeline
from r1jax.pipeline.plan import finished_stages
from r1jax.pipeline.stage import Figures, Stage
from r1jax.recipe.base_model import PRETRAIN, base_config, base_description, base_input, base_title, run_name
from r1jax.recipe.config import PUBLISHED_RL
from r1jax.recipe.evaluation import EvaluationSettings, evaluation_stage
from r1jax.recipe.export import ExportSettings, export_stage
from r1jax.recipe.loading import load_model
from r1jax.recipe.make_stage import make_stage
from r1jax.recipe.pretraining import PretrainConfig, pretrain_settings, pretrain_stage
from r1jax.recipe.problems import for_evaluation, for_training, problems_opening
from r1jax.recipe.reasoning_rl import ReasoningRLSettings, check_context, reasoning_rl_stage, rule_rewards
from r1jax.recipe.starts import check_starts
from r1jax.report.zero_run import write_report
from r1jax.rewards.completions import completions_from_samples
from r1jax.rewards.config import RewardSpec, VerifierConfig, parse_rewards
from r1jax.rewards.scores import Scorer
from r1jax.rl.config import RLConfig, check_run
from r1jax.sampling.processors import Sampling
from r1jax.sampling.sampler import sample
from r1jax.sampling.speculative import check_draft
from r1jax.seeds import stage_key
from r1jax.sharding import make_mesh, parse_mesh
from r1jax.tokenizer import Tokenizer
from r1jax.training.by_device import check_gather
from r1jax.training.loop import SaveConfig


@dataclasses.dataclass(frozen=True)
class Config(ComputeOptions, PipelineConfig):
    """The settings of a run."""

    base: str = "pretrain"
    """The base model: pretrain (a stage trains a small one), smollm2, a model of the hub (ORG/NAME[@REVISION]), a
    Hugging Face folder, a .gguf file, the folder of a stage, or the folder of a finished run."""
    out: Path | None = None
    """The output folder. None: runs/r1-zero-BASE-seedSEED."""
    seed: int = 0
    """The random seed."""
    template: str = "think"
    """The prompt template: think, r1-zero, r1-zero-chat or number."""
    rewards: tuple[str, ...] = ("accuracy", "format")
    """The rewards, each as NAME[=WEIGHT] or FILE.py:NAME[=WEIGHT]. If all are files, accuracy and format are added."""
    preview: bool = False
    """Print prompts, samples of the base model and their rewards, and stop."""
    problems: ProblemsConfig = ProblemsConfig()
    sampling: Sampling = Sampling(max_tokens=48)
    rl: RLConfig = RLConfig(steps=100, prompts=32, group=8, learning_rate=4e-4, schedule="cosine")
    verifier: VerifierConfig = VerifierConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    save: SaveConfig = SaveConfig()
    pretrain: PretrainConfig = PretrainConfig()

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**31:
            raise UserError(f"--seed={self.seed} must be at least 0 and below {2**31}")


PRESETS = {
    "tiny": ("a small pretrained model on two-digit sums and differences; minutes on two CPU cores", Config()),
    "tiny-moe": (
        "a small pretrained model like DeepSeek-V3, with experts and latent attention, on the problems of tiny",
        # At the learning rate of tiny, 4e-4, its accuracy rises more slowly in the first thirty steps.
        Config(
            rl=dataclasses.replace(Config().rl, learning_rate=2e-4), pretrain=PretrainConfig(architecture="deepseek_v3")
        ),
    ),
    "smollm2": (
        "SmolLM2-135M on one-digit sums and products; minutes on one GPU",
        Config(
            base="smollm2",
            template="number",
            dtype="bfloat16",
            problems=ProblemsConfig(digits=1, operations="+*", held_out_share=0.25),
            sampling=Sampling(max_tokens=24),
            rl=RLConfig(steps=80, prompts=64, group=16, microbatch=256, learning_rate=3e-5, warmup_steps=5),
            evaluation=EvaluationConfig(samples=16),
            save=SaveConfig(every=50),
        ),
    ),
    "r1-zero": (
        "the published settings (arXiv 2501.12948): give --base, --problems.source and a --mesh that holds it",
        Config(
            base="pretrain",
            template="r1-zero",
            dtype="bfloat16",
            remat="block",
            problems=ProblemsConfig(source="gym:gsm_symbolic"),
            # 65,536 after step 8,200 in the paper: start again from the checkpoint with the longer limit.
            sampling=Sampling(max_tokens=32_768),
            rl=PUBLISHED_RL,
            save=SaveConfig(every=5),
        ),
    ),
}


def default_preset(words: list[str]) -> str:
    """The preset of a command line that names none: smollm2 for --base=smollm2, otherwise tiny."""
    text = " ".join(words)
    return "smollm2" if re.search(r"--base[ =]smollm2(?![^ ])", text) else "tiny"


def check(config: Config) -> None:
    """Raises UserError for settings that cannot work together, before any device work."""
    check_problems(config.problems)
    data = parse_mesh(config.mesh).rows
    check_mesh(config.mesh, base_model(config))
    check_gather(config.gather, config.mesh, base_model(config))
    check_run(config.rl, config.sampling, data)
    if config.base == PRETRAIN and config.pretrain.batch % data:
        raise UserError(
            f"pretrain.batch={config.pretrain.batch} does not split over the {data} devices of the mesh's data "
            "and expert axes"
        )
    template = find_template(config.template)
    if config.base == PRETRAIN:
        if config.problems.source != "arithmetic" or config.problems.terms != 2:
            given = "source" if config.problems.source != "arithmetic" else "terms"
            raise UserError(
                f"--problems.{given}={getattr(config.problems, given)} needs another --base, since --base=pretrain "
                "trains a model on arithmetic of two terms only: give --base=FOLDER, --base=FILE.gguf or "
                "--base=smollm2, or set --problems.source=arithmetic --problems.terms=2"
            )
        if template.chat:
            raise UserError(f"--template={template.name} needs a chat model: give --base, or --template=think")
    check_draft(config.sampling, base_model(config))
    context = base_model(config).context_length
    if config.sampling.max_tokens >= context:
        raise UserError(
            f"--sampling.max-tokens={config.sampling.max_tokens} leaves no room for a prompt in the model's context of "
            f"{context} tokens"
        )


def reward_names(config: Config) -> tuple[str, ...]:
    """The rewards with their weights; accuracy is added with weight 0 if it is missing, for the evaluations."""
    names = config.rewards
    if names and all(".py:" in name for name in names):
        names = ("accuracy", "format", *names)
    if not any(spec.name == "accuracy" for spec in parse_rewards(names)):
        names += ("accuracy=0",)
    return names


def reward_specs(config: Config) -> tuple[RewardSpec, ...]:
    """The parsed rewards."""
    return parse_rewards(reward_names(config))


def check_prompts(config: Config, problems: ProblemSet, tokenizer: Tokenizer, context: int) -> None:
    """Raises UserError if a prompt and its completion do not fit the context."""
    template = find_template(config.template)
    every = (*problems.train, *problems.held_out)
    width, question = max((len(template.prompt_ids(p, tokenizer)), p.question) for p in every)
    check_context(width, config.sampling, context, question)


def base_model(config: Config) -> ModelConfig:
    """The architecture of the base model."""
    return base_config(config.base, config.pretrain, config.sampling.max_tokens)


def stages(config: Config) -> list[Stage]:
    """The base model, its evaluation, RL, the evaluation after it, and the export.

    Random streams are named after the stages.
    """
    options: dict[str, Any] = {name: getattr(config, name) for name in COMPUTE_OPTIONS}
    rewards, template, seed, save = reward_names(config), config.template, config.seed, config.save
    base = base_input(config.base, "pretrain")
    files = {f"reward_{spec.name}": Path(spec.file) for spec in reward_specs(config) if spec.file}
    pretraining = pretrain_settings(
        config.pretrain, template, config.problems, None, config.sampling.max_tokens, seed, save
    )
    judged = {"template": template, "rewards": rewards, "verifier": config.verifier, "seed": seed, **options}
    rl = ReasoningRLSettings(
        rl=config.rl,
        problems=for_training(config.problems),
        sampling=config.sampling,
        save=save,
        pad_to_held_out=True,
        **judged,
    )
    evaluation = EvaluationSettings(
        evaluation=config.evaluation,
        problems=for_evaluation(config.problems),
        sampling=dataclasses.replace(config.sampling, temperature=config.evaluation.temperature),
        weights=config.rl.param_dtype,
        **judged,
    )
    export = ExportSettings(dtype=config.rl.param_dtype)
    table = [  # stage, function, settings, inputs, the stage that it accompanies
        ("pretrain", pretrain_stage, pretraining, {}, None),
        ("evaluation_before", evaluation_stage, evaluation, {"policy": base, **files}, "pretrain"),
        ("r1-zero", reasoning_rl_stage, rl, {"policy": base, **files}, None),
        ("evaluation_after", evaluation_stage, evaluation, {"policy": "r1-zero", **files}, "r1-zero"),
        ("model", export_stage, export, {"policy": "r1-zero"}, "r1-zero"),
    ]
    model, own = base_model(config), config.base == PRETRAIN
    return [
        make_stage(*row, model=model, mesh=config.mesh, accompanies=accompanies)
        for *row, accompanies in table
        if own or row[0] != "pretrain"
    ]


def preview(config: Config, out: Path, problems: ProblemSet, console: Console) -> None:
    """Prints prompts, samples of the base model and their rewards; pretrains the base in ``out`` if none is given."""
    if config.base == PRETRAIN:
        execute_pipeline(stages(config)[:1], out, report=lambda line: None)
    base = out / base_input(config.base, "pretrain")  # out / an absolute path is that path
    model = load_model(base, config, config.rl.param_dtype)
    check_prompts(config, problems, model.tokenizer, model.config.context_length)
    with rule_rewards(reward_names(config), (), config.verifier) as pool:
        show_samples(config, model, problems, pool, console)


def show_samples(config: Config, model: Model, problems: ProblemSet, pool: Scorer, console: Console) -> None:
    """Prints four samples for each of the first four training problems, with their rewards."""
    template, shown = find_template(config.template), problems.train[:4]
    prompts = [template.prompt_ids(p, model.tokenizer) for p in shown]
    samples = sample(
        model.params,
        prompts,
        model.config,
        stage_key(config.seed, "preview"),
        sampling=config.sampling,
        end_tokens=model.tokenizer.eos_ids,
        samples_per_prompt=4,
    )
    completions = completions_from_samples(samples, model.tokenizer, template, config.sampling)
    scores = pool.score([p for p in shown for _ in range(4)], completions)
    for i, (completion, values, total) in enumerate(zip(completions, scores.values, scores.total, strict=True)):
        if i % 4 == 0:
            console.rule(f"{shown[i // 4].question} -> {shown[i // 4].answer}", align="left")
            console.print(model.tokenizer.decode(prompts[i // 4]), style="dim", markup=False, highlight=False)
        listed = "  ".join(f"{name} {value:g}" for name, value in zip(scores.names, values, strict=True))
        console.print(completion.text, markup=False, highlight=False)
        console.print(f"reward {total:g}  ({listed})  {completion.tokens} tokens", style="bold", markup=False)
    means = "  ".join(f"{name} {scores.values[:, i].mean():.2f}" for i, name in enumerate(scores.names))
    console.rule(f"mean rewards: {means}", align="left")


def advise(stage: str, figures: Figures) -> None:
    """Prints advice if no sample of the base model has a correct answer or the format."""
    if stage == "evaluation_before":
        evaluation = Evaluation.from_json(figures["reasoning"])
        if not evaluation.format_rate and not evaluation.pass_at[1]:
            Console().print(
                "no held-out sample has a correct answer or the format, so rewards may stay at 0: see --preview",
                style="yellow",
                markup=False,
            )


def _has_number(problem: Problem) -> bool:
    """True if the answer is a number, which the checker reads from any text that ends with it."""
    if problem.checker in ("math", "gym"):
        return parse_number(problem.answer) is not None
    return problem.checker == "number"


def main() -> None:
    """Runs the experiment that the command line asks for."""
    config = cli.parse(
        PRESETS, default_preset(sys.argv[1:]), prog="r1_zero.py", description=(__doc__ or "").splitlines()[0]
    )
    out = config.out or Path("runs") / f"r1-zero-{run_name(config.base, config.pretrain)}-seed{config.seed}"
    reward_specs(config)
    check(config)
    problems = load_problems(config.problems)
    template = find_template(config.template)
    if not template.tags and not template.code and not all(map(_has_number, problems.train)):
        raise UserError(
            f"--template={config.template} asks for a number, but some answers of the problems are not numbers"
        )
    tokenizer = None if config.base == PRETRAIN else read_tokenizer(config.base)
    check_starts(config.rl, base_model(config), tokenizer)
    if tokenizer:
        check_prompts(config, problems, tokenizer, base_model(config).context_length)
    if not config.dry_run:
        check_attention(config)
    weights = base_description(config.base, out / "pretrain")
    opening = problems_opening(problems, find_template(config.template), config.base)
    if config.preview:
        for stage in stages(config):
            stage.check()
        keep_compiled()
        with jax.set_mesh(make_mesh(config.mesh)):
            console = Console()
            print_opening(console, weights, out, opening, config.kernels)
            preview(config, out, problems, console)
        return
    run_experiment(
        stages(config),
        out,
        config,
        "experiments/r1_zero.py",
        weights=weights,
        model=base_title(config.base),
        opening=opening,
        report=lambda console: write_report(out, finished_stages(out), console),
        on_finish=advise,
    )


if __name__ == "__main__":
    call_and_exit(main, f"lower --rl.microbatch, --sampling.slots or --rl.logprob-chunk, or add {SAVING_OPTIONS}")
