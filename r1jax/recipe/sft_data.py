"""Data sets for fine-tuning: the selection of samples, the rows, and the file that they are written to.

A row is {"messages", "kind", "language", "origin"}; its messages are a conversation.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from r1jax.data.problems.general import GeneralPrompt
from r1jax.data.problems.problem import Problem
from r1jax.data.text.readability import fault
from r1jax.data.text.solutions import language_of, response
from r1jax.data.text.template import Template
from r1jax.disk import write_whole
from r1jax.errors import UserError
from r1jax.pipeline.stage import Figures
from r1jax.recipe.folders import CONVERSATIONS
from r1jax.recipe.judged_samples import JudgedSample, SelectConfig
from r1jax.seeds import stage_seed

Row = dict[str, Any]


def conversation(problem: Problem, text: str, template: Template, origin: str) -> Row:
    """A row with the template's messages for a problem, and ``text`` as the assistant's answer."""
    messages = [*template.messages(problem), {"role": "assistant", "content": text}]
    return {"messages": messages, "kind": problem.kind, "language": language_of(problem), "origin": origin}


def select(
    samples: Iterable[JudgedSample], config: SelectConfig, template: Template, origin: str
) -> tuple[list[Row], dict[str, int]]:
    """Rows of the samples that are kept, and counts: "sampled", "kept", and each reason for which samples are dropped.

    The reasons are, in this order: "unfinished", "wrong", "format", the faults of r1jax.data.text.readability,
    "duplicate" (the same text was kept for the problem) and "over the cap" (arXiv 2501.12948, sections 2.3.1 and
    2.3.3). A sample is counted under the first that applies. The rows have the format of ``template``, whichever
    template the samples were prompted with.
    """
    rows: list[Row] = []
    counts: Counter[str] = Counter()
    kept: dict[str, set[str]] = {}
    for one in samples:
        counts["sampled"] += 1
        text = one.completion.text
        before = kept.setdefault(one.problem.question, set())
        if not one.completion.finished:
            reason = "unfinished"
        elif not one.correct:
            reason = "wrong"
        elif not template.well_formed(text):
            reason = "format"
        elif unreadable := fault(one.problem, template.reasoning(text), config.readability):
            reason = unreadable
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
    """Rows of the first ``count`` problems that a rule solves readably (r1jax.data.text.solutions)."""
    texts = ((problem, response(problem)) for problem in problems)
    rows = (conversation(problem, text, template, "generated") for problem, text in texts if text is not None)
    return list(itertools.islice(rows, count))


def general_rows(prompts: Iterable[GeneralPrompt], template: Template, repeats: int) -> list[Row]:
    """Rows of good replies to general prompts, each ``repeats`` times."""
    rows = [conversation(p.problem, p.response(p.good), template, "general") for p in prompts]
    return rows * repeats


def write_conversations(
    rows: list[Row], counts: dict[str, int], samples: Sequence[JudgedSample], seed: int, folder: Path
) -> Figures:
    """Writes the rows in a random order to conversations.jsonl; returns the figures of the data set.

    counts: those of ``select``, to which the numbers of generated and general rows are added. samples: all samples, for
    the number of tokens and seconds. Raises UserError if there is no row.
    """
    origins = Counter(row["origin"] for row in rows)
    counts = {**counts, **{origin: origins[origin] for origin in ("generated", "general")}}
    if not rows:
        raise UserError(
            f"{folder.name}: no sample passes the selection ({counts}): train the policy longer, or sample more"
        )
    rows = list(rows)
    random.Random(stage_seed(seed, folder.name)).shuffle(rows)
    write_whole(folder / CONVERSATIONS, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    tokens = sum(one.completion.tokens for one in samples)
    return {
        "rows": len(rows),
        "counts": counts,
        "tokens": tokens,
        "seconds": sum((one.seconds for one in samples), 0.0),
    }
