"""The comparison of algorithms: runs of R1-Zero that differ in the algorithm and the seed alone."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from r1jax import cli
from r1jax.disk import write_whole
from r1jax.errors import UserError
from r1jax.evaluation.paired import Change
from r1jax.evaluation.seeds import over_seeds
from r1jax.report.ablation import reading
from r1jax.report.curves import add_legend, add_title, finish_axes, save_figure, smooth
from r1jax.report.finished_runs import FinishedRun, check_alike, check_same_training
from r1jax.report.rendering import markdown_table, render, to_html
from r1jax.report.style import GREY, GRID, ModelStyle, model_styles
from r1jax.report.zero_run import TRAINING
from r1jax.training.metrics import read_metrics

FILE, PICTURE = "summary.json", "curves.png"
_NAME = re.compile(r"(.+)-seed[0-9]+")
_PARTS = ("sampling", "rewards", "update")
_CLASS = f"algorithm.{cli.CLASS}"
_SHOWN = ("learning_rate", "minibatches", "inner_epochs", "group")  # settings in the table


@dataclasses.dataclass(frozen=True)
class Curve:
    """The metrics of one run by step, and what it had used after each step."""

    seed: int
    samples: tuple[int, ...]  # sampled so far, those of dropped groups included
    seconds: tuple[float, ...]  # of training so far; the first step, which compiles, counts as a median one
    reward: tuple[float, ...]  # mean of all samples
    accuracy: tuple[float, ...]  # mean of the samples in the batch


@dataclasses.dataclass(frozen=True)
class Entry:
    """The runs of one algorithm."""

    label: str
    seeds: tuple[int, ...]
    settings: Mapping[str, Any]  # of RL, by dotted name
    before: Change  # pass@1 of the base: mean over seeds, 95% t-interval over seeds
    after: Change
    gain: Change
    lead: Change  # pass@1 less that of the first algorithm, paired by seed
    steps: int
    samples: float  # means over seeds from here on
    tokens: float
    seconds: Mapping[str, float]  # sampling, rewards and update, without the first step; first_step
    peak_bytes: int | None  # the largest of all seeds; None if no device reports it
    curves: tuple[Curve, ...]


def algorithm_entries(runs: Sequence[FinishedRun]) -> list[Entry]:
    """The runs by algorithm, in the order in which the algorithms appear.

    The folder of a run is named ALGORITHM-seedN. Raises UserError for another name, for runs of other problems, for
    runs of one algorithm with different settings, and for runs with the same seed and different bases.
    """
    check_alike(runs)
    by_label: dict[str, list[FinishedRun]] = {}
    bases: dict[int, FinishedRun] = {}
    for run in runs:
        if not (match := _NAME.fullmatch(run.folder.resolve().name)):
            raise UserError(f"{run.folder}: name the folder of a run ALGORITHM-seedN, such as grpo-seed0")
        same = bases.setdefault(run.seed, run)
        if same.base != run.base:
            raise UserError(f"{run.folder} and {same.folder} have the same seed and different base models")
        group = by_label.setdefault(match[1], [])
        group.append(run)
        check_same_training(group)
    first = {run.seed: run.after.pass_at[1] for run in next(iter(by_label.values()))}
    return [_entry(label, group, first) for label, group in by_label.items()]


def _entry(label: str, runs: Sequence[FinishedRun], first: Mapping[int, float]) -> Entry:
    rows = [read_metrics(run.folder / TRAINING) for run in runs]
    curves = tuple(_curve(run, steps) for run, steps in zip(runs, rows, strict=True))
    settings = runs[0].training["settings"]["rl"]
    before, after = np.array([(run.before.pass_at[1], run.after.pass_at[1]) for run in runs]).T
    lead = [run.after.pass_at[1] - first[run.seed] for run in runs if run.seed in first]
    later = {part: np.mean([sum(row[f"seconds_{part}"] for row in steps[1:]) for steps in rows]) for part in _PARTS}
    peaks = [peak for run in runs if (peak := run.training["figures"].get("peak_bytes"))]
    return Entry(
        label=label,
        seeds=tuple(run.seed for run in runs),
        settings={name: value for name, (value, _) in cli.diff(settings, {}).items()},
        before=over_seeds(before),
        after=over_seeds(after),
        gain=over_seeds(after - before),
        lead=over_seeds(np.array(lead)) if lead else Change(float("nan"), None),
        steps=len(rows[0]),
        samples=float(np.mean([curve.samples[-1] for curve in curves])),
        tokens=float(np.mean([sum(row["tokens"] for row in steps) for steps in rows])),
        seconds={name: float(x) for name, x in later.items()}
        | {"first_step": float(np.mean([steps[0]["seconds"] for steps in rows]))},
        peak_bytes=max(peaks) if peaks else None,
        curves=curves,
    )


def _curve(run: FinishedRun, rows: Sequence[Mapping[str, Any]]) -> Curve:
    rl = run.training["settings"]["rl"]
    samples = np.cumsum([rl["prompts"] * rl["group"] * row["rollout_attempts"] for row in rows])
    seconds = np.array([row["seconds"] for row in rows])
    seconds[0] = np.median(seconds[1:]) if len(seconds) > 1 else seconds[0]
    return Curve(
        seed=run.seed,
        samples=tuple(samples.astype(int).tolist()),
        seconds=tuple(np.cumsum(seconds).round(3).tolist()),
        reward=tuple(round(row.get("unfiltered_reward", row["reward"]), 5) for row in rows),
        accuracy=tuple(round(row["reward_accuracy"], 5) for row in rows),
    )


def write_comparison(runs: Sequence[FinishedRun], folder: Path, title: str) -> list[Entry]:
    """Writes summary.json, curves.png, report.md and report.html into ``folder``; raises as algorithm_entries."""
    entries, made_by = algorithm_entries(runs), runs[0].training["made_by"]
    folder.mkdir(parents=True, exist_ok=True)
    plot_algorithms(entries, folder / PICTURE, title)
    devices = list(dict.fromkeys(run.training["made_by"]["device"] for run in runs))
    versions = {name: made_by[name] for name in ("python", "r1jax", "jax")}
    page = render(
        "algorithms.md.j2",
        title=title,
        table=algorithms_table(entries),
        first=entries[0].label,
        problems=runs[0].before.n_problems,
        samples=runs[0].before.samples_per_problem,
        temperature=runs[0].temperature,
        devices=devices,
        versions=versions,
        picture=PICTURE,
        settings=settings_table(entries),
    )
    write_whole(folder / "report.md", page)
    write_whole(folder / "report.html", to_html(page, title, folder))
    summary = {
        "device": devices,
        "versions": versions,
        "model": made_by["model"],
        "commands": [run.training["made_by"]["command"] for run in runs],
        "held_out_problems": runs[0].before.n_problems,
        "samples_per_problem": runs[0].before.samples_per_problem,
        "algorithms": [dataclasses.asdict(entry) for entry in entries],
    }
    write_whole(folder / FILE, json.dumps(summary) + "\n")
    return entries


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A comparison as write_comparison stores it."""

    entries: tuple[Entry, ...]
    about: Mapping[str, Any]  # device, versions, model, commands, held_out_problems and samples_per_problem


def read_comparison(folder: Path | str) -> Comparison | None:
    """The comparison in a folder; None if there is no summary.json."""
    path = Path(folder) / FILE
    if not path.exists():
        return None
    about = json.loads(path.read_text())
    return Comparison(tuple(_stored_entry(entry) for entry in about.pop("algorithms")), about)


def _stored_entry(stored: Mapping[str, Any]) -> Entry:
    changes = {}
    for name in ("before", "after", "gain", "lead"):
        value, ends = stored[name]["value"], stored[name]["interval"]
        changes[name] = Change(value, None if ends is None else (ends[0], ends[1]))
    series = ("samples", "seconds", "reward", "accuracy")
    curves = tuple(
        Curve(seed=curve["seed"], **{name: tuple(curve[name]) for name in series}) for curve in stored["curves"]
    )
    return Entry(**{**stored, **changes, "seeds": tuple(stored["seeds"]), "curves": curves})


def leads_table(entries: Sequence[Entry]) -> str:
    """Markdown: pass@1 after training, and its difference from the first algorithm, read as "no difference" or not."""
    head = ("algorithm", "seeds", "pass@1, %", f"against {entries[0].label}, points", "")
    rows = [
        [
            entry.label,
            str(len(entry.seeds)),
            _percent(entry.after),
            *([_percent(entry.lead, "+"), reading(entry.lead)] if at else ["", ""]),
        ]
        for at, entry in enumerate(entries)
    ]
    return markdown_table(head, rows, align="lrrrl")


def algorithms_table(entries: Sequence[Entry]) -> str:
    """Markdown: pass@1 before and after, and time, tokens and memory of training."""
    head = ("algorithm", "seeds", "pass@1 before, %", "after, %", f"against {entries[0].label}, points", "samples")
    head += ("tokens", "sampling, s", "rewards, s", "update, s", "first step, s", "peak memory, MiB")
    rows = [
        [
            entry.label,
            ", ".join(map(str, entry.seeds)),
            _percent(entry.before),
            _percent(entry.after),
            _percent(entry.lead, "+") if at else "",
            f"{entry.samples:,.0f}",
            f"{entry.tokens:,.0f}",
            *(f"{entry.seconds[part]:.1f}" for part in (*_PARTS, "first_step")),
            _mebibytes(entry),
        ]
        for at, entry in enumerate(entries)
    ]
    return markdown_table(head, rows, align="l" + "r" * (len(head) - 1))


def costs_table(entries: Sequence[Entry]) -> str:
    """Markdown: samples, tokens, seconds of training without the first step, and peak memory, of each algorithm."""
    head = ("algorithm", "samples", "tokens", "time of training, s", "peak memory, MiB")
    rows = [
        [
            entry.label,
            f"{entry.samples:,.0f}",
            f"{entry.tokens:,.0f}",
            f"{sum(entry.seconds[part] for part in _PARTS):.1f}",
            _mebibytes(entry),
        ]
        for entry in entries
    ]
    return markdown_table(head, rows, align="lrrrr")


def _mebibytes(entry: Entry) -> str:
    return f"{entry.peak_bytes / 2**20:,.0f}" if entry.peak_bytes else "not reported"


def settings_table(entries: Sequence[Entry]) -> str:
    """Markdown: learning rate, updates and group of each algorithm, and its other settings that the first has not."""
    first = entries[0].settings
    rows = []
    for entry in entries:
        others = [
            f"{name.removeprefix('algorithm.').replace('_', '-')}={value}"
            for name, value in entry.settings.items()
            if name not in _SHOWN and name != _CLASS and value != first.get(name)
        ]
        rows.append([entry.label, *(str(entry.settings[name]) for name in _SHOWN), " ".join(others)])
    head = ("algorithm", *(name.replace("_", " ") for name in _SHOWN), f"other settings than {entries[0].label}")
    return markdown_table(head, rows, align="lrrrrl")


def plot_algorithms(entries: Sequence[Entry], path: Path | str, title: str = "") -> None:
    """Draws reward and accuracy of the training samples at equal samples and at equal time.

    Lines are means over seeds of centred moving averages over a twentieth of the steps; bands reach from the lowest to
    the highest seed. Raises UserError if the path cannot be written.
    """
    figure = Figure(figsize=(10.5, 7), dpi=150, facecolor="white", layout="constrained")
    panels = figure.subplots(2, 2, sharey="row")
    for row, metric in zip(panels, ("reward", "accuracy"), strict=True):
        draw_algorithms(row, entries, metric)
    add_legend(figure, [panels[0, 0]], 5)
    add_title(figure, " · ".join(filter(None, [title, "bands: lowest to highest seed"])))
    save_figure(figure, path)


def draw_algorithms(row: Sequence[Axes], entries: Sequence[Entry], metric: Literal["reward", "accuracy"]) -> None:
    """Draws a metric as plot_algorithms does, on two axes: at equal samples and at equal time."""
    styles = model_styles([entry.label for entry in entries])
    for ax, (unit, text) in zip(row, (("samples", "equal samples"), ("seconds", "equal time")), strict=True):
        for entry, style in zip(entries, styles, strict=True):
            _draw(ax, entry, metric, unit, style)
        finish_axes(ax, f"{metric.capitalize()} at {text}", "mean of the samples" if unit == "samples" else "")
        ax.set_xlabel("samples" if unit == "samples" else "seconds of training", fontsize=8, color=GREY)
        if metric == "accuracy":
            ax.yaxis.set_major_formatter(PercentFormatter(1.0))


def draw_final(ax: Axes, entries: Sequence[Entry]) -> None:
    """Draws pass@1 after training with its 95% t-interval over seeds, a row for each algorithm; dotted: the bases."""
    styles = model_styles([entry.label for entry in entries])
    for at, (entry, style) in enumerate(zip(entries, styles, strict=True)):
        low, high = entry.after.interval or (entry.after.value, entry.after.value)
        ax.plot([low, high], [at, at], color=style.colour, linewidth=1.6)
        ax.plot(entry.after.value, at, marker=style.marker, color=style.colour, markersize=6)
    ax.axvline(float(np.mean([entry.before.value for entry in entries])), color=GREY, linewidth=1, linestyle=":")
    finish_axes(ax, "pass@1 after training", "")
    ax.grid(axis="x", color=GRID, linewidth=0.6)
    ax.set_yticks(range(len(entries)), [entry.label for entry in entries])
    ax.set_ylim(len(entries) - 0.5, -0.5)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))


def _draw(ax: Axes, entry: Entry, metric: str, unit: str, style: ModelStyle) -> None:
    steps = min(len(curve.samples) for curve in entry.curves)
    window = max(1, steps // 20)
    x = np.mean([getattr(curve, unit)[:steps] for curve in entry.curves], axis=0)
    values = np.array([smooth(np.array(getattr(curve, metric)[:steps]), window) for curve in entry.curves])
    ax.plot(x, values.mean(axis=0), color=style.colour, linestyle=style.line, linewidth=1.6, label=entry.label)
    ax.fill_between(x, values.min(axis=0), values.max(axis=0), color=style.colour, alpha=0.1, linewidth=0)


def _percent(change: Change, sign: str = "") -> str:
    if np.isnan(change.value):
        return "no common seed"
    value, ends = f"{100 * change.value:{sign}.1f}", change.interval
    return value + (f" [{100 * ends[0]:{sign}.1f}, {100 * ends[1]:{sign}.1f}]" if ends else "")
