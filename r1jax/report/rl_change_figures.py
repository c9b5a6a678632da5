"""Pictures of what RL changes: pass@k and maj@k before and after, and the accuracy of each problem."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from r1jax.evaluation.rl_change import Comparison, RLChange
from r1jax.evaluation.summary import shown_ks
from r1jax.report.curves import add_legend, add_title, finish_axes, save_figure
from r1jax.report.style import GREY, MODEL_STYLES

_SIDES = (("before", "base", MODEL_STYLES["base"]), ("after", "after RL", MODEL_STYLES["zero"]))
_BINS = 16  # of the histogram


def plot_rl_change(change: RLChange, path: Path | str, title: str = "") -> None:
    """Draws draw_pass_at and draw_maj_at side by side. The suffix of ``path`` chooses the format (png, svg, pdf).

    Raises UserError if the path cannot be written.
    """
    figure = Figure(figsize=(9.6, 4.4), dpi=150, facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    draw_pass_at(left, change)
    draw_maj_at(right, change)
    add_legend(figure, [left], 3)
    add_title(figure, " · ".join(filter(None, [title, "bands: 95% bootstrap intervals; thin lines: single runs"])))
    save_figure(figure, path)


def plot_problems(change: RLChange, path: Path | str, title: str = "") -> None:
    """Draws draw_problems and draw_histogram side by side; path and errors as in plot_rl_change."""
    figure = Figure(figsize=(9.6, 4.4), dpi=150, facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_problems(left, change)
    draw_histogram(right, change)
    add_legend(figure, [right], 3)
    add_title(figure, " · ".join(filter(None, [title, "shares of the samples, means over the runs"])))
    save_figure(figure, path)


def draw_pass_at(ax: Axes, change: RLChange) -> None:
    """Draws pass@k over k before and after RL: the mean of the runs, its 95% interval, and each run.

    The dotted line is where the curves cross, and the grey area its interval.
    """
    _draw(ax, change.pass_at, "pass@k")
    crossing = change.crossing
    if crossing.k is not None:
        low, high = (end or change.samples for end in crossing.interval)
        ax.axvspan(low, high, color=GREY, alpha=0.12, linewidth=0)
        ax.axvline(crossing.k, color=GREY, linewidth=1, linestyle=":", label=f"the curves cross at k = {crossing.k}")


def draw_maj_at(ax: Axes, change: RLChange) -> None:
    """Draws maj@k over k as draw_pass_at draws pass@k."""
    _draw(ax, change.maj_at, "maj@k")


def draw_problems(ax: Axes, change: RLChange) -> None:
    """Draws the share of right samples of each problem after RL over the share before."""
    shares = _shares(change)
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    ax.scatter(shares["before"], shares["after"], s=10, alpha=0.4, color=MODEL_STYLES["zero"].colour, linewidths=0)
    finish_axes(ax, "right samples of each problem", "after RL")
    ax.set_xlabel("base", fontsize=8, color=GREY)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))


def draw_histogram(ax: Axes, change: RLChange) -> None:
    """Draws the number of problems by their share of right samples, before and after RL."""
    edges, shares = np.linspace(0, 1, _BINS + 1), _shares(change)
    for side, label, style in _SIDES:
        heights, _ = np.histogram(shares[side], edges)
        ax.stairs(heights, edges, color=style.colour, linewidth=1.8, label=label, fill=False)
    finish_axes(ax, "problems by their share of right samples", "problems")
    ax.set_xlabel("right samples", fontsize=8, color=GREY)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))


def _shares(change: RLChange) -> dict[str, np.ndarray]:
    return {side: np.mean(getattr(change, f"correct_{side}"), axis=0) / change.samples for side, _, _ in _SIDES}


def _draw(ax: Axes, figures: Mapping[int, Comparison], heading: str) -> None:
    ks = list(figures)
    for side, label, style in _SIDES:
        estimates = [getattr(one, side) for one in figures.values()]
        marked = [k in shown_ks(ks[-1]) for k in ks]
        line: dict[str, Any] = {"color": style.colour, "linestyle": style.line}
        for run in np.array([one.runs for one in estimates]).T:
            ax.plot(ks, run, linewidth=0.6, alpha=0.5, **line)
        values = [one.value for one in estimates]
        ax.plot(ks, values, linewidth=1.8, marker=style.marker, markersize=4, markevery=marked, label=label, **line)
        if all(one.interval for one in estimates):
            low, high = np.array([one.interval for one in estimates]).T
            ax.fill_between(ks, low, high, color=style.colour, alpha=0.12, linewidth=0)
    finish_axes(ax, heading, "share of the problems" if heading == "pass@k" else "")
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set_xlabel("k", fontsize=8, color=GREY)
