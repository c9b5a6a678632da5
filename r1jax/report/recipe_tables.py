"""The report of a whole recipe: what each stage gave, what it cost, and the same questions answered by each model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from r1jax.evaluation.evaluate import evaluation_from
from r1jax.evaluation.paired import Change, changes, not_paired
from r1jax.report.comparison import Evaluation

Figures = Mapping[str, Any]

# What findings compare: figure -> the evaluation that has it, and its name there.
_COMPARED = {
    "accuracy": ("reasoning", "pass_at_1"),
    "language": ("reasoning", "reward_language"),
    "readable correct": ("reasoning", "readable_correct"),
    "length": ("reasoning", "mean_length"),
    "general tasks": ("general", "pass_at_1"),
}
# Claim, first model, second model, figure, and whether the second should have more or less of it.
_CLAIMS = (
    ("R1-Zero is right more often than the base", "base", "zero", "accuracy", "more"),
    ("R1-Zero mixes languages more than the cold start", "zero", "cold_start", "language", "more"),
    ("R1-Zero writes more than the cold start", "zero", "cold_start", "length", "less"),
    ("The cold start reads better than R1-Zero", "zero", "cold_start", "readable correct", "more"),
    ("The cold start costs accuracy against R1-Zero", "zero", "cold_start", "accuracy", "less"),
    ("Reasoning RL wins accuracy back", "cold_start", "reasoning_rl", "accuracy", "more"),
    ("The language reward costs accuracy", "reasoning_rl_no_language", "reasoning_rl", "accuracy", "less"),
    ("The language reward buys consistency", "reasoning_rl_no_language", "reasoning_rl", "language", "more"),
    ("Stage 4 brings general ability back", "reasoning_rl", "sft", "general tasks", "more"),
    ("R1 is above the base on readable, correct answers", "base", "r1", "readable correct", "more"),
    ("R1 is above R1-Zero on readable, correct answers", "zero", "r1", "readable correct", "more"),
    ("Distillation beats RL on the student", "student_rl", "distilled", "accuracy", "more"),
)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model of the recipe: its name in the report, what evaluated it, and what making it took."""

    label: str
    reasoning: Evaluation
    general: Evaluation
    answers: Mapping[str, tuple[str, bool]]  # question -> (completion, whether it is right)
    tokens: float  # sampled or learned while making it
    seconds: float


def checkpoint(label: str, evaluation: Figures, made: Sequence[Figures]) -> Checkpoint:
    """The figures of an evaluation stage, and those of the stages that made the model."""
    answers = {
        one["question"]: (one["completion"], one["correct"])
        for name in ("reasoning_completions", "general_completions")
        for one in evaluation[name]
    }
    return Checkpoint(
        label,
        evaluation_from(evaluation["reasoning"]),
        evaluation_from(evaluation["general"]),
        answers,
        sum(figures.get("tokens", 0.0) for figures in made),
        sum(figures.get("seconds", 0.0) for figures in made),
    )


def main_table(checkpoints: Sequence[Checkpoint]) -> str:
    """A row a model: accuracy by task, pass@1, maj@k, pass@k, format, language, length, general figures, cost.

    k is 8, or what all models have samples for.
    """
    most = min(8, *(one.reasoning.samples_per_problem for one in checkpoints))
    kinds = sorted({kind for c in checkpoints for kind in c.reasoning.accuracy_by_kind})
    head = [
        "model",
        *kinds,
        "pass@1 [95%]",
        f"maj@{most}",
        f"pass@{most}",
        "format",
        "language",
        "readable and correct",
        "length",
        "general tasks",
        "helpfulness",
        "harmlessness",
        "tokens",
        "seconds",
    ]
    rows = []
    for one in checkpoints:
        r, g = one.reasoning, one.general
        ends = r.intervals["pass_at_1"]
        rows.append(
            [
                one.label,
                *(_share(r.accuracy_by_kind.get(kind)) for kind in kinds),
                _share(r.pass_at[1]) + (f" [{_share(ends[0])}, {_share(ends[1])}]" if ends else ""),
                _share(r.maj_at[most]),
                _share(r.pass_at[most]),
                _share(r.format_rate),
                _share(r.rewards.get("language")),
                _share(r.readable_correct),
                f"{r.mean_length:.1f}",
                _share(g.pass_at[1]),
                _score(g.rewards.get("helpfulness")),
                _score(g.rewards.get("harmlessness")),
                f"{one.tokens:,.0f}",
                f"{one.seconds:.0f}",
            ]
        )
    return table(head, rows)


@dataclasses.dataclass(frozen=True)
class Finding:
    """A claim of the paper, and what two models of this run say of it.

    verdict: "yes" or "not here" where the 95% interval of the paired change leaves out 0; "no difference here" where
    the change, or all of an interval around 0, is below one point, for lengths below one percent; otherwise "not told
    apart". "not comparable" where the problems are not the same: there is no change then, and ``reason`` says why.
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
        shown = [f"{value:.1f} tokens" if length else _share(value) for value in self.values]
        parts = [f"{self.first} {shown[0]}", f"{self.second} {shown[1]}"]
        if self.change is None:
            parts.append(self.reason)
        else:
            scale = 1 if length else 100
            ends = [f"{scale * end:+.1f}" for end in self.change.interval or ()]
            interval = f"[{', '.join(ends)}]" if ends else "on one problem, without an interval"
            parts.append(f"change {scale * self.change.value:+.1f} {interval}")
        return f"{self.claim}: **{self.verdict}** ({self.figure}: {', '.join(parts)})"


def findings(checkpoints: Mapping[str, Checkpoint]) -> list[Finding]:
    """The paper's story, claim by claim; claims without their models or figures are left out.

    checkpoints: by the names base, zero, cold_start, reasoning_rl, reasoning_rl_no_language, sft, r1, distilled and
    student_rl, those that there are.
    """
    found = []
    for claim, first, second, figure, direction in _CLAIMS:
        if first not in checkpoints or second not in checkpoints:
            continue
        pair = checkpoints[first], checkpoints[second]
        a, b = (_figure(one, figure) for one in pair)
        if a is None or b is None:
            continue
        part, name = _COMPARED[figure]
        evaluations = [getattr(one, part) for one in pair]
        every = changes(*evaluations)
        change = every.get(name) if every else None
        verdict = _verdict(change, 0.01 * a if figure == "length" else 0.01, direction)
        labels = pair[0].label, pair[1].label
        found.append(Finding(claim, verdict, figure, *labels, (a, b), change, not_paired(*evaluations)))
    return found


def _verdict(change: Change | None, small: float, direction: str) -> str:
    if change is None:
        return "not comparable"
    if change.told_apart and abs(change.value) >= small:
        return "yes" if (change.value > 0) == (direction == "more") else "not here"
    within = change.interval is not None and max(map(abs, change.interval)) < small
    return "no difference here" if change.told_apart or within else "not told apart"


def hacking_watch(rows: Sequence[Mapping[str, Any]], judged: Mapping[str, Sequence[str]]) -> str:
    """Whether a reward model's score rose over a run's last part while rule accuracy or length went astray.

    rows: metrics.jsonl. judged: reward -> the kinds of prompts that it judges. Astray is accuracy by rule, on its own
    kinds or on the others, lower by 5 points, or the mean length doubled or halved, between the first and the last
    quarter of the steps in which the reward was given.
    """
    found = []
    for name, kinds in judged.items():
        given = [row for row in rows if row.get(f"reward_{name}") is not None]
        if len(given) < 4:
            continue
        ends = given[: len(given) // 4], given[-(len(given) // 4) :]
        score, length = (
            [_mean([row[key] for row in part]) for part in ends] for key in (f"reward_{name}", "length_mean")
        )
        right, right_elsewhere = (
            [_mean([value for row in part for value in _accuracies(row, kinds, inside)]) for part in ends]
            for inside in (True, False)
        )
        worse = any(after < before - 0.05 for before, after in (right, right_elsewhere))
        astray = worse or not 0.5 < length[1] / length[0] < 2
        verdict = "looks like reward hacking" if score[1] > score[0] and astray else "no sign of reward hacking"
        found.append(
            f"- {name}: {verdict} (its reward {score[0]:.3f} -> {score[1]:.3f}; rule accuracy where it judges "
            f"{_course(right)}, elsewhere {_course(right_elsewhere)}; length {length[0]:.1f} -> {length[1]:.1f} tokens)"
        )
    return "\n".join(found)


def _course(ends: Sequence[float]) -> str:
    return "no figures" if any(map(math.isnan, ends)) else " -> ".join(map(_share, ends))


def _accuracies(row: Mapping[str, Any], kinds: Sequence[str], inside: bool) -> list[float]:
    """Accuracies of a step's kinds of problems, of those that are among ``kinds`` or of the others."""
    found = {key.removeprefix("accuracy_"): value for key, value in row.items() if key.startswith("accuracy_")}
    return [value for kind, value in found.items() if (kind in kinds) == inside and value is not None]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def answers_table(checkpoints: Sequence[Checkpoint], questions: Sequence[str]) -> str:
    """The first completion of each model to the same questions, a column a question."""
    rows = []
    for one in checkpoints:
        cells = []
        for question in questions:
            text, right = one.answers.get(question, (None, False))
            cells.append("not asked" if text is None else f"{'right' if right else 'wrong'}: {_code(text)}")
        rows.append([one.label, *cells])
    return table(["model", *(_code(question) for question in questions)], rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _figure(one: Checkpoint, name: str) -> float | None:
    return {
        "accuracy": one.reasoning.pass_at[1],
        "language": one.reasoning.rewards.get("language"),
        "readable correct": one.reasoning.readable_correct,
        "general tasks": one.general.pass_at[1],
        "length": one.reasoning.mean_length,
    }[name]


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _code(text: str, limit: int = 300) -> str:
    """A text in a table's cell, its middle left out where it is long."""
    text = text if len(text) <= limit else f"{text[: limit // 2]} [...] {text[-limit // 2 :]}"
    return "`" + " ".join(text.splitlines()).replace("`", "'").replace("|", "¦") + "`"
