"""The problems of a task: from files in a data folder, from the hub, or generated."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from r1jax.data.formats.rows import read_rows
from r1jax.data.formats.sources import HUB
from r1jax.data.problems.dataset import ProblemsConfig, load_problems
from r1jax.data.problems.problem import Problem
from r1jax.errors import UserError
from r1jax.evaluation.tasks.table import OWN
from r1jax.evaluation.tasks.task import Task
from r1jax.names import lookup


@dataclasses.dataclass(frozen=True)
class Source:
    """Where the problems of one task come from.

    files: the files, in the order in which they are read.
    rows: a data set of the hub or another source that read_rows knows, if there are no files.
    generated: the config of generated problems, if there is neither.
    """

    files: tuple[Path, ...] = ()
    rows: str = ""
    generated: ProblemsConfig | None = None


def find_sources(tasks: Sequence[Task], data: Sequence[str], problems: ProblemsConfig) -> dict[str, Source]:
    """Task name -> its source.

    data: folders that are searched in order, TASK=SOURCE for one task (a file, a folder, or what read_rows knows), and
      "hf:" for the data sets of the tasks on the hub where no folder has a file.
    problems: settings of generated problems, whose source is replaced by the name of the task.

    Raises UserError if TASK is not among the tasks, or a file is missing; the message has a command that fetches it.
    """
    given: dict[str, str] = {}
    folders: list[Path] = []
    for word in data:
        name, equals, source = word.partition("=")
        if equals and not Path(word).expanduser().exists():
            lookup("task in --data", name, {task.name: task for task in tasks})
            given[name] = source
        elif word != HUB:
            folders.append(Path(word).expanduser())
    return {task.name: _find(task, given.get(task.name), folders, HUB in data, problems) for task in tasks}


def read_source(task: Task, source: Source, limit: int | None) -> list[Problem]:
    """The first ``limit`` problems of a task, or all of them.

    Raises UserError for a missing column, a wrong value, or a source without problems.
    """
    if source.generated is not None:
        size = {} if limit is None else {"held_out_size": limit}
        return list(load_problems(dataclasses.replace(source.generated, **size)).held_out)[:limit]
    assert task.problem is not None  # only generated tasks have none
    problems: list[Problem] = []
    for place in source.files or (source.rows,):
        for location, row in read_rows(place, task.columns, header=task.header):
            problem = task.problem(row, location)
            if problem is not None:
                problems.append(problem)
            if len(problems) == limit:
                return problems
    if not problems:
        places = ", ".join(map(str, source.files)) or source.rows
        raise UserError(f"{places} holds no problems of {task.name}: {_fetch(task, ())}")
    return problems


def _find(task: Task, given: str | None, folders: Sequence[Path], hub: bool, problems: ProblemsConfig) -> Source:
    if task.problem is None:
        if given is not None:
            raise UserError(f"--data {task.name}={given}: the problems are generated, see --problems.source")
        if task.name != OWN:
            # The held-out problems do not depend on how many others there are.
            problems = dataclasses.replace(problems, source=task.name, held_out_source=None, train_size=1)
        return Source(generated=problems)
    if given is not None:
        path = Path(given).expanduser()
        files = _matching(path, task) if path.is_dir() else (path,) if path.is_file() else ()
        return Source(files) if files else Source(rows=given)
    for folder in folders:
        if files := _matching(folder, task):
            return Source(files)
    if hub:
        return Source(rows=task.hub)
    places = ", ".join(map(str, folders)) or "no folder"
    raise UserError(f"no file of {task.name} in {places} (such as {task.files[0]}): {_fetch(task, folders)}")


def _matching(folder: Path, task: Task) -> tuple[Path, ...]:
    """The files of the first pattern that matches, in the folder or, for a folder of the task itself, in its parent."""
    own = f"{task.name}/"
    for pattern in task.files:
        found = sorted(folder.glob(pattern))
        if not found and folder.name == task.name and pattern.startswith(own):
            found = sorted(folder.glob(pattern.removeprefix(own)))
        if found:
            return tuple(found)
    return ()


def _fetch(task: Task, folders: Sequence[Path]) -> str:
    """The command that gets the data set of a task, into the first of the folders."""
    name = task.hub.removeprefix(HUB)
    repository = "/".join(name.partition(":")[0].split("/")[:2])
    folder = next(iter(folders), Path("data")) / task.name
    return (
        f"get it with `hf download {repository} --repo-type dataset --local-dir {folder}`, or give "
        f"--data {HUB} to read {task.hub}"
    )
