"""The picture of a run: one small panel a metric, over steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from r1jax.errors import UserError

# Key in metrics.jsonl, title, label of the vertical axis, and whether it is a share.
_PANELS = (
    ("reward_accuracy", "Accuracy reward", "mean of the samples", False),
    ("reward_format", "Format reward", "mean of the samples", False),
    ("length_mean", "Completion length", "tokens", False),
    ("truncated_share", "Truncated", "share of the samples", True),
    ("kl", "KL to the reference", "nats a token", False),
    ("entropy", "Entropy", "nats a token", False),
    ("gradient_norm", "Gradient norm", "before clipping", False),
)
_COLUMNS = 4
_COLOUR = "#1f5fbf"
_GREY = "#57606a"


def plot_curves(metrics: Sequence[Mapping[str, Any]], path: Path | str, title: str = "") -> None:
    """Draws the known metrics of a run as small multiples: each step faint, a centred moving average bold.

    metrics: the rows of metrics.jsonl; a value that is absent or null leaves a gap, a metric without any value has no
    panel, and without panels there is no file. The ending of ``path`` chooses the format (png, svg, pdf). Raises
    UserError where it cannot be written.
    """
    steps = np.array([row["step"] for row in metrics])
    series = {key: np.array([_number(row.get(key)) for row in metrics]) for key, *_ in _PANELS}
    panels = [panel for panel in _PANELS if np.isfinite(series[panel[0]]).any()]
    if not panels:
        return
    window = max(1, len(steps) // 20)
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)

    # A Figure of its own and not pyplot's: no display, no state shared with the caller's plots.
    figure = Figure(figsize=(3.2 * columns, 2.5 * rows + 0.3), dpi=150, facecolor="white", layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for ax, (key, heading, unit, share) in zip(axes, panels, strict=False):
        _draw(ax, steps, series[key], window)
        ax.set_title(heading, loc="left", fontsize=10, fontweight="bold", color="#24292f")
        ax.set_ylabel(unit, fontsize=8, color=_GREY)
        if share:
            ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    for ax in axes[max(0, len(panels) - columns) : len(panels)]:
        ax.set_xlabel("step", fontsize=8, color=_GREY)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    note = f"faint: each step; bold: mean of {window} steps" if window > 1 else ""
    figure.suptitle(" · ".join(filter(None, [title, note])), x=0.01, ha="left", fontsize=9, color=_GREY)
    try:
        figure.savefig(path)
    except OSError as error:
        raise UserError(f"{path}: cannot write the curves there ({error.strerror})") from error


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


def _draw(ax: Axes, steps: np.ndarray, values: np.ndarray, window: int) -> None:
    if window > 1:
        ax.plot(steps, values, color=_COLOUR, alpha=0.25, linewidth=0.8)
    ax.plot(steps, smooth(values, window), color=_COLOUR, linewidth=1.8, marker="o" if len(steps) == 1 else "")
    ax.grid(axis="y", color="#d0d7de", linewidth=0.6)
    ax.set_axisbelow(True)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color("#8c959f")
    ax.tick_params(labelsize=8, colors=_GREY, length=0)
    if np.nanmin(values) >= 0:
        ax.set_ylim(bottom=0)  # a small change must not look like a large one
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
