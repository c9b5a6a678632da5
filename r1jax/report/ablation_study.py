"""The committed results of several ablations, one folder for each: read, as a table, and as small pictures."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from r1jax.errors import UserError
from r1jax.evaluation.seeds import over_seeds
from r1jax.report.ablation import FIGURE, points, reading
from r1jax.report.curves import finish_axes
from r1jax.report.rendering import markdown_table
from r1jax.report.style import GREY, INK

_LENGTH = "length_mean"
_LONG = 12  # characters of a value below a panel
_COLOURS: Mapping[str, str] = {"higher": "#009e73", "lower": "#d55e00"}  # of style.py; others are grey


@dataclasses.dataclass(frozen=True)
class AxisResult:
    """An ablation of one axis: V values with S seeds each."""

    name: str  # of its folder
    axis: str  # the setting
    values: tuple[str, ...]
    seeds: tuple[int, ...]
    before: np.ndarray  # [V, S], accuracy of held-out problems
    after: np.ndarray  # [V, S]
    length: np.ndarray  # [V, S], mean tokens of a completion after training
    steps: int
    about: Mapping[str, Any]  # device, versions, seconds and settings of all arms


def read_axes(folder: Path | str, names: Sequence[str] = ()) -> dict[str, AxisResult]:
    """Name -> result of each subfolder with summary.json and results.csv, as launch/ablations.sh writes them.

    Those of ``names`` are the first, in this order. Empty if the folder does not exist. Raises UserError for a result
    of more than one axis.
    """
    found = {path.parent.name: path.parent for path in sorted(Path(folder).glob("*/results.csv"))}
    ordered = [name for name in names if name in found]
    return {name: _read(found[name]) for name in [*ordered, *(name for name in found if name not in ordered)]}


def _read(folder: Path) -> AxisResult:
    summary = json.loads((folder / "summary.json").read_text())
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if len(summary["axes"]) != 1:
        raise UserError(f"{folder} has the axes {', '.join(summary['axes'])}: give ablations of one axis each")
    (axis,), shape = summary["axes"], (-1, len(summary["seeds"]))

    def figures(name: str) -> np.ndarray:
        return np.array([float(row[name]) for row in rows]).reshape(shape)

    return AxisResult(
        name=folder.name,
        axis=axis,
        values=tuple(dict.fromkeys(row[axis] for row in rows)),
        seeds=tuple(summary["seeds"]),
        before=figures(f"{FIGURE}_before"),
        after=figures(f"{FIGURE}_after"),
        length=figures(f"{_LENGTH}_after"),
        steps=summary["steps"],
        about=summary,
    )


def _readings(result: AxisResult) -> list[str]:
    """The reading of each value's change from the first, paired by seed; "" for the first."""
    return ["", *(reading(over_seeds(values - result.after[0])) for values in result.after[1:])]


def axes_table(results: Mapping[str, AxisResult]) -> str:
    """Markdown: accuracy after training and mean length for each value of each axis, and the change from the first."""
    head = ["setting", "value", f"{FIGURE}, %", "change from the first, points", "", "length, tokens"]
    rows = []
    for result in results.values():
        for at, (value, own, word) in enumerate(zip(result.values, result.after, _readings(result), strict=True)):
            change = points(over_seeds(own - result.after[0]), "+") if at else ""
            length = f"{result.length[at].mean():.1f}"
            rows.append(["" if at else result.axis, value, points(over_seeds(own)), change, word, length])
    return markdown_table(head, rows, "lrrrlr")


def draw_results(panels: Sequence[Axes], results: Mapping[str, AxisResult]) -> None:
    """Draws draw_result of each result in a panel; panels without a result are hidden.

    All have one vertical scale, which does not start at 0.
    """
    for ax in panels[len(results) :]:
        ax.set_visible(False)
    for ax, result in zip(panels, results.values(), strict=False):
        draw_result(ax, result)
    ends = [end for result in results.values() for end in _ends(result)]
    room = 0.05 * (max(ends) - min(ends)) or 0.01
    for ax in panels[: len(results)]:
        ax.set_ylim(min(ends) - room, max(ends) + room)


def _ends(result: AxisResult) -> list[float]:
    """The lowest and the highest figure of an axis, and the ends of its intervals."""
    ends = [result.after.min(), result.after.max()]
    for own in result.after:
        ends += over_seeds(own).interval or ()
    return ends


def draw_result(ax: Axes, result: AxisResult) -> None:
    """Draws the accuracy after training over the values of an axis: mean, 95% t-interval over seeds, and each seed.

    Values that are better than the first, paired by seed, are green, worse ones orange, and the others grey; the
    reading of the change is below the value.
    """
    words = _readings(result)
    for at, (own, word) in enumerate(zip(result.after, words, strict=True)):
        mean = over_seeds(own)
        colour = _COLOURS.get(word, GREY if at else INK)
        ax.plot(np.full(len(own), at + 0.2), own, linestyle="", marker=".", markersize=3, color=colour, alpha=0.5)
        ax.plot([at, at], mean.interval or [mean.value] * 2, color=colour, linewidth=1.4)
        ax.plot(at, mean.value, marker="o", markersize=5, color=colour)
    finish_axes(ax, result.axis, "")
    shown = [value if len(value) < _LONG else value[: _LONG - 1] + "…" for value in result.values]
    labels = [f"{value}\n{word.replace(' ', chr(10))}" for value, word in zip(shown, words, strict=True)]
    ax.set_xticks(range(len(labels)), labels)
    ax.set_xlim(-0.5, len(labels) - 0.5)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))


def findings(results: Mapping[str, AxisResult]) -> list[str]:
    """A sentence for each axis: the values that are better or worse than the first, or that there is no difference.

    With one seed, the sentence is that there is no interval.
    """
    lines = []
    for result in results.values():
        words = dict(zip(result.values, _readings(result), strict=True))
        parts = [f"{value} is {word}" for value, word in words.items() if word in _COLOURS]
        others = dict.fromkeys(word for word in words.values() if word)
        lines.append(f"{result.axis}, against {result.values[0]}: {', '.join(parts or others) or 'no other value'}")
    return lines
