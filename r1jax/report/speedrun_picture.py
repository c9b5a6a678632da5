"""The picture of the records of speedruns: accuracy over seconds, and the seconds of each entry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from r1jax.report.curves import add_legend, add_title, finish_axes, save_figure
from r1jax.report.speedrun import BEFORE, Record, entries, mean_seconds, on_the_way
from r1jax.report.style import GREY, INK, ModelStyle, model_styles


def plot_speedruns(records: Sequence[Record], path: Path | str) -> None:
    """Draws the entries among the records of one task (r1jax.report.speedrun.by_task); nothing if there is none.

    Left: held-out pass@1 of each run of "plain" and of the fastest entry over seconds on the clock, with the intervals
    of the evaluations on the way; the first point is the base, on fresh problems. Right: the seconds of each entry.
    """
    whole = entries(records)
    if not whole:
        return
    first = next(iter(whole.values()))[0].values
    styles = dict(zip(whole, model_styles(list(whole)), strict=True))
    fastest = min(whole, key=lambda name: mean_seconds(whole[name]))
    figure = Figure(figsize=(10, 1.9 + max(2.4, 0.34 * len(whole))), dpi=150, facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for name in dict.fromkeys(("plain" if "plain" in whole else fastest, fastest)):
        for run in whole[name]:
            _draw_run(left, run, styles[name], name)
    left.axhline(first["target"], color=INK, linewidth=1, linestyle=":")
    finish_axes(left, "held-out pass@1", "share of the samples")
    left.set_xlabel("seconds from weights in memory, compilation included", fontsize=8, color=GREY)
    left.yaxis.set_major_formatter(PercentFormatter(1.0))
    for at, (name, runs) in enumerate(whole.items()):
        mean = mean_seconds(runs)
        right.barh(at, mean, height=0.6, color=styles[name].colour, alpha=0.35)
        right.plot([run.seconds for run in runs], [at] * len(runs), "o", color=styles[name].colour, markersize=4)
        right.text(0, at, f" {mean:.0f} s", va="center", fontsize=8, color=INK)
    finish_axes(right, "seconds to the target", "")
    right.grid(visible=False)
    right.set_yticks(range(len(whole)), list(whole), fontsize=9, color=INK)
    right.set_ylim(len(whole) - 0.5, -0.5)
    add_legend(figure, [left], 3)
    title = (
        f"{first['base']['name']} · {first['device']} · dotted: the target, {100 * first['target']:.0f}%, which the "
    )
    add_title(figure, f"{title}lower end of the 95% interval has to reach")
    save_figure(figure, path)


def _draw_run(ax: Axes, run: Record, style: ModelStyle, name: str) -> None:
    base, rows = run.values[f"held_out_{BEFORE}"], on_the_way(run.folder)
    seconds = [0.0, *(row["seconds"] for row in rows)]
    line = {"color": style.colour, "linestyle": style.line, "linewidth": 1.6, "marker": style.marker, "markersize": 3}
    ax.plot(seconds, [base["pass_at_1"], *(row["pass_at_1"] for row in rows)], label=name, **line)
    low, high = ([base["interval"][i], *(row[end] for row in rows)] for i, end in enumerate(("low", "high")))
    ax.fill_between(seconds, low, high, color=style.colour, alpha=0.12, linewidth=0)
