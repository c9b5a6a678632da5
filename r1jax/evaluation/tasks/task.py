"""A task as data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from r1jax.data.problems.problem import Problem
from r1jax.evaluation.tasks.prompts import Form

Row = Mapping[str, Any]

PUBLISHED_TOKENS = 32_768  # the longest completion of the published evaluations (arXiv 2501.12948, section 3)


@dataclasses.dataclass(frozen=True)
class Task:
    """Where the problems of a task come from, and how they are asked.

    name: the name in ``--tasks``.
    hub: the data set on the hub as hf:ORG/NAME[:config]/split; "" if problems are generated.
    files: patterns of the usual file names in a data folder, relative to it; the files of the first one that matches
      are read in order of their names.
    columns: the columns that are read.
    problem: (row, location) -> the problem of the row, or None for a row that does not belong to the task; None itself
      if problems are generated.
    form: how the answer stands in a completion.
    request: what the prompt asks for after the question.
    samples: samples per problem, unless --samples is given.
    max_tokens: the longest completion in tokens, unless --sampling.max-tokens is given.
    header: the columns of csv files that have no line of names; () if all files have one.
    """

    name: str
    hub: str
    files: tuple[str, ...]
    columns: tuple[str, ...]
    problem: Callable[[Row, str], Problem | None] | None
    form: Form
    request: str
    samples: int
    max_tokens: int = PUBLISHED_TOKENS
    header: tuple[str, ...] = ()
