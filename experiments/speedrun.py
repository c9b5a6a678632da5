"""Speedrun: seconds until R1-Zero on a fixed task reaches a target on one GPU; the rules are in docs/speedrun.md.

    python experiments/speedrun.py --base qwen.gguf --seed 0               the plain entry
    python experiments/speedrun.py --base qwen.gguf --entry lr --rl.learning-rate 6e-6
    python experiments/speedrun.py --show docs/results/speedrun-plain-seed0     samples before and after
    python experiments/speedrun.py --table                                 the table of records in docs/speedrun.md

The problems are those of gsm_symbolic, of whose templates a quarter is held out. Training stops at the first evaluation
whose 95% interval of held-out pass@1 lies above the target. The clock runs from weights in memory and includes
compilation and these evaluations. Then the base and the last checkpoint are evaluated on fresh held-out problems and on
a transfer set, and the folder OUT/record gets the record. A stopped run resumes, but is no record any more.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from r1jax import cli
from r1jax.checkpoints.load import read_config, read_tokenizer, resolve, short_name
from r1jax.data.problems.dataset import ProblemsConfig, check_problems, load_problems
from r1jax.data.text.template import find_template
from r1jax.errors import UserError
from r1jax.evaluation.evaluate import EvaluationConfig
from r1jax.models.attention import check_attention
from r1jax.models.config import COMPUTE_OPTIONS, ComputeOptions
from r1jax.models.experts import check_mesh
from r1jax.pipeline.command import PipelineConfig, call_and_exit, run_experiment
from r1jax.pipeline.manifest import file_hash
from r1jax.pipeline.plan import finished_stages
from r1jax.pipeline.stage import Stage
from r1jax.recipe.make_stage import make_stage
from r1jax.recipe.problems import for_evaluation
from r1jax.recipe.reasoning_rl import check_context
from r1jax.recipe.speedrun import MeasureSettings, SpeedrunSettings, measure_stage, speedrun_stage
from r1jax.report.speedrun import (
    AFTER,
    BEFORE,
    TRAINING,
    by_task,
    curve,
    outcome,
    read_records,
    read_samples,
    write_record,
    write_table,
)
from r1jax.report.speedrun_picture import plot_speedruns
from r1jax.rewards.config import VerifierConfig, parse_rewards
from r1jax.rl.config import RLConfig, check_parts, check_run
from r1jax.sampling.processors import Sampling
from r1jax.sampling.speculative import check_draft
from r1jax.sharding import parse_mesh
from r1jax.training.by_device import check_gather
from r1jax.training.loop import SaveConfig

ROOT = Path(__file__).resolve().parents[1]
PAGE, RESULTS = ROOT / "docs" / "speedrun.md", ROOT / "docs" / "results"
_SHOWN = 3  # samples that the end of a run prints


@dataclasses.dataclass(frozen=True)
class Task:
    """The fixed part of a speedrun: a run with other values of these settings is no record."""

    problems: ProblemsConfig = ProblemsConfig(
        source="gym:gsm_symbolic", train_size=8192, held_out_size=512, held_out_share=0.25
    )
    transfer: ProblemsConfig = ProblemsConfig(source="stories", held_out_size=256, held_out_share=0.9)
    template: str = "steps"
    """The prompt template."""
    rewards: tuple[str, ...] = ("accuracy", "format=0.2")
    """The rewards, each as NAME[=WEIGHT]."""
    evaluation: EvaluationConfig = EvaluationConfig(problems=512, samples=2)
    measurement: EvaluationConfig = EvaluationConfig(problems=256, samples=8)
    measured_seed: int = 1
    """Generate the held-out problems of the measurement before and after with this seed."""
    max_tokens: int = 320
    """Sample at most this many tokens per completion in evaluations."""
    shown: int = 50
    """Keep this many samples before and after in the record."""


@dataclasses.dataclass(frozen=True)
class Config(ComputeOptions, PipelineConfig):
    """The settings of a run."""

    base: str = ""
    """The model to train: a .gguf file, a Hugging Face folder, or the folder of a stage."""
    entry: str = "plain"
    """The name of the entry, for the table of records."""
    out: Path | None = None
    """The output folder. None: runs/speedrun-ENTRY-seedSEED."""
    seed: int = 0
    """The random seed."""
    target: float = 0.17
    """Stop when the lower end of the 95% interval of held-out pass@1 is at least this."""
    minutes: float = 15.0
    """Stop after this many minutes on the clock, whether the target is reached or not."""
    every: int = 10
    """Evaluate after every this many steps."""
    keep_compiled: bool = False
    """Use compiled programs of earlier processes, for tests and resumed runs; such a run is no record."""
    table: bool = False
    """Write the table of records into docs/speedrun.md, and stop."""
    show: Path | None = None
    """Print samples of the record in this folder, before and after training, and stop."""
    task: Task = Task()
    sampling: Sampling = Sampling(max_tokens=320)
    rl: RLConfig = RLConfig(steps=400, prompts=32, group=16, microbatch=64, learning_rate=3e-6)
    verifier: VerifierConfig = VerifierConfig(workers=4)
    save: SaveConfig = SaveConfig(every=50, keep_last=1, keep_best=0)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**31:
            raise UserError(f"--seed={self.seed} must be at least 0 and below {2**31}")
        if not 0 <= self.target <= 1:
            raise UserError(f"--target={self.target} must be from 0 to 1, a share of samples")
        if not self.minutes > 0 or self.every < 1:
            raise UserError(f"--minutes={self.minutes} must be above 0 and --every={self.every} at least 1")


PLAIN = Config(dtype="bfloat16")
PRESETS = {
    "gsm-symbolic": ("word problems of held-out templates; a model of 0.5B parameters on one GPU", PLAIN),
    "small": (
        "sums and differences with a small pretrained --base, to try the commands on a CPU; no record",
        Config(
            task=Task(
                problems=ProblemsConfig(train_size=4096, held_out_size=256),
                transfer=ProblemsConfig(source="word-problems", held_out_size=64),
                template="think",
                rewards=("accuracy", "format"),
                evaluation=EvaluationConfig(problems=256, samples=2),
                measurement=EvaluationConfig(problems=64, samples=8),
                max_tokens=48,
            ),
            sampling=Sampling(max_tokens=48),
            rl=RLConfig(steps=100, prompts=32, group=8, learning_rate=4e-4),
            verifier=VerifierConfig(workers=2),
            keep_compiled=True,
        ),
    ),
}
# Settings that do not make an entry: names, limits, and the work of the machine around the training.
_NOT_OF_THE_ENTRY = (
    *("base", "entry", "out", "seed", "target", "minutes", "keep_compiled", "table", "show", "save", "verifier"),
    *(field.name for field in dataclasses.fields(PipelineConfig)),
)


def check(config: Config) -> None:
    """Raises UserError for settings that cannot work together, before any device work."""
    if not config.base:
        raise UserError("no model: give --base the path of a .gguf file or of a Hugging Face folder")
    data = parse_mesh(config.mesh).rows
    for flag, problems in (("--task.problems", config.task.problems), ("--task.transfer", config.task.transfer)):
        check_problems(problems, flag)
    if not any(spec.name == "accuracy" for spec in parse_rewards(config.task.rewards)):
        raise UserError(
            f"--task.rewards={' '.join(config.task.rewards)} lacks accuracy, which the target is about: add it"
        )
    check_run(config.rl, config.sampling, data)
    model = read_config(config.base)
    check_mesh(config.mesh, model)
    check_gather(config.gather, config.mesh, model)
    check_parts(config.rl, model)
    check_draft(config.sampling, model)
    template, tokenizer = find_template(config.task.template), read_tokenizer(config.base)
    sets = (load_problems(config.task.problems), load_problems(measured(config.task)))
    asked = [*sets[0].train, *(problem for one in sets for problem in one.held_out)]
    asked += load_problems(config.task.transfer, "--task.transfer").held_out
    width = max(len(template.prompt_ids(problem, tokenizer)) for problem in asked)
    longest = max(config.sampling.max_tokens, config.task.max_tokens)
    limit = dataclasses.replace(config.sampling, max_tokens=longest)
    check_context(width, limit, model.context_length)


def measured(task: Task) -> ProblemsConfig:
    """The problems of the measurement before and after: others of the same templates."""
    return dataclasses.replace(for_evaluation(task.problems), seed=task.measured_seed)


def stages(config: Config) -> list[Stage]:
    """The timed training first, so that nothing is compiled before its clock; then the two measurements."""
    options: dict[str, Any] = {name: getattr(config, name) for name in COMPUTE_OPTIONS}
    task, base = config.task, resolve(config.base)[0]
    sampling = Sampling(max_tokens=task.max_tokens)
    common = {"template": task.template, "rewards": task.rewards, "verifier": config.verifier, "seed": config.seed}
    training = SpeedrunSettings(
        target=config.target,
        minutes=config.minutes,
        every=config.every,
        evaluation=task.evaluation,
        evaluation_sampling=sampling,
        rl=config.rl,
        problems=task.problems,
        sampling=config.sampling,
        save=config.save,
        **common,
        **options,
    )
    measure = MeasureSettings(
        evaluation=task.measurement,
        problems=measured(task),
        transfer=for_evaluation(task.transfer),
        sampling=dataclasses.replace(sampling, temperature=task.measurement.temperature),
        weights=config.rl.param_dtype,
        shown=task.shown,
        **common,
        **options,
    )
    model = read_config(config.base)
    return [
        make_stage(TRAINING, speedrun_stage, training, {"policy": base}, model, config.mesh),
        make_stage(BEFORE, measure_stage, measure, {"policy": base}, model, config.mesh, accompanies=TRAINING),
        make_stage(AFTER, measure_stage, measure, {"policy": TRAINING}, model, config.mesh, accompanies=TRAINING),
    ]


def changed_settings(config: Config) -> dict[str, Any]:
    """The settings that differ from the plain entry of the task, by flag."""
    found = {path: new for path, (_, new) in cli.diff(PLAIN, config).items()}
    return {path: value for path, value in found.items() if path.partition(".")[0] not in _NOT_OF_THE_ENTRY}


def why_not_a_record(config: Config) -> list[str]:
    """The reasons why a run with these settings cannot be a record."""
    changed = [path for path in changed_settings(config) if path.startswith("task.")]
    reasons = [f"it changed the task: {', '.join(changed)}"] if changed else []
    if config.mesh != PLAIN.mesh:
        reasons.append(f"it ran on {config.mesh} devices")
    if config.keep_compiled:
        reasons.append("it used compiled programs of earlier processes")
    return reasons


def sha256_of(base: Path) -> str:
    """What sha256sum prints for a file; for a folder a hash of the names and contents in it."""
    if not base.is_file():
        return file_hash(base)
    with base.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def report(out: Path, config: Config, console: Console) -> None:
    """Writes the record of a finished run and prints its curve, its outcome and samples."""
    found = finished_stages(out)
    if not {TRAINING, BEFORE, AFTER} <= found.keys():
        return
    record = write_record(
        out / "record",
        out,
        found,
        entry=config.entry,
        config=config,
        sha256=sha256_of(resolve(config.base)[0]),
        changed=changed_settings(config),
        not_a_record=why_not_a_record(config),
    )
    samples = read_samples(record.folder, _SHOWN, min(console.width, 100))
    lines = [samples, curve(record.folder), str(record.folder), outcome(record)]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def main() -> None:
    """Runs what the command line asks for."""
    config = cli.parse(PRESETS, "gsm-symbolic", prog="speedrun.py", description=(__doc__ or "").splitlines()[0])
    console = Console()
    if config.table:
        console.print(write_table(PAGE, RESULTS), markup=False, highlight=False, soft_wrap=True)
        for (base, target), records in by_task(read_records(RESULTS)).items():
            plot_speedruns(records, RESULTS / f"speedrun-{base}-{100 * target:g}.png")
        return
    if config.show:
        console.print(read_samples(config.show, 50, min(console.width, 120)), markup=False, highlight=False)
        return
    check(config)
    if not config.dry_run:
        check_attention(config)
    out = config.out or Path("runs") / f"speedrun-{config.entry}-seed{config.seed}"
    if not config.keep_compiled:  # compilation counts
        jax.config.update("jax_enable_compilation_cache", False)
    run_experiment(
        stages(config),
        out,
        config,
        "experiments/speedrun.py",
        weights=str(resolve(config.base)[0]),
        model=short_name(config.base),
        report=lambda console: report(out, config, console),
    )


if __name__ == "__main__":
    advice = (
        "lower --rl.microbatch, --sampling.slots or --rl.logprob-chunk, or add --remat=block or --accumulate=bfloat16"
    )
    call_and_exit(main, advice)
