"""Tasks whose answer is a program that tests judge: humaneval, mbpp, livecodebench."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from r1jax.data.problems import code_rows
from r1jax.data.problems.code_rows import humaneval_problem, livecodebench_problem, mbpp_problem
from r1jax.data.problems.problem import Problem
from r1jax.data.text.numbers import parse_number
from r1jax.evaluation.tasks.maths import names
from r1jax.evaluation.tasks.task import Row, Task

REQUEST = "Reply with one block of Python code, fenced by ```python and ```, that contains all of the program."
_MBPP_TEST = range(11, 511)  # the task_id of the test split (arXiv 2108.07732)


def mbpp(row: Row, location: str) -> Problem | None:
    """The problem of a row of MBPP; None for a row outside the test split."""
    number = parse_number(str(row.get("task_id", "")))  # a number, or text in a csv file
    return None if number is not None and number not in _MBPP_TEST else mbpp_problem(row, location)


def _code_task(
    name: str,
    hub: str,
    files: Sequence[str],
    columns: Sequence[str],
    problem: Callable[[Row, str], Problem | None],
    samples: int,
) -> Task:
    return Task(name, hub, tuple(files), tuple(columns), problem, "code", REQUEST, samples)


TASKS = (
    _code_task(
        "humaneval",
        "hf:openai/openai_humaneval/test",
        names("humaneval", "openai_humaneval/test*", "test*", "HumanEval*"),
        code_rows.HUMANEVAL,
        humaneval_problem,
        samples=8,
    ),
    _code_task(
        "mbpp",
        "hf:google-research-datasets/mbpp:sanitized/test",
        names("mbpp", "sanitized/test*", "test*", "sanitized-mbpp*", "mbpp*"),
        code_rows.MBPP,
        mbpp,
        samples=4,
    ),
    _code_task(
        "livecodebench",
        "hf:livecodebench/code_generation_lite/test",
        names("livecodebench", "test*"),
        code_rows.LIVECODEBENCH,
        livecodebench_problem,
        samples=8,
    ),
)
