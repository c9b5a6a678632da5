"""The table of all tasks."""

from __future__ import annotations

from collections.abc import Sequence

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


def find_task(name: str) -> Task:
    """The task with a name, or that of gym:NAME; raises UserError for an unknown name."""
    if name.startswith(GYM):
        return _generated(name, _TAGGED, "tags")
    return lookup("task", name, TASKS)
