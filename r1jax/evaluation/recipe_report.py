"""The report of a whole recipe: what each stage gave, what it cost, and the same questions answered by each model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import markdown

from r1jax.evaluation.evaluate import evaluation_from
from r1jax.evaluation.report import Evaluation

Figures = Mapping[str, Any]

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1200px;margin:2em auto;padding:0 1em;color:#24292f}"
    "table{border-collapse:collapse;display:block;overflow-x:auto}td,th{border:1px solid #d0d7de;padding:4px 8px;"
    "vertical-align:top}th{background:#f6f8fa}img{max-width:100%}code{background:#f6f8fa;white-space:pre-wrap}"
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
        "model", *kinds, "pass@1 [95%]", f"maj@{most}", f"pass@{most}", "format", "language", "readable and correct",
        "length", "general tasks", "helpfulness", "harmlessness", "tokens", "seconds",
    ]  # fmt: skip
    rows = []
    for one in checkpoints:
        r, g = one.reasoning, one.general
        low, high = r.intervals["pass_at_1"]
        rows.append([
            one.label,
            *(_share(r.accuracy_by_kind.get(kind)) for kind in kinds),
            f"{_share(r.pass_at[1])} [{_share(low)}, {_share(high)}]",
            _share(r.maj_at[most]), _share(r.pass_at[most]), _share(r.format_rate), _share(r.rewards.get("language")),
            _share(r.readable_correct), f"{r.mean_length:.1f}", _share(g.pass_at[1]),
            _score(g.rewards.get("helpfulness")), _score(g.rewards.get("harmlessness")),
            f"{one.tokens:,.0f}", f"{one.seconds:.0f}",
        ])  # fmt: skip
    return table(head, rows)


def findings(checkpoints: Mapping[str, Checkpoint]) -> list[str]:
    """The paper's story, claim by claim, each with what this run says of it; claims without their models are left out.

    A difference below one point, or of lengths below one percent, counts as none. checkpoints: by the names base, zero,
    cold_start, reasoning_rl, reasoning_rl_no_language, sft, r1, distilled and student_rl, those that there are.
    """
    lines: list[str] = []

    def compare(claim: str, first: str, second: str, figure: str, holds: str) -> None:
        """``holds``: "more" where the second should have more of the figure than the first, or "less"."""
        if first not in checkpoints or second not in checkpoints:
            return
        pair = checkpoints[first], checkpoints[second]
        a, b = (_figure(one, figure) for one in pair)
        same = abs(b - a) < (0.01 if figure != "length" else 0.01 * a)
        verdict = "no difference here" if same else "yes" if (b > a) == (holds == "more") else "not here"
        shown = [f"{value:.1f} tokens" if figure == "length" else _share(value) for value in (a, b)]
        said = ", ".join(f"{one.label} {value}" for one, value in zip(pair, shown, strict=True))
        overlap = ", the intervals overlap" if not same and _overlap(*pair, figure) else ""
        lines.append(f"{claim}: **{verdict}** ({figure.replace('_', ' ')}: {said}{overlap})")

    compare("R1-Zero is right more often than the base", "base", "zero", "accuracy", "more")
    compare("R1-Zero mixes languages more than the cold start", "zero", "cold_start", "language", "more")
    compare("R1-Zero writes more than the cold start", "zero", "cold_start", "length", "less")
    compare("The cold start reads better than R1-Zero", "zero", "cold_start", "readable_correct", "more")
    compare("The cold start costs accuracy against R1-Zero", "zero", "cold_start", "accuracy", "less")
    compare("Reasoning RL wins accuracy back", "cold_start", "reasoning_rl", "accuracy", "more")
    compare("The language reward costs accuracy", "reasoning_rl_no_language", "reasoning_rl", "accuracy", "less")
    compare("The language reward buys consistency", "reasoning_rl_no_language", "reasoning_rl", "language", "more")
    compare("Stage 4 brings general ability back", "reasoning_rl", "sft", "general_tasks", "more")
    compare("R1 is above the base on readable, correct answers", "base", "r1", "readable_correct", "more")
    compare("R1 is above R1-Zero on readable, correct answers", "zero", "r1", "readable_correct", "more")
    compare("Distillation beats RL on the student", "student_rl", "distilled", "accuracy", "more")
    return lines


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
            f"{_share(right[0])} -> {_share(right[1])}, elsewhere {_share(right_elsewhere[0])} -> "
            f"{_share(right_elsewhere[1])}; length {length[0]:.1f} -> {length[1]:.1f} tokens)"
        )
    return "\n".join(found)


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
        cells = [one.answers.get(question, ("", False)) for question in questions]
        rows.append([one.label, *(f"{'right' if right else 'wrong'}: {_code(text)}" for text, right in cells)])
    return table(["model", *(_code(question) for question in questions)], rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def to_html(text: str, title: str) -> str:
    """A whole HTML page of a Markdown text."""
    body = markdown.markdown(text, extensions=["tables"])
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"</head><body>{body}</body></html>\n"
    )


def _figure(one: Checkpoint, name: str) -> float:
    return {
        "accuracy": one.reasoning.pass_at[1],
        "language": one.reasoning.rewards.get("language", 0.0),
        "readable_correct": one.reasoning.readable_correct,
        "general_tasks": one.general.pass_at[1],
        "length": one.reasoning.mean_length,
    }[name]


def _overlap(a: Checkpoint, b: Checkpoint, name: str) -> bool:
    """Whether the 95% intervals of a figure overlap; False for figures that have none."""
    source, key = {
        "accuracy": ("reasoning", "pass_at_1"),
        "readable_correct": ("reasoning", "readable_correct"),
        "length": ("reasoning", "mean_length"),
        "general_tasks": ("general", "pass_at_1"),
    }.get(name, ("", ""))
    if not source:
        return False
    (low, high), (other_low, other_high) = (getattr(one, source).intervals[key] for one in (a, b))
    return low <= other_high and other_low <= high


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _code(text: str, limit: int = 300) -> str:
    """A text in a table's cell, its middle left out where it is long."""
    text = text if len(text) <= limit else f"{text[: limit // 2]} [...] {text[-limit // 2 :]}"
    return "`" + " ".join(text.splitlines()).replace("`", "'").replace("|", "¦") + "`"
