"""The report of a run of the recipe, made from the manifests of whichever of its stages are finished."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from r1jax import __version__
from r1jax.evaluation.curves import plot_curves
from r1jax.evaluation.recipe_report import (
    Checkpoint,
    answers_table,
    checkpoint,
    findings,
    hacking_watch,
    main_table,
    table,
    to_html,
)
from r1jax.stages.recipe import DATA
from r1jax.stages.run import MANIFEST, write_whole

# stage -> its label in the report, and the stages that its tokens and seconds are the sum of
MODELS = {
    "base": ("base", ("base",)),
    "zero": ("R1-Zero", ("zero",)),
    "cold_start": ("1 cold start", ("cold_start_data", "cold_start")),
    "reasoning_rl": ("2 reasoning RL", ("reasoning_rl",)),
    "reasoning_rl_no_language": ("2 without language reward", ("reasoning_rl_no_language",)),
    "sft": ("4 SFT from base", ("rejection_sampling", "sft")),
    "r1": ("5 R1", ("r1",)),
}
STUDENT_MODELS = {
    "student": ("student", ("student",)),
    "distilled": ("student distilled", ("distilled",)),
    "matched": ("student distilled, then matched", ("matched",)),
    "student_rl": ("student with RL alone", ("student_rl",)),
}
STUDENTS = "students"
EVALUATION = "evaluation_"  # before the name of the stage that it evaluates
CURVES = ("zero", "reasoning_rl", "reasoning_rl_no_language", "r1")


def figures_of(folder: Path) -> dict[str, Any] | None:
    """The figures of a finished stage, or None."""
    manifest = folder / MANIFEST
    return json.loads(manifest.read_text())["figures"] if manifest.exists() else None


def write_report(out: Path, command: str) -> None:
    """Writes report.md, report.html, summary.json and curves of the stages in ``out`` that are finished."""
    found = _checkpoints(out, MODELS, "")
    students: dict[str, dict[str, Checkpoint]] = {}
    for folder in sorted((out / STUDENTS).glob("*/")):
        students[folder.name] = _checkpoints(folder, STUDENT_MODELS, f"{folder.name}: ")
    rows = [*found.values(), *(one for models in students.values() for one in models.values())]
    if not rows:
        return
    text = [f"# The R1 recipe\n\n`{command}`\n"]
    text.append(f"{_setting(rows[0])}\n\n{main_table(rows)}\n{_LEGEND}\n")
    lines = findings(found)
    for models in students.values():
        lines += findings(models)
    if lines:
        text.append("## The paper's story, as this run tells it\n\n" + "\n".join(f"- {line}" for line in lines) + "\n")
    if watch := _watch(out):
        text.append(f"## Reward models\n\n{watch}\n")
    if data := _data(out):
        text.append(f"## Data sets\n\n{data}\n")
    curves = []
    for name in CURVES:
        if (metrics := out / name / "metrics.jsonl").exists() and (out / name / MANIFEST).exists():
            plot_curves(_lines(metrics), out / f"curves-{name}.png", title=MODELS[name][0])
            curves.append(f"![{name}](curves-{name}.png)")
    if curves:
        text.append("## Curves\n\n" + "\n\n".join(curves) + "\n")
    questions = list(rows[0].answers)
    reasoning = [q for q in questions if any(q in one.answers for one in rows)][:4]
    text.append(f"## The same questions\n\nFirst completion of each.\n\n{answers_table(rows, reasoning)}\n")
    general = questions[-6:-2]
    text.append(f"{answers_table(rows, general)}\n")
    page = "\n".join(text)
    write_whole(out / "report.md", page)
    write_whole(out / "report.html", to_html(page, "The R1 recipe"))
    write_whole(out / "summary.json", json.dumps(_summary(out, command), indent=2) + "\n")


_LEGEND = (
    "Shares in percent, of all samples at temperature 1; in brackets the 95% bootstrap interval over problems. "
    "Language: share of the reasoning's words in the question's language. Readable and correct: right, in the format, "
    "in one language, without code, overlong paragraphs or repetition. General tasks: the reply holds the expected "
    "answer. Helpfulness and harmlessness: the reward models' own scores, 0 to 1. Tokens (sampled or learned) and "
    "seconds: of the stages that made the model from what came before, evaluation left out."
)


def _checkpoints(folder: Path, models: dict[str, tuple[str, tuple[str, ...]]], prefix: str) -> dict[str, Checkpoint]:
    found = {}
    for name, (label, stages) in models.items():
        if (evaluation := figures_of(folder / f"{EVALUATION}{name}")) is not None:
            made = [figures for stage in stages if (figures := figures_of(folder / stage)) is not None]
            found[name] = checkpoint(prefix + label, evaluation, made)
    return found


def _setting(one: Checkpoint) -> str:
    r, g = one.reasoning, one.general
    device = jax.devices()[0].device_kind
    return (
        f"{r.n_problems} held-out reasoning problems and {g.n_problems} held-out general prompts, "
        f"{r.samples_per_problem} samples each; {len(jax.devices())} x {device}, jax {version('jax')}, "
        f"Python {platform.python_version()}, r1jax {__version__}."
    )


def _watch(out: Path) -> str:
    lines = []
    for name in ("helpfulness", "harmlessness"):
        if (figures := figures_of(out / name)) is not None:
            right = 100 * figures["held_out_accuracy"]
            lines.append(
                f"- {name}: {right:.1f}% right on {figures['held_out']} held-out judgements, "
                f"{figures['judgements']} learned"
            )
    if (out / "r1" / MANIFEST).exists() and (watch := hacking_watch(_lines(out / "r1" / "metrics.jsonl"))):
        lines.append(f"\nDuring stage 5:\n\n{watch}")
    return "\n".join(lines)


def _data(out: Path) -> str:
    parts = []
    for name in ("cold_start_data", "rejection_sampling"):
        figures = figures_of(out / name)
        if figures is not None:
            rows = [[what, str(count)] for what, count in figures["counts"].items()]
            parts.append(f"{name} ({figures['rows']} rows, {name}/{DATA}):\n\n{table(['', 'count'], rows)}")
    return "\n".join(parts)


def _summary(out: Path, command: str) -> dict[str, Any]:
    stages = {folder.parent.name: figures_of(folder.parent) for folder in sorted(out.glob(f"*/{MANIFEST}"))}
    students = {
        folder.name: {one.parent.name: figures_of(one.parent) for one in sorted(folder.glob(f"*/{MANIFEST}"))}
        for folder in sorted((out / STUDENTS).glob("*/"))
    }
    devices = jax.devices()
    return {
        "command": command,
        "seconds": sum(figures.get("seconds", 0.0) for figures in stages.values() if figures),
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "versions": {
            "python": platform.python_version(),
            "r1jax": __version__,
            **{name: version(name) for name in ("jax", "flax", "optax")},
        },
        "stages": stages,
        "students": students,
    }


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
