"""What RL changes: compares base and trained model over several finished runs of r1_zero.py, up to large k.

    python experiments/r1_zero.py --preset smollm2 --evaluation.samples 256 --seed S       for each seed
    python experiments/what_rl_changes.py runs/r1-zero-smollm2-seed0 runs/r1-zero-smollm2-seed1

The runs must have evaluated the same problems. The command writes study.json, report.md, report.html and pictures:
pass@k and maj@k before and after with intervals, where the curves cross, entropy, which problems became solvable, and
the change by difficulty. It samples nothing.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from r1jax import cli
from r1jax.data.problems.dataset import ProblemsConfig, load_problems
from r1jax.errors import UserError
from r1jax.evaluation.evaluate import problem_hash
from r1jax.evaluation.rl_change import rl_change
from r1jax.evaluation.summary import Evaluation
from r1jax.pipeline.plan import finished_stages
from r1jax.report.rl_change import Study, crossing_line, write_study
from r1jax.report.zero_run import EVALUATIONS, TRAINING
from r1jax.settings import from_json

Manifests = dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Config:
    """The runs to compare, and the folder of the result."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """The output folders of finished runs of r1_zero.py, one for each seed."""
    out: Path = Path("runs/what-rl-changes")
    """Write the result into this folder."""
    samples: int = 2
    """Require at least this many samples per problem in each evaluation."""


def read_run(run: Path, samples: int) -> Manifests:
    """The manifests of a finished run; raises UserError if it is none or has fewer samples per problem."""
    if not run.is_dir():
        raise UserError(f"no folder {run}: give the output folders of finished runs of experiments/r1_zero.py")
    stages = finished_stages(run)
    for name in (*EVALUATIONS, TRAINING):
        if name not in stages:
            raise UserError(
                f"{run} is no finished run of R1-Zero, since its stage {name} is missing: run "
                f"experiments/r1_zero.py --out={run} to its end"
            )
    for name in EVALUATIONS:
        n = stages[name]["figures"]["reasoning"]["samples_per_problem"]
        if n < samples:
            raise UserError(
                f"{run}: {name} has {n} samples per problem and --samples={samples} are required: run "
                f"experiments/r1_zero.py with --evaluation.samples={samples}"
            )
    return stages


def check_alike(runs: dict[Path, Manifests]) -> None:
    """Raises UserError unless all runs have evaluated the same problems with the same number of samples."""
    (first, reference), *others = runs.items()
    wanted = [reference[name]["figures"]["reasoning"] for name in EVALUATIONS]
    if not all(one.get("problems") for one in wanted):
        raise UserError(f"{first} was evaluated by an older version, without figures by problem: run it again")
    for run, stages in others:
        for name, want in zip(EVALUATIONS, wanted, strict=True):
            found = stages[name]["figures"]["reasoning"]
            if sorted(found.get("problems", ())) != sorted(want["problems"]):
                raise UserError(f"{run} and {first} evaluated different problems: give runs of the same --problems")
            if found["samples_per_problem"] != want["samples_per_problem"]:
                raise UserError(
                    f"{run} has {found['samples_per_problem']} samples per problem and {first} has "
                    f"{want['samples_per_problem']}: give runs with the same --evaluation.samples"
                )


def base_name(stages: Manifests) -> str:
    """A name of the base that was evaluated: the hash of its files, or the fingerprint of the stage that made it."""
    before = stages[EVALUATIONS[0]]
    return json.dumps([before["files"].get("policy"), before["fingerprints"]], sort_keys=True)


def questions(settings: dict[str, Any], hashes: tuple[str, ...]) -> tuple[str, ...]:
    """The question of each hash; () if the source of the problems is not there any more or has changed."""
    try:
        problems = load_problems(from_json(ProblemsConfig, settings)).held_out
    except UserError:
        return ()
    found = {problem_hash(problem): problem.question for problem in problems}
    return tuple(found[one] for one in hashes) if set(hashes) <= found.keys() else ()


def study_of(runs: dict[Path, Manifests]) -> Study:
    """The study of runs that check_alike has accepted."""
    pairs = [
        tuple(Evaluation.from_json(stages[name]["figures"]["reasoning"]) for name in EVALUATIONS)
        for stages in runs.values()
    ]
    change = rl_change([(before, after) for before, after in pairs], [base_name(stages) for stages in runs.values()])
    manifests = [stages[TRAINING] for stages in runs.values()]
    evaluation = next(iter(runs.values()))[EVALUATIONS[0]]["settings"]
    made_by, settings = manifests[0]["made_by"], manifests[0]["settings"]
    return Study(
        model=made_by["model"],
        devices=tuple(dict.fromkeys(one["made_by"]["device"] for one in manifests)),
        seeds=tuple(one["settings"]["seed"] for one in manifests),
        commands=tuple(one["made_by"]["command"] for one in manifests),
        versions={name: made_by[name] for name in ("python", "r1jax", "jax")},
        problems=evaluation["problems"],
        training={
            **{name: value for name, (value, _) in cli.diff(settings["rl"], {}).items()},
            "rewards": " ".join(settings["rewards"]),
            "max_tokens": settings["sampling"]["max_tokens"],
        },
        temperature=evaluation["evaluation"]["temperature"],
        questions=questions(evaluation["problems"], change.problems),
        change=change,
    )


def main() -> None:
    """Writes the study of the runs of the command line."""
    presets = {"study": ("The runs of the command line.", Config())}
    config = cli.parse(presets, "study", prog="what_rl_changes.py", description=(__doc__ or "").splitlines()[0])
    if not config.runs:
        raise UserError("no runs: give the output folders of finished runs of experiments/r1_zero.py")
    runs = {run: read_run(run, config.samples) for run in config.runs}
    check_alike(runs)
    study = study_of(runs)
    found = write_study(study, config.out)
    console = Console()
    console.print(f"{config.out}: report.html, study.json", highlight=False, soft_wrap=True)
    console.print(crossing_line(study.change), highlight=False, markup=False)
    console.print(found, style="bold", markup=False, highlight=False)


if __name__ == "__main__":
    cli.call_and_exit(main)
