"""Finished runs of R1-Zero, read to be compared."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from r1jax import cli
from r1jax.errors import UserError
from r1jax.evaluation.summary import Evaluation
from r1jax.pipeline.plan import finished_stages
from r1jax.report.zero_run import EVALUATIONS, TRAINING, Manifest


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A run folder with its manifests, and its evaluations before and after training."""

    folder: Path
    stages: Mapping[str, Manifest]
    before: Evaluation
    after: Evaluation

    @property
    def training(self) -> Manifest:
        """The manifest of the stage of RL."""
        return self.stages[TRAINING]

    @property
    def seed(self) -> int:
        """The random seed."""
        return self.training["settings"]["seed"]

    @property
    def temperature(self) -> float:
        """The sampling temperature of both evaluations."""
        return self.stages[EVALUATIONS[0]]["settings"]["evaluation"]["temperature"]

    @property
    def base(self) -> str:
        """A name of the base that was evaluated: the hash of its files, or the fingerprint of its stage."""
        before = self.stages[EVALUATIONS[0]]
        return json.dumps([before["files"].get("policy"), before["fingerprints"]], sort_keys=True)


def read_run(folder: Path, samples: int = 2) -> FinishedRun:
    """A finished run; raises UserError if the folder is none, or evaluated with fewer samples per problem."""
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: give the output folders of finished runs of experiments/r1_zero.py")
    stages = finished_stages(folder)
    for name in (*EVALUATIONS, TRAINING):
        if name not in stages:
            raise UserError(
                f"{folder} is no finished run of R1-Zero, since its stage {name} is missing: run "
                f"experiments/r1_zero.py --out={folder} to its end"
            )
    before, after = (Evaluation.from_json(stages[name]["figures"]["reasoning"]) for name in EVALUATIONS)
    if not (before.problems and after.problems):
        raise UserError(f"{folder} was evaluated by an older version, without figures by problem: run it again")
    for name, one in zip(EVALUATIONS, (before, after), strict=True):
        if one.samples_per_problem < samples:
            raise UserError(
                f"{folder}: {name} has {one.samples_per_problem} samples per problem and {samples} are required: run "
                f"experiments/r1_zero.py with --evaluation.samples={samples}"
            )
    return FinishedRun(folder, stages, before, after)


def check_alike(runs: Sequence[FinishedRun]) -> None:
    """Raises UserError unless all runs have evaluated the same problems, with as many samples at one temperature."""
    first = runs[0]
    for run in runs[1:]:
        if sorted(run.before.problems) != sorted(first.before.problems):
            raise UserError(
                f"{run.folder} and {first.folder} evaluated different problems: give runs with the same problems"
            )
        if run.before.samples_per_problem != first.before.samples_per_problem:
            raise UserError(
                f"{run.folder} has {run.before.samples_per_problem} samples per problem and {first.folder} has "
                f"{first.before.samples_per_problem}: give runs with the same --evaluation.samples"
            )
        if run.temperature != first.temperature:
            raise UserError(
                f"{run.folder} was evaluated at temperature {run.temperature} and {first.folder} at "
                f"{first.temperature}: give runs with the same --evaluation.temperature"
            )


def check_same_training(runs: Sequence[FinishedRun]) -> None:
    """Raises UserError unless all runs were trained with the same rewards, sampling and settings of RL."""
    first, parts = runs[0], ("rl", "rewards", "sampling")
    free = first.training.get("may_change", ())  # settings without an effect on the result
    for run in runs[1:]:
        settings = [{part: one.training["settings"][part] for part in parts} for one in (first, run)]
        different = [name for name in cli.diff(*settings) if name not in free]
        if different:
            raise UserError(
                f"{run.folder} and {first.folder} have different {different[0]}: give runs that differ in the seed "
                "alone"
            )
