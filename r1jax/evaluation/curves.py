"""Pictures: runs as small panels, one a metric, over steps; checkpoints as pass@k over k."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from r1jax.disk import replacing
from r1jax.errors import UserError

# Key in metrics.jsonl, title, label of the vertical axis, and whether it is a share.
_PANELS = (
    ("reward_accuracy", "Accuracy reward", "mean of the samples", False),
    ("reward_format", "Format reward", "mean of the samples", False),
    ("reward_language", "Language consistency", "mean of the samples", False),
    ("reward_helpfulness", "Helpfulness model", "mean of its prompts", False),
    ("reward_harmlessness", "Harmlessness model", "mean of its prompts", False),
    ("length_mean", "Completion length", "tokens", False),
    ("truncated_share", "Truncated", "share of the samples", True),
    ("kl", "KL to the reference", "nats a token", False),
    ("entropy", "Entropy", "nats a token", False),
    ("gradient_norm", "Gradient norm", "before clipping", False),
)
_COLUMNS = 4
# Told apart by colour-blind readers too (Okabe and Ito 2008), in this order; a single run has the first.
_COLOURS = ("#1f5fbf", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#24292f")
_STYLES = tuple((colour, line) for line in ("-", "--", ":") for colour in _COLOURS)
_GREY = "#57606a"


def plot_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path | str) -> None:
    """Draws the known metrics of runs as small multiples: each step faint, a centred moving average bold.

    runs: name -> the rows of metrics.jsonl; a value that is absent or null leaves a gap, a metric without any value
    has no panel, and without panels there is no file. The ending of ``path`` chooses the format (png, svg, pdf). Raises
    UserError where it cannot be written.
    """
    steps = {name: np.array([row["step"] for row in rows]) for name, rows in runs.items()}
    series = {
        (key, name): np.array([_number(row.get(key)) for row in rows])
        for key, *_ in _PANELS
        for name, rows in runs.items()
    }
    panels = [panel for panel in _PANELS if any(np.isfinite(series[panel[0], name]).any() for name in runs)]
    if not panels:
        return
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    # A Figure of its own and not pyplot's: no display, no state shared with the caller's plots.
    figure = Figure(figsize=(3.2 * columns, 2.5 * rows + 0.3), dpi=150, facecolor="white", layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for ax, (key, heading, unit, share) in zip(axes, panels, strict=False):
        for name, (colour, line) in zip(runs, itertools.cycle(_STYLES), strict=False):
            if np.isfinite(series[key, name]).any():
                _draw(ax, steps[name], series[key, name], colour, line, name)
        _settle(ax, heading, unit)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
        if share:
            ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    for ax in axes[max(0, len(panels) - columns) : len(panels)]:
        ax.set_xlabel("step", fontsize=8, color=_GREY)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    if len(runs) > 1:
        _name(figure, list(axes[: len(panels)]), columns)
    window = max(map(_window, steps.values()))
    note = f"faint: each step; bold: mean of {window} steps" if window > 1 else ""
    title = " · ".join(filter(None, [*(runs if len(runs) == 1 else ()), note]))
    figure.suptitle(title, x=0.01, ha="left", fontsize=9, color=_GREY)
    _save(figure, path)


def plot_pass_at_k(models: Mapping[str, Mapping[int, float]], path: Path | str) -> None:
    """Draws pass@k over k of several models, k on a logarithmic axis; name -> k -> share of problems.

    Sharpening shows as lines that meet or cross where k is large, a new ability as lines that stay apart (arXiv
    2402.03300, section 5.2.2). Raises UserError where it cannot be written.
    """
    figure = Figure(figsize=(6.4, 4.2), dpi=150, facecolor="white", layout="constrained")
    ax = figure.subplots()
    for (name, shares), (colour, line) in zip(models.items(), itertools.cycle(_STYLES), strict=False):
        look = {"color": colour, "linestyle": line, "linewidth": 1.8, "marker": "o", "markersize": 3}
        ax.plot(list(shares), list(shares.values()), label=name, **look)
    _settle(ax, "pass@k", "share of the problems")
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set_xlabel("k", fontsize=8, color=_GREY)
    _name(figure, [ax], 2)
    _save(figure, path)


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centred moving average of values [N] over window steps; NaN entries and places beyond the ends do not count."""
    kernel = np.ones(window)
    known = np.isfinite(values)
    count = np.convolve(known, kernel, mode="full")
    total = np.convolve(np.where(known, values, 0.0), kernel, mode="full")
    start = (window - 1) // 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return (total / count)[start : start + len(values)]


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _window(steps: np.ndarray) -> int:
    return max(1, len(steps) // 20)


def _draw(ax: Axes, steps: np.ndarray, values: np.ndarray, colour: str, line: str, name: str) -> None:
    window = _window(steps)
    if window > 1:
        ax.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
    marker = "o" if len(steps) == 1 else ""
    ax.plot(steps, smooth(values, window), color=colour, linestyle=line, linewidth=1.8, marker=marker, label=name)


def _settle(ax: Axes, heading: str, unit: str) -> None:
    """The looks that all panels share, once their lines are drawn."""
    ax.set_title(heading, loc="left", fontsize=10, fontweight="bold", color="#24292f")
    ax.set_ylabel(unit, fontsize=8, color=_GREY)
    ax.grid(axis="y", color="#d0d7de", linewidth=0.6)
    ax.set_axisbelow(True)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color("#8c959f")
    ax.tick_params(labelsize=8, colors=_GREY, length=0)
    if min(np.nanmin(line.get_ydata()) for line in ax.lines) >= 0:
        ax.set_ylim(bottom=0)  # a small change must not look like a large one
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def _name(figure: Figure, axes: Sequence[Axes], columns: int) -> None:
    """A legend below the figure, of every line once."""
    lines = {text: line for ax in axes for line, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(
        lines.values(), lines.keys(), loc="outside lower left", ncols=columns, fontsize=8, frameon=False,
        labelcolor="#24292f", handlelength=3,
    )  # fmt: skip


def _save(figure: Figure, path: Path | str) -> None:
    path = Path(path)
    try:
        with replacing(path) as part:
            figure.savefig(part, format=path.suffix[1:])
    except OSError as error:
        raise UserError(f"{path}: cannot write the curves there ({error.strerror})") from error
