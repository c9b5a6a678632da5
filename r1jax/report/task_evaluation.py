"""The report of evaluations on tasks: of one model, and of several compared by paired intervals."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from r1jax import cli
from r1jax.disk import write_whole
from r1jax.evaluation.paired import Change, changes, reason_not_paired
from r1jax.evaluation.records import FILE, read_records
from r1jax.evaluation.summary import Evaluation, Interval
from r1jax.report.finished_evaluations import ModelResults, TaskResult, shared_tasks
from r1jax.report.rendering import markdown_table, render, to_html
from r1jax.report.task_figures import plot_tasks, plot_tasks_at_k

PICTURES = {"pass@1": "pass-at-1.png", "pass@k": "pass-at-k.png"}
_HEAD = ("task", "problems", "samples", "pass@1", "pass@n", "cons@n", "in the form", "tokens", "truncated")
_CAPTION = "in percent, with 95% bootstrap intervals over problems"
_SHOWN = 1500  # characters of an example


def write_report(results: ModelResults, out: Path) -> None:
    """Writes report.md, report.html, summary.json and pictures of one model's tasks."""
    title = f"Evaluation · {results.name}"
    pictures = _draw({results.name: results}, list(results.tasks), out, title)
    page = render(
        "task_evaluation.md.j2",
        title=title,
        tables=[markdown_table(_HEAD, rows_of(results), align="lrrrrrrrr")],
        kinds=_kinds(results),
        settings=_settings([results]),
        differences=[],
        pictures=pictures,
        examples=[_example(one) for one in results.tasks.values()],
        made_by=[(results.name, results.made_by)],
    )
    summary = {
        "model": results.name,
        "made_by": dict(results.made_by),
        "tasks": {
            task: {**_figures(one.evaluation), "settings": one.settings, "seconds": one.figures["seconds"]}
            for task, one in results.tasks.items()
        },
    }
    _write(page, title, summary, out)


def write_model_comparison(results: Sequence[ModelResults], out: Path) -> None:
    """Writes report.md, report.html, summary.json and pictures that compare each model with the first one.

    The models' names differ. Raises UserError if there is no task that all have finished.
    """
    tasks, first = shared_tasks(results), results[0]
    title = f"Evaluation · {' · '.join(one.name for one in results)}"
    pictures = _draw({one.name: one for one in results}, tasks, out, title)
    head = ("task", *(one.name for one in results), *(f"{one.name} - {first.name}" for one in results[1:]))
    tables = [
        f"{label}, in percent:\n\n" + markdown_table(head, rows, align="l" + "r" * (len(head) - 1))
        for figure, label in (("pass_at_1", "pass@1"), ("cons", "cons@n, the majority vote of all n samples"))
        if (rows := comparison_rows(results, tasks, figure))
    ]
    page = render(
        "task_evaluation.md.j2",
        title=title,
        tables=tables,
        kinds="",
        settings=_settings(results),
        differences=_differences(results, tasks),
        pictures=pictures,
        examples=[],
        made_by=[(one.name, one.made_by) for one in results],
    )
    paired = {
        other.name: {task: _changes(first.tasks[task].evaluation, other.tasks[task].evaluation) for task in tasks}
        for other in results[1:]
    }
    summary = {
        "models": {one.name: {task: _figures(one.tasks[task].evaluation) for task in tasks} for one in results},
        f"changes from {first.name}": paired,
    }
    _write(page, title, summary, out)


def rows_of(results: ModelResults) -> list[tuple[str, ...]]:
    """A row for each task of a model, under _HEAD."""
    rows = []
    for task, one in results.tasks.items():
        found, n = one.evaluation, one.evaluation.samples_per_problem
        rows.append(
            (
                task,
                str(found.n_problems),
                str(n),
                _cell(found, "pass_at_1"),
                _cell(found, f"pass_at_{n}") if n > 1 else "",
                _cell(found, f"maj_at_{n}") if found.maj_at else "",
                f"{100 * found.format_rate:.1f}",
                f"{found.mean_length:.0f}" if one.figures["counted"] else "",
                f"{100 * found.truncated_share:.1f}",
            )
        )
    return rows


def comparison_rows(results: Sequence[ModelResults], tasks: Sequence[str], figure: str) -> list[tuple[str, ...]]:
    """A row for each task: the figure of each model, and the changes from the first one with paired intervals.

    figure: pass_at_1, or cons for the majority vote of all samples; tasks without it have no row.
    """
    rows = []
    for task in tasks:
        found = [one.tasks[task].evaluation for one in results]
        names = {figure if figure != "cons" else f"maj_at_{one.samples_per_problem}" for one in found}
        if len(names) > 1 or any(next(iter(names)) not in one.figures() for one in found):
            continue
        name = next(iter(names))
        rows.append((task, *(_cell(one, name) for one in found), *(_change(found[0], o, name) for o in found[1:])))
    return rows


def screen_table(results: Sequence[ModelResults]) -> Table:
    """The result for a terminal: all figures of one model, or pass@1 of several with their changes."""
    if len(results) == 1:
        head = ("task", "problems", "samples", "pass@1", "pass@n", "cons@n", "truncated")
        rows = [(*row[:6], row[8]) for row in rows_of(results[0])]
    else:
        names = [one.name for one in results]
        head = ("task", *(f"{name} pass@1" for name in names), *(f"{name} - {names[0]}" for name in names[1:]))
        rows = comparison_rows(results, shared_tasks(results), "pass_at_1")
    # Narrow enough for 80 columns with one model. On a narrower terminal the cells fold, and no text is lost.
    table = Table(caption=_CAPTION, box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for i, name in enumerate(head):
        table.add_column(name, justify="right" if i else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _write(page: str, title: str, summary: Mapping[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "report.md", page)
    write_whole(out / "report.html", to_html(page, title, out))
    write_whole(out / "summary.json", json.dumps(summary, indent=2) + "\n")


def _draw(results: Mapping[str, ModelResults], tasks: Sequence[str], out: Path, title: str) -> list[tuple[str, str]]:
    """Draws the pictures; returns the heading and file of each."""
    out.mkdir(parents=True, exist_ok=True)
    found = {task: {name: one.tasks[task].evaluation for name, one in results.items()} for task in tasks}
    plot_tasks(found, out / PICTURES["pass@1"], title)
    several = {task: models for task, models in found.items() if all(len(one.pass_at) > 1 for one in models.values())}
    if not several:
        (out / PICTURES["pass@k"]).unlink(missing_ok=True)
        return [("pass@1", PICTURES["pass@1"])]
    plot_tasks_at_k(several, out / PICTURES["pass@k"], title)
    return list(PICTURES.items())


def _with_interval(value: float, interval: Interval | None, sign: str = "") -> str:
    ends = "" if interval is None else " [" + ", ".join(f"{100 * end:{sign}.1f}" for end in interval) + "]"
    return f"{100 * value:{sign}.1f}{ends}"


def _cell(evaluation: Evaluation, name: str) -> str:
    return _with_interval(evaluation.figures()[name], evaluation.intervals[name])


def _change(first: Evaluation, second: Evaluation, name: str) -> str:
    if (paired := changes(first, second)) is None:
        return f"not comparable: {reason_not_paired(first, second)}"
    change = paired[name]
    note = "" if change.interval is None or change.excludes_zero else ", no difference"
    return _with_interval(change.value, change.interval, "+") + note


def _changes(first: Evaluation, second: Evaluation) -> dict[str, Any]:
    paired: Mapping[str, Change] = changes(first, second) or {}
    return {name: dataclasses.asdict(change) for name, change in paired.items()}


def _figures(evaluation: Evaluation) -> dict[str, Any]:
    n = evaluation.samples_per_problem
    omitted = ("readable_correct", "mean_length") if not evaluation.mean_length else ("readable_correct",)
    figures = {name: value for name, value in evaluation.figures().items() if name not in omitted}
    intervals = {name: evaluation.intervals[name] for name in figures}
    return {"problems": evaluation.n_problems, "samples": n, **figures, "intervals": intervals}


def _kinds(results: ModelResults) -> str:
    """A table of pass@1 by kind, for the tasks with problems of several kinds; "" if there are none."""
    rows = [
        (task, kind, f"{100 * share:.1f}")
        for task, one in results.tasks.items()
        if len(one.evaluation.accuracy_by_kind) > 1
        for kind, share in one.evaluation.accuracy_by_kind.items()
    ]
    return markdown_table(("task", "kind", "pass@1"), rows, align="llr") if rows else ""


def _settings(results: Sequence[ModelResults]) -> str:
    """A table of the settings of each task of each model."""
    rows = []
    for one in results:
        for task, result in one.tasks.items():
            settings = result.settings
            sampling = settings["sampling"]
            template = settings["template"] or (
                "the task's, in the chat template" if settings["chat"] else "the task's"
            )
            cut = [f"{name} {sampling[name]}" for name in ("top_k", "min_p") if sampling[name]]
            drawn = ", ".join([f"{sampling['temperature']}", f"top-p {sampling['top_p']}", *cut])
            row = (one.name, task, template, drawn, str(sampling["max_tokens"]), str(settings["seed"]))
            rows.append((*row, f"{result.figures['seconds']:.0f}"))
    return markdown_table(("model", "task", "prompt", "temperature", "max tokens", "seed", "seconds"), rows, "llllrrr")


def _differences(results: Sequence[ModelResults], tasks: Sequence[str]) -> list[str]:
    """A line for each task whose settings differ between the first model and another one."""
    lines = []
    for other in results[1:]:
        for task in tasks:
            one, two = (results[0].tasks[task], other.tasks[task])
            free = {*one.manifest.get("may_change", ()), "problems", "chat", "endpoint"}
            found = cli.diff(one.settings, two.settings)
            named = [path for path in found if path.partition(".")[0] not in free]
            if named:
                words = ", ".join(f"{path} {found[path][0]!r} and {found[path][1]!r}" for path in named)
                lines.append(f"{task}, {results[0].name} and {other.name}: {words}")
    return lines


def _example(one: TaskResult) -> tuple[str, str, str, str]:
    """Task, question, the first completion, and how it was judged."""
    record = read_records(one.folder / FILE)[0]
    with (one.folder / "problems.jsonl").open(encoding="utf-8") as file:
        problem = json.loads(file.readline())
    answer = "no answer" if record.answer is None else f"answer {record.answer!r}"
    expected = f", expected {problem['answer']!r}" if problem["answer"] else ""
    verdict = f"{answer}{expected}: {'right' if record.correct else 'wrong'}"
    return one.task, _shortened(problem["question"]), _shortened(record.completion), _shortened(verdict)


def _shortened(text: str) -> str:
    """A text without its middle if it is long, since an answer is at the end."""
    half = _SHOWN // 2
    return text if len(text) <= _SHOWN else f"{text[:half]}\n[... {len(text) - _SHOWN} characters ...]\n{text[-half:]}"
