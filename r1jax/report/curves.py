"""Pictures: training curves with one panel per metric, pass@k over k, and bars of pass@1."""

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
from r1jax.evaluation.seeds import half_width
from r1jax.evaluation.summary import Evaluation, shown_ks
from r1jax.report.style import AXIS, GREY, GRID, INK, PANELS, ModelStyle, model_styles

_COLUMNS = 4  # of panels


def plot_curves(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    path: Path | str,
    title: str = "",
    models: Mapping[str, str] | None = None,
) -> None:
    """Draws the metrics in PANELS over steps, one panel each: every step faint, a centred moving average bold.

    runs: label -> the rows of metrics.jsonl. A value that is absent or null leaves a gap, a metric without any value
    has no panel, and without panels no file is written. title: the run's name with its model and seed. models: label ->
    the name in MODEL_STYLES; the label itself if not given. The suffix of ``path`` chooses the format (png, svg, pdf).
    Raises UserError if it cannot be written.
    """
    steps = {name: np.array([row["step"] for row in rows]) for name, rows in runs.items()}
    series = {
        (panel.metric, name): np.array([_number(row.get(panel.metric)) for row in rows])
        for panel in PANELS
        for name, rows in runs.items()
    }
    panels = [panel for panel in PANELS if any(np.isfinite(series[panel.metric, name]).any() for name in runs)]
    if not panels:
        return
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    # Unlike a pyplot figure, this needs no display and shares no state with the caller's plots.
    figure = Figure(figsize=(3.2 * columns, 2.5 * rows + 0.3), dpi=150, facecolor="white", layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    styles = _styles(runs, models)
    for ax, panel in zip(axes, panels, strict=False):
        for name in runs:
            if np.isfinite(series[panel.metric, name]).any():
                _draw_metric(ax, steps[name], series[panel.metric, name], styles[name], name)
        finish_axes(ax, panel.title, panel.axis)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
        if panel.percent:
            ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    for ax in axes[max(0, len(panels) - columns) : len(panels)]:
        ax.set_xlabel("step", fontsize=8, color=GREY)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    if len(runs) > 1:
        add_legend(figure, list(axes[: len(panels)]), columns)
    window = max(map(_window, steps.values()))
    note = f"faint: each step; bold: mean of {window} steps" if window > 1 else ""
    add_title(figure, " · ".join(filter(None, [title, *(runs if len(runs) == 1 else ()), note])))
    save_figure(figure, path)


def plot_pass_at_k(
    evaluations: Mapping[str, Evaluation], path: Path | str, title: str = "", models: Mapping[str, str] | None = None
) -> None:
    """Draws pass@k over k of several models with 95% intervals as bands, k on a logarithmic axis.

    If training only made right answers more frequent, the lines meet or cross at large k; if it added an ability, they
    stay apart (arXiv 2402.03300, section 5.2.2). Arguments and errors as in plot_curves.
    """
    figure = Figure(figsize=(7.2, 4.8), dpi=150, facecolor="white", layout="constrained")
    ax = figure.subplots()
    styles = _styles(evaluations, models)
    for name, one in evaluations.items():
        style, ks = styles[name], list(one.pass_at)
        ends = [one.intervals[f"pass_at_{k}"] for k in ks]
        line = {"color": style.colour, "linestyle": style.line, "linewidth": 1.8, "marker": style.marker}
        marked = [k in shown_ks(ks[-1]) for k in ks]
        ax.plot(ks, list(one.pass_at.values()), label=name, markersize=4, markevery=marked, **line)
        if all(ends):
            low, high = np.array(ends).T
            ax.fill_between(ks, low, high, color=style.colour, alpha=0.12, linewidth=0)
    finish_axes(ax, "pass@k", "share of the problems")
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set_xlabel("k", fontsize=8, color=GREY)
    add_legend(figure, [ax], 3)
    add_title(figure, " · ".join(filter(None, [title, "bands: 95% bootstrap intervals over problems"])))
    save_figure(figure, path)


def plot_headline(
    evaluations: Mapping[str, Evaluation], path: Path | str, title: str = "", models: Mapping[str, str] | None = None
) -> None:
    """Draws pass@1 of several models as bars, each with its value and 95% interval; arguments as in plot_curves."""
    figure = Figure(figsize=(7.2, 1.1 + 0.42 * len(evaluations)), dpi=150, facecolor="white", layout="constrained")
    ax = figure.subplots()
    styles = _styles(evaluations, models)
    for at, (name, one) in enumerate(evaluations.items()):
        draw_bar(ax, at, one, 0.62, styles[name].colour, line=1.4, marker=7, font=9)
    finish_bars(ax, list(evaluations), 1.1)
    add_title(figure, " · ".join(filter(None, [title, "lines: 95% bootstrap intervals over problems"])))
    save_figure(figure, path)


def draw_bar(
    ax: Axes, at: float, one: Evaluation, height: float, colour: str, *, line: float, marker: float, font: float
) -> None:
    """Draws pass@1 of an evaluation as a horizontal bar at ``at``, with its value and 95% interval.

    line, marker, font: the width and the ends of the interval, and the size of the value, in points.
    """
    value, ends = one.pass_at[1], one.intervals["pass_at_1"]
    ax.barh(at, value, height=height, color=colour)
    if ends is not None:
        ax.plot(ends, [at, at], color=INK, linewidth=line, marker="|", markersize=marker)
    edge = max(value, ends[1] if ends else 0)
    ax.text(edge + 0.015, at, f"{100 * value:.1f}%", va="center", fontsize=font, color=INK)


def finish_bars(ax: Axes, names: Sequence[str], right: float) -> None:
    """Labels the rows of bars of pass@1, from the top down; right: the end of the horizontal axis, above 1."""
    finish_axes(ax, "pass@1", "")
    ax.grid(visible=False)
    ax.set_yticks(range(len(names)), names, fontsize=9, color=INK)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlim(0, right)
    ax.set_xticks(np.linspace(0, 1, 6))
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))


def plot_axis(
    curves: Mapping[str, np.ndarray],
    final: Sequence[np.ndarray],
    path: Path | str,
    title: str = "",
    labels: tuple[str, str] = ("Reward", "Held-out accuracy"),
) -> None:
    """Draws draw_axis as a file; path as in plot_curves."""
    figure = Figure(figsize=(9.6, 3.8), dpi=150, facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    draw_axis(left, right, curves, final, labels)
    add_legend(figure, [left], _COLUMNS)
    note = "thin: each arm, mean over seeds; bold: mean, with the 95% t-interval over seeds"
    add_title(figure, " · ".join(filter(None, [title, note])))
    save_figure(figure, path)


def draw_axis(
    left: Axes,
    right: Axes,
    curves: Mapping[str, np.ndarray],
    final: Sequence[np.ndarray],
    labels: tuple[str, str] = ("Reward", "Held-out accuracy"),
) -> None:
    """Draws an axis of an ablation: a metric over steps for each value, and a figure of the trained models.

    Arms are thin, each the mean over its seeds; the mean over arms and seeds is bold, with a band or line for its 95%
    t-interval over seeds. Steps are smoothed as in plot_curves.

    curves: NAME=VALUE of the axis -> [A, S, T] for the A arms that have it, S seeds and T steps. final: [A, S] for each
    of them. labels: of the two panels.
    """
    styles = model_styles([f"value {i}" for i in range(len(curves))])
    for at, (name, values) in enumerate(curves.items()):
        style, steps = styles[at], np.arange(values.shape[2])
        line: dict[str, Any] = {"color": style.colour, "linestyle": style.line}
        window = _window(steps)
        for arm in values.mean(axis=1):
            left.plot(steps, smooth(arm, window), alpha=0.35, linewidth=0.6, **line)
        seeds = np.array([smooth(seed, window) for seed in values.mean(axis=0)])
        mean, half = seeds.mean(axis=0), half_width(seeds)
        left.plot(steps, mean, label=name, linewidth=1.8, **line)
        left.fill_between(steps, mean - half, mean + half, color=style.colour, alpha=0.15, linewidth=0)
        arms, seeds = final[at].mean(axis=1), final[at].mean(axis=0)
        spread = at + 0.12 * np.linspace(-1, 1, len(arms)) if len(arms) > 1 else np.full(1, at)
        right.plot(spread, arms, linestyle="", marker=".", markersize=4, color=style.colour, alpha=0.5)
        half = np.nan_to_num(half_width(seeds))
        right.errorbar(
            at, seeds.mean(), half, color=style.colour, marker=style.marker, markersize=6, capsize=4, linewidth=1.8
        )
    for ax, label in ((left, labels[0]), (right, labels[1])):
        finish_axes(ax, label, "")
    # The bands of two or three seeds may be many times as wide as the lines are apart.
    drawn = np.concatenate([line.get_ydata() for line in left.lines])
    low, high = np.nanmin(drawn), np.nanmax(drawn)
    margin = 0.5 * (high - low) or 0.05
    left.set_ylim(max(0, low - margin) if low >= 0 else low - margin, high + margin)
    left.set_xlabel("step", fontsize=8, color=GREY)
    left.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    right.set_xticks(range(len(final)), [name.rpartition("=")[2] for name in curves])
    right.set_xlim(-0.5, len(final) - 0.5)
    right.yaxis.set_major_formatter(PercentFormatter(1.0))


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centred moving average of values [N] over window steps, without NaN entries and positions beyond the ends."""
    kernel = np.ones(window)
    known = np.isfinite(values)
    count = np.convolve(known, kernel, mode="full")
    total = np.convolve(np.where(known, values, 0.0), kernel, mode="full")
    start = (window - 1) // 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return (total / count)[start : start + len(values)]


def _styles(names: Mapping[str, Any], models: Mapping[str, str] | None) -> dict[str, ModelStyle]:
    return dict(zip(names, model_styles([(models or {}).get(name, name) for name in names]), strict=True))


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _window(steps: np.ndarray) -> int:
    return max(1, len(steps) // 20)


def _draw_metric(ax: Axes, steps: np.ndarray, values: np.ndarray, style: ModelStyle, name: str) -> None:
    window = _window(steps)
    if window > 1:
        ax.plot(steps, values, color=style.colour, alpha=0.25, linewidth=0.8)
    marker = "o" if len(steps) == 1 else ""
    line = {"color": style.colour, "linestyle": style.line, "linewidth": 1.8, "marker": marker}
    ax.plot(steps, smooth(values, window), label=name, **line)


def finish_axes(ax: Axes, heading: str, unit: str) -> None:
    """Sets title, grid and ticks of a panel, after its lines are drawn."""
    ax.set_title(heading, loc="left", fontsize=10, fontweight="bold", color=INK)
    ax.set_ylabel(unit, fontsize=8, color=GREY)
    ax.grid(axis="y", color=GRID, linewidth=0.6)
    ax.set_axisbelow(True)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color(AXIS)
    ax.tick_params(labelsize=8, colors=GREY, length=0)
    if all(np.nanmin(line.get_ydata()) >= 0 for line in ax.lines):
        ax.set_ylim(bottom=0)  # so that a small change does not look large
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def add_legend(figure: Figure, axes: Sequence[Axes], columns: int) -> None:
    """Adds a legend below the figure with each label once."""
    lines = {text: line for ax in axes for line, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(
        lines.values(),
        lines.keys(),
        loc="outside lower left",
        ncols=columns,
        fontsize=8,
        frameon=False,
        labelcolor=INK,
        handlelength=3,
    )


def add_title(figure: Figure, text: str) -> None:
    """Adds a grey line above the panels."""
    figure.suptitle(text, x=0.01, ha="left", fontsize=9, color=GREY)


def save_figure(figure: Figure, path: Path | str) -> None:
    """Writes a figure in the format of the path's suffix; raises UserError if it cannot be written."""
    path = Path(path)
    try:
        with replacing(path) as part:
            figure.savefig(part, format=path.suffix[1:])
    except OSError as error:
        raise UserError(f"{path}: cannot write the curves there ({error.strerror})") from error
