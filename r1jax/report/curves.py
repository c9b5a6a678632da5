"""Pictures: runs as small panels, one a metric, over steps; models as pass@k over k and as bars of pass@1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from r1jax.disk import replacing
from r1jax.errors import UserError
from r1jax.report.colours import Look, looks
from r1jax.report.comparison import Evaluation, shown_ks

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
_INK, _GREY = "#24292f", "#57606a"


def plot_curves(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    path: Path | str,
    title: str = "",
    models: Mapping[str, str] | None = None,
) -> None:
    """Draws the known metrics of runs as small multiples: each step faint, a centred moving average bold.

    runs: name -> the rows of metrics.jsonl; a value that is absent or null leaves a gap, a metric without any value
    has no panel, and without panels there is no file. title: the run's, with its model and seed. models: run -> its
    model in r1jax.report.colours; the run's name where not given. The ending of ``path`` chooses the format (png,
    svg, pdf). Raises UserError where it cannot be written.
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
    found = _looks(runs, models)
    for ax, (key, heading, unit, share) in zip(axes, panels, strict=False):
        for name in runs:
            if np.isfinite(series[key, name]).any():
                _draw(ax, steps[name], series[key, name], found[name], name)
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
    _title(figure, " · ".join(filter(None, [title, *(runs if len(runs) == 1 else ()), note])))
    _save(figure, path)


def plot_pass_at_k(
    evaluations: Mapping[str, Evaluation], path: Path | str, title: str = "", models: Mapping[str, str] | None = None
) -> None:
    """Draws pass@k over k of several models with 95% intervals as bands, k on a logarithmic axis.

    Sharpening shows as lines that meet or cross where k is large, a new ability as lines that stay apart (arXiv
    2402.03300, section 5.2.2). Arguments and errors as in plot_curves.
    """
    figure = Figure(figsize=(7.2, 4.8), dpi=150, facecolor="white", layout="constrained")
    ax = figure.subplots()
    found = _looks(evaluations, models)
    for name, one in evaluations.items():
        look, ks = found[name], list(one.pass_at)
        ends = [one.intervals[f"pass_at_{k}"] for k in ks]
        style = {"color": look.colour, "linestyle": look.line, "linewidth": 1.8, "marker": look.marker, "markersize": 4}
        ax.plot(ks, list(one.pass_at.values()), label=name, markevery=[k in shown_ks(ks[-1]) for k in ks], **style)
        if all(ends):
            low, high = np.array(ends).T
            ax.fill_between(ks, low, high, color=look.colour, alpha=0.12, linewidth=0)
    _settle(ax, "pass@k", "share of the problems")
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set_xlabel("k", fontsize=8, color=_GREY)
    _name(figure, [ax], 3)
    _title(figure, " · ".join(filter(None, [title, "bands: 95% bootstrap intervals over problems"])))
    _save(figure, path)


def plot_headline(
    evaluations: Mapping[str, Evaluation], path: Path | str, title: str = "", models: Mapping[str, str] | None = None
) -> None:
    """Draws pass@1 of several models as bars, each with its value and 95% interval; arguments as in plot_curves."""
    figure = Figure(figsize=(7.2, 1.1 + 0.42 * len(evaluations)), dpi=150, facecolor="white", layout="constrained")
    ax = figure.subplots()
    found = _looks(evaluations, models)
    for at, (name, one) in enumerate(evaluations.items()):
        value, ends = one.pass_at[1], one.intervals["pass_at_1"]
        ax.barh(at, value, height=0.62, color=found[name].colour)
        if ends is not None:
            ax.plot(ends, [at, at], color=_INK, linewidth=1.4, marker="|", markersize=7)
        edge = max(value, ends[1] if ends else 0)
        ax.text(edge + 0.015, at, f"{100 * value:.1f}%", va="center", fontsize=9, color=_INK)
    _settle(ax, "pass@1", "")
    ax.grid(visible=False)
    ax.set_yticks(range(len(evaluations)), list(evaluations), fontsize=9, color=_INK)
    ax.set_ylim(len(evaluations) - 0.5, -0.5)
    ax.set_xlim(0, 1.1)
    ax.set_xticks(np.linspace(0, 1, 6))
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    _title(figure, " · ".join(filter(None, [title, "lines: 95% bootstrap intervals over problems"])))
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


def _looks(names: Mapping[str, Any], models: Mapping[str, str] | None) -> dict[str, Look]:
    return dict(zip(names, looks([(models or {}).get(name, name) for name in names]), strict=True))


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _window(steps: np.ndarray) -> int:
    return max(1, len(steps) // 20)


def _draw(ax: Axes, steps: np.ndarray, values: np.ndarray, look: Look, name: str) -> None:
    window = _window(steps)
    if window > 1:
        ax.plot(steps, values, color=look.colour, alpha=0.25, linewidth=0.8)
    marker = "o" if len(steps) == 1 else ""
    style = {"color": look.colour, "linestyle": look.line, "linewidth": 1.8, "marker": marker}
    ax.plot(steps, smooth(values, window), label=name, **style)


def _settle(ax: Axes, heading: str, unit: str) -> None:
    """The looks that all panels share, once their lines are drawn."""
    ax.set_title(heading, loc="left", fontsize=10, fontweight="bold", color=_INK)
    ax.set_ylabel(unit, fontsize=8, color=_GREY)
    ax.grid(axis="y", color="#d0d7de", linewidth=0.6)
    ax.set_axisbelow(True)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color("#8c959f")
    ax.tick_params(labelsize=8, colors=_GREY, length=0)
    if all(np.nanmin(line.get_ydata()) >= 0 for line in ax.lines):
        ax.set_ylim(bottom=0)  # a small change must not look like a large one
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def _name(figure: Figure, axes: Sequence[Axes], columns: int) -> None:
    """A legend below the figure, of every line once."""
    lines = {text: line for ax in axes for line, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(
        lines.values(),
        lines.keys(),
        loc="outside lower left",
        ncols=columns,
        fontsize=8,
        frameon=False,
        labelcolor=_INK,
        handlelength=3,
    )


def _title(figure: Figure, text: str) -> None:
    figure.suptitle(text, x=0.01, ha="left", fontsize=9, color=_GREY)


def _save(figure: Figure, path: Path | str) -> None:
    path = Path(path)
    try:
        with replacing(path) as part:
            figure.savefig(part, format=path.suffix[1:])
    except OSError as error:
        raise UserError(f"{path}: cannot write the curves there ({error.strerror})") from error
