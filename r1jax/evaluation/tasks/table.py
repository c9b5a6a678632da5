"""The table of all tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from r1jax.data.problems.problem import Problem
from r1jax.errors import UserError
from r1jax.evaluation.tasks import choices, code, maths
from r1jax.evaluation.tasks.maths import BOXED
from r1jax.evaluation.tasks.prompts import Form
from r1jax.evaluation.tasks.task import Task
from r1jax.names import lookup

GYM = "gym:"
OWN = "problems"  # the held-out problems of --problems
GENERATED_TOKENS = 4096

_TAGGED = "Reason step by step. Then write the answer alone between <answer> and </answer>."


def _generated(name: str, request: str = BOXED, form: Form = "boxed") -> Task:
    """A task with the held-out problems of a source in r1jax.data.problems."""
    return Task(name, "", (), (), None, form, request, samples=8, max_tokens=GENERATED_TOKENS)


TASKS = {
    task.name: task
    for task in (
        *maths.TASKS,
        *choices.TASKS,
        *code.TASKS,
        _generated("arithmetic"),
        _generated("countdown", _TAGGED, "tags"),
        _generated("word-problems"),
        _generated(OWN),
    )
}


def find_tasks(names: Sequence[str]) -> list[Task]:
    """The tasks of names or comma-separated names, each once.

    Raises UserError for no names, or an unknown one (with a suggestion).
    """
    words = [word.strip() for name in names for word in name.split(",") if word.strip()]
    if not words:
        raise UserError(f"no tasks: give --tasks some of {', '.join(TASKS)}, gym:NAME")
    return [find_task(word) for word in dict.fromkeys(words)]


def for_problems(task: Task, problems: Sequence[Problem]) -> Task:
    """The task as its problems need it: it asks for programs if tests judge them, as they may in the user's own.

    Raises UserError if tests judge only some of the problems, since a task has one way to ask.
    """
    programs = sum(problem.checker == "code" for problem in problems)
    if task.form == "code" or not programs:
        return task
    if programs < len(problems):
        raise UserError(
            f"{task.name}: {programs} of {len(problems)} problems ask for programs and the others for answers: put "
            "them into two files and evaluate each"
        )
    return dataclasses.replace(task, form="code", request=code.REQUEST)


def find_task(name: str) -> Task:
    """The task with a name, or that of gym:NAME; raises UserError for an unknown name."""
    if name.startswith(GYM):
        return _generated(name, _TAGGED, "tags")
    return lookup("task", name, TASKS)
