"""What RL changes: compares base and trained model over several finished runs of r1_zero.py, up to large k.

    python experiments/r1_zero.py --preset smollm2 --evaluation.samples 256 --seed S       for each seed
    python experiments/what_rl_changes.py runs/r1-zero-smollm2-seed0 runs/r1-zero-smollm2-seed1

The runs must differ in the seed alone and have evaluated the same problems. The command writes study.json, report.md,
report.html and pictures: pass@k and maj@k before and after with intervals, where the curves cross, entropy, which
problems became solvable, and the change by difficulty. It samples nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from r1jax import cli
from r1jax.data.problems.dataset import ProblemsConfig, load_problems
from r1jax.errors import UserError
from r1jax.evaluation.evaluate import problem_hash
from r1jax.evaluation.rl_change import rl_change
from r1jax.report.finished_runs import FinishedRun, check_alike, check_same_training, read_run
from r1jax.report.rl_change import Study, crossing_line, write_study
from r1jax.report.zero_run import EVALUATIONS
from r1jax.settings import from_json


@dataclasses.dataclass(frozen=True)
class Config:
    """The runs to compare, and the folder of the result."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """The output folders of finished runs of r1_zero.py, one for each seed."""
    out: Path = Path("runs/what-rl-changes")
    """Write the result into this folder."""
    samples: int = 2
    """Require at least this many samples per problem in each evaluation."""


def questions(settings: dict[str, Any], hashes: tuple[str, ...]) -> tuple[str, ...]:
    """The question of each hash; () if the source of the problems is not there any more or has changed."""
    try:
        problems = load_problems(from_json(ProblemsConfig, settings)).held_out
    except UserError:
        return ()
    found = {problem_hash(problem): problem.question for problem in problems}
    return tuple(found[one] for one in hashes) if set(hashes) <= found.keys() else ()


def study_of(runs: Sequence[FinishedRun]) -> Study:
    """The study of runs that check_alike and check_same_training have accepted."""
    change = rl_change([(run.before, run.after) for run in runs], [run.base for run in runs])
    manifests = [run.training for run in runs]
    evaluation = runs[0].stages[EVALUATIONS[0]]["settings"]
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
        temperature=runs[0].temperature,
        questions=questions(evaluation["problems"], change.problems),
        change=change,
    )


def main() -> None:
    """Writes the study of the runs of the command line."""
    presets = {"study": ("The runs of the command line.", Config())}
    config = cli.parse(presets, "study", prog="what_rl_changes.py", description=(__doc__ or "").splitlines()[0])
    if not config.runs:
        raise UserError("no runs: give the output folders of finished runs of experiments/r1_zero.py")
    runs = [read_run(run, config.samples) for run in config.runs]
    check_alike(runs)
    check_same_training(runs)
    for run in runs:
        if not (run.before.maj_at and run.after.maj_at):
            raise UserError(
                f"{run.folder} has no majority votes, since tests judge its problems: give runs on problems that have "
                "answers"
            )
    study = study_of(runs)
    found = write_study(study, config.out)
    console = Console()
    console.print(f"{config.out}: report.html, study.json", highlight=False, soft_wrap=True)
    console.print(crossing_line(study.change), highlight=False, markup=False)
    console.print(found, style="bold", markup=False, highlight=False)


if __name__ == "__main__":
    cli.call_and_exit(main)
