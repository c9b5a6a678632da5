"""Labels, colours and titles of all tables, pictures and pages."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

# Stage -> the label of its model.
MODEL_LABELS: Mapping[str, str] = {
    "base": "base",
    "zero": "R1-Zero",
    "cold_start": "1 cold start",
    "reasoning_rl": "2 reasoning RL",
    "reasoning_rl_no_language": "2 without language reward",
    "sft": "4 SFT from base",
    "r1": "5 R1",
    "student": "student",
    "distilled": "student distilled",
    "matched": "student distilled, then matched",
    "student_rl": "student with RL alone",
}


@dataclasses.dataclass(frozen=True)
class ModelStyle:
    """Colour, line and marker of a model's curve; its bar has the same colour."""

    colour: str
    line: str = "-"
    marker: str = "o"


# The first seven colours are those of Okabe and Ito (2008) without yellow. The others are the result of a search: for
# each of the three kinds of colour blindness, any two differ by at least 15 in CIELAB. Students have dashed lines.
MODEL_STYLES: Mapping[str, ModelStyle] = {
    "base": ModelStyle("#24292f", marker="o"),
    "zero": ModelStyle("#d55e00", marker="s"),
    "cold_start": ModelStyle("#56b4e9", marker="^"),
    "reasoning_rl": ModelStyle("#0072b2", marker="D"),
    "reasoning_rl_no_language": ModelStyle("#cc79a7", marker="v"),
    "sft": ModelStyle("#e69f00", marker="P"),
    "r1": ModelStyle("#009e73", marker="X"),
    "student": ModelStyle("#5a2d00", "--", "o"),
    "distilled": ModelStyle("#8700ff", "--", "s"),
    "matched": ModelStyle("#4b2db4", "--", "^"),
    "student_rl": ModelStyle("#94c465", "--", "D"),
}
_REPEATED_LINES = (":", "-.")  # if a picture shows a model twice or more, such as two students of one teacher


def model_styles(names: Sequence[str]) -> list[ModelStyle]:
    """The style of each model of a picture; names that are not in MODEL_STYLES take unused styles in order."""
    unused = [style for name, style in MODEL_STYLES.items() if name not in names] or list(MODEL_STYLES.values())
    others = [name for name in dict.fromkeys(names) if name not in MODEL_STYLES]
    known = {**MODEL_STYLES, **{name: unused[i % len(unused)] for i, name in enumerate(others)}}
    styles = []
    for at, name in enumerate(names):
        before = names[:at].count(name)
        line = _REPEATED_LINES[(before - 1) % len(_REPEATED_LINES)] if before else known[name].line
        styles.append(dataclasses.replace(known[name], line=line))
    return styles


@dataclasses.dataclass(frozen=True)
class Panel:
    """A metric of metrics.jsonl in the training curves."""

    metric: str
    title: str
    axis: str
    percent: bool = False  # whether the values are shares, shown in percent


PANELS = (
    Panel("reward_accuracy", "Accuracy reward", "mean of the samples"),
    Panel("reward_format", "Format reward", "mean of the samples"),
    Panel("reward_language", "Language consistency", "mean of the samples"),
    Panel("reward_helpfulness", "Helpfulness model", "mean of its prompts"),
    Panel("reward_harmlessness", "Harmlessness model", "mean of its prompts"),
    Panel("length_mean", "Completion length", "tokens"),
    Panel("truncated_share", "Truncated", "share of the samples", percent=True),
    Panel("kl", "KL to the reference", "nats per token"),
    Panel("entropy", "Entropy", "nats per token"),
    Panel("critic_loss", "Value loss", "half the squared error"),
    Panel("critic_explained_variance", "Explained variance", "of the returns"),
    Panel("prm_loss", "Process reward model", "cross-entropy, nats"),
    Panel("gradient_norm", "Gradient norm", "before clipping"),
)

# Figures of an evaluation, by their names in Evaluation.figures.
FIGURE_LABELS: Mapping[str, str] = {
    "format_rate": "format rate, %",
    "readable_correct": "readable and correct, %",
    "mean_length": "mean length, tokens",
    "truncated_share": "truncated share, %",
    "entropy": "entropy, nats per token",
}


def figure_label(name: str) -> str:
    """The label of a figure in tables, with its unit."""
    return FIGURE_LABELS.get(name) or f"{name.replace('_at_', '@')}, %"


# Background colours of the smallest and the largest value per token. INK on any mixture of one of them with white has a
# contrast of at least 6 to 1. Both are of Okabe and Ito (2008) and differ for all kinds of colour blindness.
NEGATIVE, POSITIVE = "#e69f00", "#56b4e9"


def diverging(share: float) -> str:
    """The colour "#rrggbb" of a value as a share of the largest: -1 NEGATIVE, 0 white, 1 POSITIVE, and mixtures."""
    end = NEGATIVE if share < 0 else POSITIVE
    part = min(abs(share), 1.0)
    channels = (round(255 + part * (int(end[i : i + 2], 16) - 255)) for i in (1, 3, 5))
    return "#" + "".join(f"{channel:02x}" for channel in channels)


# Colours of text, axes and grids in pictures.
INK, GREY, AXIS, GRID = "#24292f", "#57606a", "#8c959f", "#d0d7de"

# Colours of HTML pages with the light and the dark colour scheme.
LIGHT_PAGE: Mapping[str, str] = {"ink": INK, "paper": "#fff", "line": GRID, "shade": "#f6f8fa"}
DARK_PAGE: Mapping[str, str] = {"ink": "#e6edf3", "paper": "#0d1117", "line": "#3d444d", "shade": "#1c2128"}
