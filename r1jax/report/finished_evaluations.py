"""Finished evaluations of experiments/evaluate.py, read to be reported and compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from r1jax.errors import UserError
from r1jax.evaluation.records import FILE
from r1jax.evaluation.summary import Evaluation
from r1jax.pipeline.plan import finished_stages

Manifest = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class TaskResult:
    """A finished task of one model: its folder, manifest and evaluation."""

    task: str
    folder: Path
    manifest: Manifest
    evaluation: Evaluation

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that the task was run with."""
        return self.manifest["settings"]

    @property
    def figures(self) -> Mapping[str, Any]:
        """The figures beside the evaluation: samples, tokens, seconds, counted, finished."""
        return self.manifest["figures"]


@dataclasses.dataclass(frozen=True)
class ModelResults:
    """The finished tasks of one model, by name, in the order in which they were evaluated."""

    name: str
    folder: Path
    tasks: Mapping[str, TaskResult]

    @property
    def made_by(self) -> Mapping[str, Any]:
        """Model, command, device and versions of the last task."""
        return list(self.tasks.values())[-1].manifest["made_by"]


def read_evaluation(folder: Path) -> ModelResults:
    """The finished tasks in the folder of a model; raises UserError if there are none."""
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: give the folders of models that experiments/evaluate.py has evaluated")
    tasks = [
        TaskResult(one["settings"]["task"], folder / name, one, Evaluation.from_json(one["figures"]["evaluation"]))
        for name, one in finished_stages(folder).items()
        if (folder / name / FILE).exists() and "task" in one["settings"]
    ]
    if not tasks:
        raise UserError(f"{folder} holds no finished task: give the folder of a model, such as runs/evaluation/NAME")
    tasks.sort(key=lambda one: (one.figures["finished"], one.task))
    return ModelResults(tasks[-1].manifest["made_by"]["model"], folder, {one.task: one for one in tasks})


def of_models(paths: Sequence[Path], *others: str) -> list[Path]:
    """The paths without files and folders named ``others``, which OUT/* lists too; all if fewer than two are left."""
    left = [path for path in paths if not path.is_file() and path.name not in others]
    return left if len(left) > 1 else list(paths)


def distinct_names(results: Sequence[ModelResults]) -> list[ModelResults]:
    """The results with names that differ: those of equal names get the name of their folder, or a number."""
    names = [one.name for one in results]
    if len(set(names)) < len(names):
        names = [f"{one.folder.parent.name}/{one.folder.name}" for one in results]
    if len(set(names)) < len(names):
        names = [f"{name} ({i + 1})" for i, name in enumerate(names)]
    return [dataclasses.replace(one, name=name) for one, name in zip(results, names, strict=True)]


def shared_tasks(results: Sequence[ModelResults]) -> list[str]:
    """The tasks that all models have finished, in the order of the first; raises UserError if there are none."""
    shared = [task for task in results[0].tasks if all(task in one.tasks for one in results)]
    if not shared:
        listed = "; ".join(f"{one.folder}: {', '.join(one.tasks)}" for one in results)
        raise UserError(f"no task was finished by all models ({listed}): evaluate them on the same tasks")
    return shared
