"""The report of an ablation: a picture and a table for each axis, and a table of all arms."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from r1jax.ablation.result import Ablation
from r1jax.disk import write_whole
from r1jax.evaluation.paired import Change
from r1jax.evaluation.seeds import over_seeds
from r1jax.report.curves import plot_axis
from r1jax.report.rendering import markdown_table, render, to_html

FIGURE = "accuracy"  # of the held-out problems
_CURVES = {"reward_accuracy": "Accuracy reward", "reward": "Reward"}  # the first that was measured is drawn
_NO_INTERVAL = "one seed gives no interval"


def write_report(result: Ablation, out: Path, title: str, console: Console) -> None:
    """Writes a picture for each axis, report.md, report.html and summary.json, and prints the table of all arms."""
    curve = next(name for name in _CURVES if name in result.metrics)
    labels = _CURVES[curve], f"Held-out {FIGURE} after training"
    sections = []
    for name, values in result.axes.items():
        picture = f"axis-{name.replace('.', '-')}.png"
        curves, finals = by_value(result, name, curve)
        final = dict(zip(map(str, values), finals, strict=True))
        plot_axis(curves, list(final.values()), out / picture, title, labels)
        head = [name, f"held-out {FIGURE}, %", f"change from {values[0]}, points", ""]
        cells = _compared([figures.mean(axis=0) for figures in final.values()])
        table = markdown_table(head, [[value, *own] for value, own in zip(final, cells, strict=True)], "lrrl")
        sections.append({"name": name, "picture": picture, "table": table})
    head, rows = _arms(result)
    note = _note(result)
    page = render(
        "ablation.md.j2",
        title=title,
        headline=headline(result),
        axes=sections,
        arms_table=markdown_table(head, rows, "r" * (len(head) - 1) + "l"),
        note=note,
    )
    write_whole(out / "report.md", page)
    write_whole(out / "report.html", to_html(page, title, out))
    write_whole(out / "summary.json", json.dumps(summary(result), indent=2) + "\n")
    table = Table(title=title, caption=note, box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name in head:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(headline(result), style="bold", markup=False, highlight=False, soft_wrap=True)


def by_value(result: Ablation, axis: str, curve: str) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """What draw_axis draws of an axis: AXIS=VALUE -> a metric [A, S, T], and the final figures [A, S] of each value."""
    arms = {f"{axis}={value}": result.with_value(axis, value) for value in result.axes[axis]}
    curves = {name: result.metrics[curve][own] for name, own in arms.items()}
    return curves, [result.after[FIGURE][own] for own in arms.values()]


def headline(result: Ablation) -> str:
    """One line: the sizes of the ablation, and the held-out figure before and after training."""
    before, after = (over_seeds(part[FIGURE].mean(axis=0)) for part in (result.before, result.after))
    return (
        f"{len(result.arms)} arms x {len(result.seeds)} seeds, {result.steps} steps, "
        f"{result.about['seconds']:,.0f} seconds on {result.about['device']}: mean held-out {FIGURE} "
        f"{100 * before.value:.1f}% -> {100 * after.value:.1f}%"
    )


def summary(result: Ablation) -> dict[str, Any]:
    """All figures of the arms with intervals over seeds, and how they were made, as JSON."""
    arms = []
    for i, arm in enumerate(result.arms):
        figures = {}
        for when, part in (("before", result.before), ("after", result.after)):
            figures |= {f"{name}_{when}": _json(over_seeds(values[i])) for name, values in part.items()}
        change = over_seeds(result.after[FIGURE][i] - result.after[FIGURE][0])
        arms.append({"arm": dict(arm), **figures, "change_from_first_arm": _json(change)})
    return {
        "axes": {name: list(values) for name, values in result.axes.items()},
        "seeds": list(result.seeds),
        "steps": result.steps,
        "interval": "95% t-interval over seeds; changes are paired by seed",
        "arms": arms,
        **result.about,
    }


def _json(change: Change) -> dict[str, Any]:
    return dataclasses.asdict(change)


def _compared(figures: Sequence[np.ndarray]) -> list[list[str]]:
    """Cells for each [S] of figures: its mean, its change from the first, and the reading of the change."""
    rows = []
    for at, values in enumerate(figures):
        change = over_seeds(values - figures[0])
        own = [points(change, "+"), reading(change)] if at else ["", ""]
        rows.append([points(over_seeds(values)), *own])
    return rows


def reading(change: Change) -> str:
    """A change in words: "no difference" where its interval includes 0."""
    if change.interval is None:
        return _NO_INTERVAL
    if not change.excludes_zero:
        return "no difference"
    return "higher" if change.value > 0 else "lower"


def _arms(result: Ablation) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of all arms."""
    head = [*result.axes, "before, %", "after, %", "change from the first arm, points", ""]
    before = [f"{100 * values.mean():.1f}" for values in result.before[FIGURE]]
    settings = [[str(arm[name]) for name in result.axes] for arm in result.arms]
    parts = zip(settings, before, _compared(list(result.after[FIGURE])), strict=True)
    rows = [[*own, start, *cells] for own, start, cells in parts]
    return head, rows


def _note(result: Ablation) -> str:
    seeds = len(result.seeds)
    if seeds < 2:
        return f"Held-out {FIGURE}; {_NO_INTERVAL}, and no difference between arms can be told from chance."
    return (
        f"Held-out {FIGURE}, mean of {seeds} seeds; in brackets the 95% t-interval over seeds, for changes of the "
        "differences paired by seed. No difference: the interval of the change includes 0. One in 20 such intervals "
        "excludes 0 by chance."
    )


def points(change: Change, sign: str = "") -> str:
    """A share in percent, or a change in points, with its interval in brackets; sign "+" shows the sign."""
    text = f"{100 * change.value:{sign}.1f}"
    if change.interval is None:
        return text
    return f"{text} [{', '.join(f'{100 * end:{sign}.1f}' for end in change.interval)}]"
