"""Pictures of evaluations on tasks: bars of pass@1, and pass@k in a panel for each task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from r1jax.evaluation.summary import Evaluation
from r1jax.report.curves import add_legend, add_title, draw_bar, finish_axes, finish_bars, save_figure
from r1jax.report.style import GREY, INK, model_styles

_COLUMNS = 3  # of panels

Found = Mapping[str, Mapping[str, Evaluation]]  # task -> model -> evaluation, the models in one order


def plot_tasks(found: Found, path: Path, title: str) -> None:
    """Draws pass@1 of each model on each task as bars, each with its value and 95% interval."""
    models = list(next(iter(found.values())))
    styles = dict(zip(models, model_styles(models), strict=True))
    height = 0.8 / len(models)
    figure = Figure(
        figsize=(7.2, 1.2 + 0.34 * len(found) * max(1.4, len(models))), dpi=150, facecolor="white", layout="constrained"
    )
    ax = figure.subplots()
    for row, evaluations in enumerate(found.values()):
        for i, (name, one) in enumerate(evaluations.items()):
            at = row + (i - (len(models) - 1) / 2) * height
            draw_bar(ax, at, one, 0.9 * height, styles[name].colour, line=1.2, marker=5, font=8)
    finish_bars(ax, list(found), 1.12)
    if len(models) > 1:
        bars = [Patch(color=styles[name].colour, label=name) for name in models]
        figure.legend(handles=bars, loc="outside lower left", ncols=3, fontsize=8, frameon=False, labelcolor=INK)
    add_title(figure, f"{title} · lines: 95% bootstrap intervals over problems")
    save_figure(figure, path)


def plot_tasks_at_k(found: Found, path: Path, title: str) -> None:
    """Draws pass@k over k of each model, a panel for each task, with 95% intervals as bands, and maj@k dotted."""
    models = list(next(iter(found.values())))
    styles = dict(zip(models, model_styles(models), strict=True))
    columns = min(_COLUMNS, len(found))
    rows = -(-len(found) // columns)
    figure = Figure(
        figsize=(max(5.0, 3.4 * columns), 2.9 * rows + 0.5), dpi=150, facecolor="white", layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for ax, (task, evaluations) in zip(axes, found.items(), strict=False):
        for name, one in evaluations.items():
            style, ks = styles[name], list(one.pass_at)
            ax.plot(
                ks,
                list(one.pass_at.values()),
                label=name,
                color=style.colour,
                linestyle=style.line,
                linewidth=1.8,
                marker=style.marker,
                markersize=4,
            )
            if one.maj_at:
                ax.plot(list(one.maj_at), list(one.maj_at.values()), color=style.colour, linestyle=":", linewidth=1.2)
            ends = [one.intervals[f"pass_at_{k}"] for k in ks]
            if all(ends):
                low, high = np.array(ends).T
                ax.fill_between(ks, low, high, color=style.colour, alpha=0.12, linewidth=0)
        finish_axes(ax, task, "share of the problems")
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        ax.set_ylim(0, 1.02)
        ax.set_xlabel("k", fontsize=8, color=GREY)
    for ax in axes[len(found) :]:
        ax.set_visible(False)
    add_legend(figure, list(axes[: len(found)]), 3)
    add_title(figure, f"{title} · lines: pass@k with 95% intervals; dotted: majority vote of k")
    save_figure(figure, path)
