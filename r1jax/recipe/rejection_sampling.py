"""Data sets for fine-tuning from a model's own samples: the cold start's, and those of rejection sampling.

Both are lists of rows {"messages", "kind", "language", "origin"}, the first being a conversation.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from r1jax.data.problems.general import GeneralPrompt
from r1jax.data.problems.problem import Problem
from r1jax.data.text.readability import ReadabilityConfig, fault
from r1jax.data.text.solutions import language_of, response
from r1jax.data.text.template import Template
from r1jax.errors import UserError
from r1jax.recipe.judged_samples import Drawn

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class SelectConfig:
    """What is sampled for a data set, and what of it is kept."""

    problems: int = 512
    """Training problems that are sampled; fewer where there are fewer."""
    samples: int = 4
    """Samples of each."""
    per_problem: int = 2
    """Most samples of one problem that are kept."""
    temperature: float = 1.0
    """Of the sampling."""
    readability: ReadabilityConfig = ReadabilityConfig()

    def __post_init__(self) -> None:
        if min(self.problems, self.samples, self.per_problem) < 1 or self.temperature <= 0:
            raise UserError("selection: problems, samples and per-problem must be at least 1, temperature above 0")


def conversation(problem: Problem, text: str, template: Template, origin: str) -> Row:
    """A row: the template's chat that asks the problem, answered by ``text``."""
    messages = [*template.messages(problem), {"role": "assistant", "content": text}]
    return {"messages": messages, "kind": problem.kind, "language": language_of(problem), "origin": origin}


def select(
    drawn: Iterable[Drawn], config: SelectConfig, template: Template, origin: str
) -> tuple[list[Row], dict[str, int]]:
    """The samples fit to learn from, and counts of all: kept, and dropped by the first reason that applies.

    Dropped are, in this order: "unfinished", "wrong", the faults of r1jax.data.text.readability, "duplicate" (the text
    was kept before for that problem) and "over the cap" (arXiv 2501.12948, sections 2.3.1 and 2.3.3). A conversation is
    written in ``template``, whatever the sample was asked in.
    """
    rows: list[Row] = []
    counts: Counter[str] = Counter()
    kept: dict[str, set[str]] = {}
    for one in drawn:
        counts["sampled"] += 1
        text = one.completion.text
        before = kept.setdefault(one.problem.question, set())
        if not one.completion.finished:
            reason = "unfinished"
        elif not one.correct:
            reason = "wrong"
        elif not template.well_formed(text):
            reason = "format"
        elif found := fault(one.problem, template.reasoning(text), config.readability):
            reason = found
        elif text in before:
            reason = "duplicate"
        elif len(before) == config.per_problem:
            reason = "over the cap"
        else:
            reason = "kept"
            before.add(text)
            rows.append(conversation(one.problem, text, template, origin))
        counts[reason] += 1
    return rows, dict(counts)


def worked(problems: Sequence[Problem], template: Template, count: int) -> list[Row]:
    """Rows of the first ``count`` problems that a rule can work readably: r1jax.data.text.solutions."""
    texts = ((problem, response(problem)) for problem in problems)
    found = (conversation(problem, text, template, "generated") for problem, text in texts if text is not None)
    return list(itertools.islice(found, count))


def general_rows(prompts: Iterable[GeneralPrompt], template: Template, repeats: int) -> list[Row]:
    """Rows of good replies to general prompts, all of them ``repeats`` times."""
    rows = [conversation(p.problem, p.response(p.good), template, "general") for p in prompts]
    return rows * repeats


def shuffled(rows: list[Row], seed: int) -> list[Row]:
    """The rows in the random order of a seed."""
    rows = list(rows)
    random.Random(seed).shuffle(rows)
    return rows
