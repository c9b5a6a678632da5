"""Ablations: R1-Zero on a small model with all combinations of some settings and several seeds, many at a time.

    python experiments/ablate.py --grid rl.beta=0,0.01,0.1 --grid rl.eps-high=0.2,0.28 --rl.minibatches 4 --seeds 8
    python experiments/ablate.py --grid rl.algorithm=grpo,dapo --grid rl.group=4,8 --base runs/mine/pretrain
    python experiments/ablate.py --grid rl.algorithm=grpo,ppo,prime --rl.minibatches 4 --seeds 4
    python experiments/ablate.py --grid rl.beta=0,0.01 --dry-run      the plan and the groups of arms
    python experiments/ablate.py --measure 1 8 64                     the cost of many trainings against one

The stages are base model and ablation. The whole loop of reinforcement learning is one compiled program for all arms
that differ in numbers alone; arms that differ in other settings follow one after another. The same command resumes an
ablation that was stopped or killed. Rewards, problems and templates that have no form inside a program are refused:
train those with experiments/r1_zero.py.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro
from rich.console import Console

from r1jax import cli
from r1jax.ablation.config import AblationConfig, check_arms, loop_spec
from r1jax.ablation.cost import measure
from r1jax.ablation.grid import configs_of, parse_axes
from r1jax.ablation.groups import group_arms
from r1jax.ablation.result import Ablation
from r1jax.checkpoints.load import read_config, read_tokenizer, short_name
from r1jax.data.problems.dataset import ProblemsConfig, ProblemSet, check_problems, load_problems
from r1jax.data.text.template import find_template
from r1jax.disk import write_whole
from r1jax.errors import UserError
from r1jax.models.attention import check_attention
from r1jax.models.config import COMPUTE_OPTIONS, ComputeOptions
from r1jax.pipeline.command import PipelineConfig, call_and_exit, keep_compiled, print_opening, run_experiment
from r1jax.pipeline.execute import execute_pipeline
from r1jax.pipeline.manifest import machine
from r1jax.pipeline.plan import finished_stages
from r1jax.pipeline.stage import Stage
from r1jax.recipe.ablation import RESULT, AblationSettings, ablation_stage
from r1jax.recipe.base_model import PRETRAIN, base_config, base_description, base_input, base_title
from r1jax.recipe.loading import load_model
from r1jax.recipe.make_stage import make_stage
from r1jax.recipe.pretraining import PretrainConfig, pretrain_settings, pretrain_stage
from r1jax.recipe.problems import problems_opening
from r1jax.recipe.reasoning_rl import check_context
from r1jax.report.ablation import write_report
from r1jax.sampling.processors import Sampling
from r1jax.sharding import make_mesh
from r1jax.training.loop import SaveConfig

STAGE = "ablation"


@dataclasses.dataclass(frozen=True)
class Config(ComputeOptions, PipelineConfig, AblationConfig):
    """The settings of an ablation."""

    grid: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """An axis of the grid, NAME=VALUE,VALUE: a setting of rl or sampling, or rewards.NAME for the weight of a reward,
    with its values. Several axes are several --grid; all combinations are trained. Settings that change together are
    one axis: rl.group+rl.prompts=4+64,8+32."""
    seeds: int = 4
    """The number of trainings of each arm, with the random seeds seed, seed + 1 and so on."""
    base: str = PRETRAIN
    """The base model: pretrain (a stage trains a small one), the folder of a checkpoint, or a model of the hub."""
    out: Path | None = None
    """The output folder. None: runs/ablation-BASE-seedSEED."""
    seed: int = 0
    """The random seed of the base model that is pretrained, and the first seed of the arms."""
    measure: tuple[int, ...] = ()
    """Measure seconds and memory of these numbers of trainings at once, write cost.json, and stop; without a grid."""
    problems: ProblemsConfig = ProblemsConfig()
    save: SaveConfig = SaveConfig()
    pretrain: PretrainConfig = PretrainConfig()

    def __post_init__(self) -> None:
        if self.seeds < 1 or not 0 <= self.seed < 2**31 - self.seeds:
            raise UserError(f"--seeds={self.seeds} must be at least 1, and --seed={self.seed} from 0 to below 2^31")
        if self.mesh != "1x1":
            raise UserError(f"--mesh={self.mesh}: an ablation runs on one device, --mesh=1x1")
        if any(count < 1 for count in self.measure):
            raise UserError("--measure: the numbers of trainings must be at least 1")
        if self.kernels == "mosaic":
            raise UserError("--kernels=mosaic: these kernels cannot train several arms at once: use --kernels=auto")
        if self.measure and self.dry_run:
            raise UserError("--measure has no plan to print: leave --dry-run out")


# With blocks in a loop, most of the time of many arms would be copies of activations into and out of its stacks.
PRESETS = {"tiny": ("a small pretrained model on two-digit sums and differences", Config(unroll=True))}


def settings_of(config: Config) -> AblationConfig:
    """The settings of all arms."""
    return AblationConfig(**{field.name: getattr(config, field.name) for field in dataclasses.fields(AblationConfig)})


@functools.cache
def arms(config: Config) -> list[AblationConfig]:
    """The settings of each arm; of the only one without a grid."""
    own = settings_of(config)
    return configs_of(parse_axes(config.grid), own) if config.grid or not config.measure else [own]


def longest(config: Config) -> Sampling:
    """The settings of sampling of the arm whose completions may be longest."""
    return max((arm.sampling for arm in arms(config)), key=lambda sampling: sampling.max_tokens)


def check(config: Config, problems: ProblemSet) -> None:
    """Raises UserError for settings that cannot work together, before any device work."""
    if config.grid and config.measure:
        raise UserError("--measure measures one arm with several seeds: leave --grid out")
    template = find_template(config.template)
    if config.base == PRETRAIN:
        if config.problems.source != "arithmetic" or config.problems.terms != 2 or template.chat:
            raise UserError(
                "--base=pretrain trains a model on arithmetic of two terms without a chat template: give another "
                "--base, or the defaults of --problems.source, --problems.terms and --template"
            )
    else:
        tokenizer, everything = read_tokenizer(config.base), (*problems.train, *problems.held_out)
        width = max(len(template.prompt_ids(problem, tokenizer)) for problem in everything)
        check_context(width, longest(config), read_config(config.base).context_length)
    check_arms(arms(config), problems)


def seeds(config: Config) -> tuple[int, ...]:
    """The seeds of each arm."""
    return tuple(range(config.seed, config.seed + config.seeds))


def stages(config: Config) -> list[Stage]:
    """The base model and the ablation."""
    options: dict[str, Any] = {name: getattr(config, name) for name in COMPUTE_OPTIONS}
    max_tokens = longest(config).max_tokens
    pretraining = pretrain_settings(
        config.pretrain, config.template, config.problems, None, max_tokens, config.seed, config.save
    )
    ablation = AblationSettings(
        arms=settings_of(config), grid=config.grid, seeds=seeds(config), problems=config.problems, **options
    )
    model = base_config(config.base, config.pretrain, max_tokens)
    base = make_stage(PRETRAIN, pretrain_stage, pretraining, {}, model=model, mesh=config.mesh)
    reads = {"policy": base_input(config.base, PRETRAIN)}
    row = make_stage(STAGE, ablation_stage, ablation, reads, model=model, mesh=config.mesh)
    configs = arms(config)
    costs = {
        "steps": f"{config.rl.steps}",
        "trainings": f"{len(configs)} arms x {config.seeds} seeds",
        "programs": f"{len(group_arms([loop_spec(arm) for arm in configs]))}",
    }
    row = dataclasses.replace(row, costs=costs)
    return [base, row] if config.base == PRETRAIN else [row]


def report(out: Path, console: Console) -> None:
    """Writes and prints the report, if the ablation is finished."""
    if (manifest := finished_stages(out).get(STAGE)) is not None:
        result = Ablation.load(out / STAGE / RESULT)
        write_report(result, out, f"Ablation · {manifest['made_by']['model']}", console)


def measure_cost(config: Config, out: Path, problems: ProblemSet, console: Console) -> None:
    """Writes cost.json with seconds and memory of config.measure trainings at once; pretrains the base if needed.

    The file is written after each number of trainings, since a larger one may not fit into memory.
    """
    keep_compiled()
    with jax.set_mesh(make_mesh(config.mesh)):
        print_opening(console, base_description(config.base, out / PRETRAIN), out, kernels=config.kernels)
        if config.base == PRETRAIN:
            execute_pipeline(stages(config)[:1], out)
        folder = out / PRETRAIN if config.base == PRETRAIN else Path(base_input(config.base, PRETRAIN))
        model = load_model(folder, config, config.rl.param_dtype)
        rows: list[dict[str, Any]] = []
        about = {
            **machine(config.kernels),
            "base": base_title(config.base),
            "settings": json.loads(cli.to_json(settings_of(config))),
        }
        out.mkdir(parents=True, exist_ok=True)
        for row in measure(settings_of(config), config.measure, config.seed, model, problems):
            rows.append(row)
            write_whole(out / "cost.json", json.dumps({"trainings": rows, **about}, indent=2) + "\n")
            console.print(
                f"{row['trainings']} trainings: {row['seconds_per_step']:.4f} s a step, {row['times_one']:.2f} times "
                f"one training, {row['program_gibibytes']:.2f} GiB",
                highlight=False,
            )
    console.print(f"{out / 'cost.json'}", highlight=False, soft_wrap=True)


def main() -> None:
    """Runs the experiment that the command line asks for."""
    config = cli.parse(PRESETS, "tiny", prog="ablate.py", description=(__doc__ or "").splitlines()[0])
    out = config.out or Path("runs") / f"ablation-{short_name(config.base)}-seed{config.seed}"
    check_problems(config.problems)
    problems = load_problems(config.problems)
    check(config, problems)
    if not config.dry_run:
        check_attention(config)
    if config.measure:
        measure_cost(config, out, problems, Console())
        return
    run_experiment(
        stages(config),
        out,
        config,
        "experiments/ablate.py",
        weights=base_description(config.base, out / PRETRAIN),
        model=base_title(config.base),
        opening=problems_opening(problems, find_template(config.template), config.base),
        report=lambda console: report(out, console),
    )


if __name__ == "__main__":
    call_and_exit(main, "lower --chunks.at-once, --rl.microbatch or --rl.logprob-chunk")
