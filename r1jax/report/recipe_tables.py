"""Markdown tables of the models of a recipe's run: their figures, and their answers to the same questions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from r1jax.evaluation.summary import Evaluation
from r1jax.report.rendering import code_cell, markdown_table, percent

Figures = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class EvaluatedModel:
    """A model of the recipe: its label in the report, its evaluations, and its cost."""

    label: str
    reasoning: Evaluation
    general: Evaluation
    answers: Mapping[str, tuple[str, bool]]  # question -> (completion, whether it is right)
    tokens: float  # sampled or trained on by the stages of its cost
    seconds: float


def evaluated_model(label: str, evaluation: Figures, costs: Sequence[Figures]) -> EvaluatedModel:
    """A model from the figures of its evaluation, and those of the stages that are its cost."""
    answers = {
        one["question"]: (one["completion"], one["correct"])
        for name in ("reasoning_completions", "general_completions")
        for one in evaluation[name]
    }
    return EvaluatedModel(
        label,
        Evaluation.from_json(evaluation["reasoning"]),
        Evaluation.from_json(evaluation["general"]),
        answers,
        sum(figures.get("tokens", 0.0) for figures in costs),
        sum(figures.get("seconds", 0.0) for figures in costs),
    )


def main_table(models: Sequence[EvaluatedModel]) -> str:
    """One row per model: accuracy by kind, pass@1, maj@k, pass@k, format, language, length, general figures, cost.

    k is 8, or the smallest number of samples per problem if that is below 8.
    """
    k = min(8, *(one.reasoning.samples_per_problem for one in models))
    kinds = sorted({kind for one in models for kind in one.reasoning.accuracy_by_kind})
    rows = [_cells(one, kinds, k) for one in models]
    return markdown_table(list(rows[0]), [list(row.values()) for row in rows])


def _cells(one: EvaluatedModel, kinds: Sequence[str], k: int) -> dict[str, str]:
    """A row of the main table: heading -> cell."""
    reasoning, general = one.reasoning, one.general
    ends = reasoning.intervals["pass_at_1"]
    return {
        "model": one.label,
        **{kind: percent(reasoning.accuracy_by_kind.get(kind)) for kind in kinds},
        "pass@1 [95%]": percent(reasoning.pass_at[1]) + (f" [{', '.join(map(percent, ends))}]" if ends else ""),
        f"maj@{k}": percent(reasoning.maj_at.get(k)),
        f"pass@{k}": percent(reasoning.pass_at[k]),
        "format": percent(reasoning.format_rate),
        "language": percent(reasoning.rewards.get("language")),
        "readable and correct": percent(reasoning.readable_correct),
        "length": f"{reasoning.mean_length:.1f}",
        "general tasks": percent(general.pass_at[1]),
        "helpfulness": _score(general.rewards.get("helpfulness")),
        "harmlessness": _score(general.rewards.get("harmlessness")),
        "tokens": f"{one.tokens:,.0f}",
        "seconds": f"{one.seconds:.0f}",
    }


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def answers_table(models: Sequence[EvaluatedModel], questions: Sequence[str]) -> str:
    """The first completion of each model to the same questions, with one column per question."""
    rows = []
    for one in models:
        cells = []
        for question in questions:
            text, right = one.answers.get(question, (None, False))
            cells.append("not asked" if text is None else f"{'right' if right else 'wrong'}: {code_cell(text)}")
        rows.append([one.label, *cells])
    return markdown_table(["model", *map(code_cell, questions)], rows)
