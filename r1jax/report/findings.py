"""The claims of the paper (arXiv 2501.12948), tested on the models of a recipe's run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from r1jax.evaluation.paired import Change, changes, reason_not_paired
from r1jax.evaluation.summary import Evaluation
from r1jax.report.recipe_tables import EvaluatedModel
from r1jax.report.rendering import percent

FigureName = Literal["accuracy", "language", "readable correct", "length", "general tasks"]


@dataclasses.dataclass(frozen=True)
class Claim:
    """The claim that the second model has more, or less, of a figure than the first; models by stage name."""

    text: str
    first: str
    second: str
    figure: FigureName
    direction: Literal["more", "less"]


CLAIMS = (
    Claim("R1-Zero is right more often than the base", "base", "zero", "accuracy", "more"),
    Claim("R1-Zero mixes languages more than the cold start", "zero", "cold_start", "language", "more"),
    Claim("R1-Zero writes more than the cold start", "zero", "cold_start", "length", "less"),
    Claim("The cold start reads better than R1-Zero", "zero", "cold_start", "readable correct", "more"),
    Claim("The cold start costs accuracy against R1-Zero", "zero", "cold_start", "accuracy", "less"),
    Claim("Reasoning RL wins accuracy back", "cold_start", "reasoning_rl", "accuracy", "more"),
    Claim("The language reward costs accuracy", "reasoning_rl_no_language", "reasoning_rl", "accuracy", "less"),
    Claim("The language reward buys consistency", "reasoning_rl_no_language", "reasoning_rl", "language", "more"),
    Claim("Stage 4 brings general ability back", "reasoning_rl", "sft", "general tasks", "more"),
    Claim("R1 is above the base on readable, correct answers", "base", "r1", "readable correct", "more"),
    Claim("R1 is above R1-Zero on readable, correct answers", "zero", "r1", "readable correct", "more"),
    Claim("Distillation beats RL on the student", "student_rl", "distilled", "accuracy", "more"),
)


@dataclasses.dataclass(frozen=True)
class Finding:
    """A claim and its verdict.

    verdict: "yes" or "not here" if the 95% interval of the paired change excludes 0; "no difference here" if the
    change, or all of an interval around 0, is below one point, for lengths below one percent; otherwise "inconclusive".
    "not comparable" if the problems are not the same: the change is then None, and ``reason`` says why.
    """

    claim: str
    verdict: str
    figure: str
    first: str
    second: str
    values: tuple[float, float]
    change: Change | None
    reason: str = ""

    def __str__(self) -> str:
        """A line of Markdown."""
        length = self.figure == "length"
        shown = [f"{value:.1f} tokens" if length else percent(value) for value in self.values]
        parts = [f"{self.first} {shown[0]}", f"{self.second} {shown[1]}"]
        if self.change is None:
            parts.append(self.reason)
        else:
            scale = 1 if length else 100
            ends = [f"{scale * end:+.1f}" for end in self.change.interval or ()]
            interval = f"[{', '.join(ends)}]" if ends else "on one problem, without an interval"
            parts.append(f"change {scale * self.change.value:+.1f} {interval}")
        return f"{self.claim}: **{self.verdict}** ({self.figure}: {', '.join(parts)})"


def findings(models: Mapping[str, EvaluatedModel]) -> list[Finding]:
    """The finding of each claim; claims whose models or figures are missing are left out. models: by stage name."""
    results = []
    for claim in CLAIMS:
        if claim.first not in models or claim.second not in models:
            continue
        pair = models[claim.first], models[claim.second]
        evaluations, name = _compared(pair, claim.figure)
        first, second = (_value(one, name) for one in evaluations)
        if first is None or second is None:
            continue
        paired = changes(*evaluations)
        change = paired.get(name) if paired else None
        small = 0.01 * first if claim.figure == "length" else 0.01
        results.append(
            Finding(
                claim.text,
                _verdict(change, small, claim.direction),
                claim.figure,
                pair[0].label,
                pair[1].label,
                (first, second),
                change,
                reason_not_paired(*evaluations),
            )
        )
    return results


def _compared(
    pair: tuple[EvaluatedModel, EvaluatedModel], figure: FigureName
) -> tuple[tuple[Evaluation, Evaluation], str]:
    """The evaluations of two models that have a figure, and its name in their by_problem."""
    if figure == "general tasks":
        return (pair[0].general, pair[1].general), "pass_at_1"
    names = {
        "accuracy": "pass_at_1",
        "language": "reward_language",
        "readable correct": "readable_correct",
        "length": "mean_length",
    }
    return (pair[0].reasoning, pair[1].reasoning), names[figure]


def _value(evaluation: Evaluation, name: str) -> float | None:
    if name.startswith("reward_"):
        return evaluation.rewards.get(name.removeprefix("reward_"))
    return evaluation.figures()[name]


def _verdict(change: Change | None, small: float, direction: str) -> str:
    if change is None:
        return "not comparable"
    if change.excludes_zero and abs(change.value) >= small:
        return "yes" if (change.value > 0) == (direction == "more") else "not here"
    within = change.interval is not None and max(map(abs, change.interval)) < small
    return "no difference here" if change.excludes_zero or within else "inconclusive"
