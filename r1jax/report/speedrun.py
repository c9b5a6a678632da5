"""Records of speedruns: the small folder that a run leaves, the table of all records, and samples to read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from r1jax import cli
from r1jax.disk import write_whole
from r1jax.errors import UserError
from r1jax.evaluation.summary import Evaluation
from r1jax.recipe.folders import ON_THE_WAY
from r1jax.report.comparison import side_by_side
from r1jax.report.rendering import markdown_table
from r1jax.training.metrics import read_metrics

Manifest = Mapping[str, Any]

RECORD, SAMPLES = "record.json", "samples.jsonl"
TRAINING, BEFORE, AFTER = "speedrun", "before", "after"  # stages
SEEDS = 3  # fresh seeds of an entry
BEGIN, END = "<!-- records: written by experiments/speedrun.py --table -->", "<!-- end of records -->"
_SETS = ("held_out", "transfer")
_KS = (1, 8)


@dataclasses.dataclass(frozen=True)
class Record:
    """One run: the contents of record.json, and its folder."""

    folder: Path
    values: Mapping[str, Any]

    @property
    def counts(self) -> bool:
        """True if the run reached its target under the rules."""
        return not self.values["not_a_record"]

    @property
    def seconds(self) -> float:
        """Seconds on the clock at the last evaluation."""
        return self.values["seconds"]


def write_record(
    folder: Path,
    out: Path,
    stages: Mapping[str, Manifest],
    *,
    entry: str,
    config: Any,
    sha256: str,
    changed: Mapping[str, Any],
    not_a_record: Sequence[str],
) -> Record:
    """Writes record.json, evaluations.jsonl, metrics.jsonl and samples.jsonl of a finished run in ``out``.

    stages: the manifests of the run's stages. entry: the name of the entry. config: all settings. sha256: of the base.
    changed: the settings that differ from those of plain. not_a_record: why the run cannot be a record, besides an
    unreached target.
    """
    training = stages[TRAINING]
    figures, settings = training["figures"], training["settings"]
    reasons = list(not_a_record)
    if figures["starts"] > 1:
        reasons.append("it was resumed, so its clock is not exact")
    if not figures["reached"]:
        reasons.append("it did not reach the target")
    made_by = training["made_by"]
    values = {
        "entry": entry,
        "seed": settings["seed"],
        "target": settings["target"],
        "reached": figures["reached"],
        "not_a_record": reasons,
        "seconds": figures["clock_seconds"],
        "steps": figures["steps"],
        "base": {"name": made_by["model"], "sha256": sha256},
        "changed": dict(changed),
        **{f"{name}_{when}": _figures(stages[when]["figures"], name) for name in _SETS for when in (BEFORE, AFTER)},
        "tokens": figures["tokens"],
        **({"peak_bytes": figures["peak_bytes"]} if "peak_bytes" in figures else {}),
        "device": made_by["device"],
        "versions": {name: made_by[name] for name in ("python", "r1jax", "jax", "flax", "optax")},
        "settings": json.loads(cli.to_json(config)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    rows, steps = _read(out / TRAINING / ON_THE_WAY), read_metrics(out / TRAINING)
    write_whole(folder / ON_THE_WAY, _lines(rows))
    write_whole(folder / "metrics.jsonl", _lines([_rounded(row) for row in steps if row["step"] < figures["steps"]]))
    write_whole(folder / SAMPLES, _lines(_samples(stages)))
    write_whole(folder / RECORD, json.dumps(values, indent=2) + "\n")
    return Record(folder, values)


def read_records(results: Path) -> list[Record]:
    """The records in the folders speedrun-* of ``results``, in the order of their names."""
    paths = sorted(results.glob(f"speedrun-*/{RECORD}"))
    return [Record(path.parent, json.loads(path.read_text())) for path in paths]


def entries(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The entries of one task by name, "plain" first and then the fastest: SEEDS records or more, and no other runs.

    The mean pass@1 of the evaluation after the clock must be at least the target, too.
    """
    named: dict[str, list[Record]] = {}
    for record in records:
        named.setdefault(record.values["entry"], []).append(record)
    whole = {name: runs for name, runs in named.items() if _is_whole(runs)}
    return {name: whole[name] for name in sorted(whole, key=lambda name: (name != "plain", mean_seconds(whole[name])))}


def mean_seconds(runs: Sequence[Record]) -> float:
    """Mean seconds on the clock of some runs."""
    return _mean([run.seconds for run in runs])


def by_task(records: Sequence[Record]) -> dict[tuple[str, float], list[Record]]:
    """The records by name of the base and target; times of other bases or targets are not compared."""
    found: dict[tuple[str, float], list[Record]] = {}
    for record in records:
        found.setdefault((record.values["base"]["name"], record.values["target"]), []).append(record)
    return found


def records_page(records: Sequence[Record]) -> str:
    """The tables of entries as Markdown, those with SEEDS records first, the entry "plain" at the top of each."""
    if not records:
        return "No entry has been handed in yet.\n"
    tasks = by_task(records).items()
    return "\n".join(_entries_table(runs, f"{base}, target {_percent(target)}") for (base, target), runs in tasks)


def write_table(page: Path, results: Path) -> str:
    """Replaces the text between the markers BEGIN and END of a page by the tables of ``results``; returns it.

    Raises UserError if the page has no markers.
    """
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{page} has no lines {BEGIN} and {END}: put them where the table should be")
    table = records_page(read_records(results))
    write_whole(page, f"{before}{BEGIN}\n\n{table}\n{END}{after}")
    return table


def read_samples(folder: Path, count: int, width: int) -> str:
    """The first ``count`` samples of a record, before and after training side by side, as text."""
    path = folder / SAMPLES
    if not path.exists():
        raise UserError(f"no file {path}: give the folder of a record, such as docs/results/speedrun-plain-seed0")
    rows = _read(path)[:count]
    shown = [(f"{row['question']} -> {row['answer']}", _judged(row[BEFORE]), _judged(row[AFTER])) for row in rows]
    return side_by_side(shown, width)


def on_the_way(folder: Path) -> list[dict[str, Any]]:
    """The evaluations on the way of a record."""
    return _read(folder / ON_THE_WAY)


def curve(folder: Path) -> str:
    """The evaluations on the way of a record, a line of text for each."""
    return "\n".join(
        f"step {row['step']}, {row['seconds']:.0f} s: pass@1 {_percent(row['pass_at_1'])} "
        f"[{_percent(row['low'])}, {_percent(row['high'])}], format {_percent(row['format_rate'])}, "
        f"{row['mean_length']:.0f} tokens"
        for row in on_the_way(folder)
    )


def outcome(record: Record) -> str:
    """The result of a run as a line of text."""
    v = record.values
    first, last = (v[f"held_out_{when}"] for when in (BEFORE, AFTER))
    reached = "reached" if v["reached"] else "did not reach"
    line = (
        f"{v['entry']} seed {v['seed']} {reached} {_percent(v['target'])} in {v['seconds']:.0f} s and {v['steps']} "
        f"steps; fresh held-out problems: pass@1 {_percent(first['pass_at_1'])} -> {_percent(last['pass_at_1'])}"
    )
    return line + "".join(f"\nnot a record: {reason}" for reason in v["not_a_record"])


def _entries_table(records: Sequence[Record], title: str) -> str:
    whole = entries(records)
    plain = mean_seconds(whole["plain"]) if "plain" in whole else None
    rows = [_row(name, runs, plain) for name, runs in whole.items()]
    heading = ("entry", "changed", "seconds", "against plain", "by seed", "steps", "pass@1 before", "after", "transfer")
    table = markdown_table(heading, rows, align="llrrrrrrr") if rows else "No entry has three records yet.\n"
    others = [
        f"- {r.values['entry']}, seed {r.values['seed']}: "
        + ("; ".join(r.values["not_a_record"]) or "reached the target")
        + f" ({r.seconds:.0f} s, {r.values['steps']} steps, pass@1 {_percent(r.values['held_out_after']['pass_at_1'])})"
        for r in records
        if r.values["entry"] not in whole
    ]
    devices = ", ".join(dict.fromkeys(r.values["device"] for r in records))
    versions = ", ".join(dict.fromkeys(r.values["versions"]["jax"] for r in records))
    listed = "\nRuns that are no entries:\n\n" + "\n".join(others) + "\n" if others else ""
    return f"### {title}\n\n{table}\nDevice: {devices}; jax {versions}.\n{listed}"


def _is_whole(runs: Sequence[Record]) -> bool:
    """True if an entry has SEEDS records and no other runs, and the fresh evaluation agrees with the target."""
    after = _mean([r.values["held_out_after"]["pass_at_1"] for r in runs])
    return len(runs) >= SEEDS and all(r.counts for r in runs) and after >= runs[0].values["target"]


def _row(name: str, runs: Sequence[Record], plain: float | None) -> tuple[str, ...]:
    seconds, mean = [r.seconds for r in runs], mean_seconds(runs)
    changed = runs[0].values["changed"]
    return (
        name,
        ", ".join(f"`{key}={value}`" for key, value in changed.items()) or "nothing",
        f"{mean:.0f}",
        f"{100 * mean / plain - 100:+.0f}%" if plain and name != "plain" else "",
        ", ".join(f"{one:.0f}" for one in seconds),
        ", ".join(str(r.values["steps"]) for r in runs),
        *(_percent(_mean([r.values[f"held_out_{when}"]["pass_at_1"] for r in runs])) for when in (BEFORE, AFTER)),
        " to ".join(
            _percent(_mean([r.values[f"transfer_{when}"]["pass_at_1"] for r in runs])) for when in (BEFORE, AFTER)
        ),
    )


def _figures(figures: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The figures of one evaluation that a record keeps."""
    evaluation = Evaluation.from_json(figures[name])
    ks = [k for k in _KS if k in evaluation.pass_at]
    return {
        **{f"pass_at_{k}": evaluation.pass_at[k] for k in ks},
        **{f"maj_at_{k}": evaluation.maj_at[k] for k in ks if k in evaluation.maj_at},
        "interval": evaluation.intervals["pass_at_1"],
        **({"interval_over_templates": figures["over_templates"]} if name == "held_out" else {}),
        "format_rate": evaluation.format_rate,
        "mean_length": evaluation.mean_length,
        "truncated_share": evaluation.truncated_share,
        "problems": evaluation.n_problems,
        "samples": evaluation.samples_per_problem,
    }


def _samples(stages: Mapping[str, Manifest]) -> list[dict[str, Any]]:
    """The first completion of held-out problems, before and after."""
    before, after = (stages[when]["figures"]["held_out_completions"] for when in (BEFORE, AFTER))
    return [
        {
            "question": a["question"],
            "answer": a["answer"],
            BEFORE: {"completion": a["completion"], "correct": a["correct"]},
            AFTER: {"completion": b["completion"], "correct": b["correct"]},
        }
        for a, b in zip(before, after, strict=True)
    ]


def _judged(sample: Mapping[str, Any]) -> str:
    return f"[{'right' if sample['correct'] else 'wrong'}] {sample['completion']}"


def _rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of metrics with six significant digits, so that the folder stays small; time keeps all of its digits."""
    return {
        name: float(f"{value:.6g}") if isinstance(value, float) and name != "time" else value
        for name, value in row.items()
    }


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"
