"""The report of a run of the recipe, made from the manifests of whichever of its stages are finished."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from r1jax import __version__
from r1jax.disk import write_whole
from r1jax.pipeline.plan import finished_stages
from r1jax.recipe.judge import JUDGES, judge_of
from r1jax.recipe.make_stage import EVALUATION
from r1jax.recipe.selection import DATA
from r1jax.recipe.table import STUDENTS
from r1jax.report.curves import plot_curves, plot_headline, plot_pass_at_k
from r1jax.report.html import to_html
from r1jax.report.recipe_tables import Checkpoint, answers_table, checkpoint, findings, hacking_watch, main_table, table
from r1jax.rewards.routing import parse_routes
from r1jax.rewards.rules import RULES
from r1jax.training.metrics import read_metrics

Manifest = Mapping[str, Any]

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
CURVES = ("zero", "reasoning_rl", "reasoning_rl_no_language", "r1")


def write_report(out: Path) -> list[Checkpoint]:
    """Writes report.md, report.html, summary.json and pictures of what is finished in ``out`` and its students.

    Returns the rows of the main table. Nothing is written if there is none.

    The HTML file holds its pictures. summary.json leaves out figures by problem, which the manifests hold.
    """
    made = finished_stages(out)
    students = {folder.name: finished_stages(folder) for folder in sorted((out / STUDENTS).glob("*/"))}
    found = _checkpoints(made, MODELS, "")
    taught = {name: _checkpoints(stages, STUDENT_MODELS, f"{name}: ") for name, stages in students.items()}
    all_models = [(name, one) for models in (found, *taught.values()) for name, one in models.items()]
    rows = [one for _, one in all_models]
    if not rows:
        return []
    manifests = [*made.values(), *(one for stages in students.values() for one in stages.values())]
    commands = dict.fromkeys(one["made_by"]["command"] for one in manifests if one.get("made_by"))
    text = ["# The R1 recipe\n\n" + "\n".join(f"    {command}" for command in commands) + "\n"]
    text.append(f"{_setting(rows[0], manifests)}\n\n{main_table(rows)}\n{_LEGEND}{_others(rows)}\n")
    told = findings(found) + [one for models in taught.values() for one in findings(models)]
    if told:
        lines = "\n".join(f"- {one}" for one in told)
        text.append(f"## The paper's story, as this run tells it\n\n{lines}\n\n{_VERDICTS}\n")
    if watch := _watch(out, made):
        text.append(f"## Reward models\n\n{watch}\n")
    if data := _data(made):
        text.append(f"## Data sets\n\n{data}\n")
    text.append(f"## Pictures\n\n{_pictures(out, made, students, all_models)}\n")
    questions = list(rows[0].answers)
    text.append("## The same questions\n\nThe first completion of each model to held-out prompts.\n")
    text += [f"{answers_table(rows, part)}\n" for part in (questions[:4], questions[-6:-2])]
    page = "\n".join(text)
    write_whole(out / "report.md", page)
    write_whole(out / "report.html", to_html(page, _title(made), out))
    summary = {
        "commands": list(commands),
        "findings": [dataclasses.asdict(one) for one in told],
        "stages": _without_problems(made),
        "students": {name: _without_problems(stages) for name, stages in students.items()},
    }
    write_whole(out / "summary.json", json.dumps(summary, indent=2) + "\n")
    return rows


_LEGEND = (
    "Shares in percent, of all samples; in brackets the 95% bootstrap interval over problems. "
    "Language: share of the reasoning's words in the question's language. Readable and correct: right, in the format, "
    "in one language, without code, overlong paragraphs or repetition. General tasks: the reply holds the expected "
    "answer. Helpfulness and harmlessness: the reward models' own scores, 0 to 1. Tokens (sampled or learned) and "
    "seconds: of the stages that made the model from what came before, evaluation left out."
)

_VERDICTS = (
    "Changes are of the same problems in pairs, in brackets the 95% bootstrap interval over problems. Yes, not here: "
    "the interval leaves 0 out. No difference: the change, or all of an interval around 0, is below one point, for "
    "lengths below one percent."
)


def _others(rows: Sequence[Checkpoint]) -> str:
    """A sentence that names the models which answered other problems than the first one; "" if none did."""
    names = [one.label for one in rows if sorted(one.reasoning.problems) != sorted(rows[0].reasoning.problems)]
    return f" On other problems, and not to be compared with {rows[0].label}: {', '.join(names)}." if names else ""


def _title(made: Mapping[str, Manifest]) -> str:
    """The recipe's name with base model and seed, those that the manifests tell."""
    model = next((one["made_by"]["model"] for one in made.values() if "model" in one.get("made_by", {})), None)
    seed = next((one["settings"]["seed"] for one in made.values() if "seed" in one["settings"]), None)
    return " · ".join(["R1 recipe", *([model] if model else []), *([f"seed {seed}"] if seed is not None else [])])


def _pictures(
    out: Path,
    made: Mapping[str, Manifest],
    students: Mapping[str, Mapping[str, Manifest]],
    models: Sequence[tuple[str, Checkpoint]],
) -> str:
    """Draws the pictures of a report, and returns the Markdown that shows them."""
    title = _title(made)
    evaluations = {one.label: one.reasoning for _, one in models}
    names = {one.label: name for name, one in models}
    plot_headline(evaluations, out / "pass-at-1.png", title, names)
    plot_pass_at_k(evaluations, out / "pass-at-k.png", title, names)
    shown = ["![pass@1 of each model](pass-at-1.png)", "![pass@k of each model](pass-at-k.png)"]
    runs = {MODELS[name][0]: read_metrics(out / name) for name in CURVES if name in made}
    trained = {MODELS[name][0]: name for name in CURVES}
    for folder, stages in students.items():
        if "student_rl" in stages:
            label = f"{folder}: {STUDENT_MODELS['student_rl'][0]}"
            runs[label], trained[label] = read_metrics(out / STUDENTS / folder / "student_rl"), "student_rl"
    if runs:
        plot_curves(runs, out / "curves.png", title, trained)
        shown.append("![reinforcement learning, step by step](curves.png)")
    return "\n\n".join(shown)


def _without_problems(made: Mapping[str, Manifest]) -> dict[str, Any]:
    """Manifests without the figures by problem of their evaluations: as many numbers as problems for each figure."""

    def short(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        whole = "by_problem" in value
        return {name: short(part) for name, part in value.items() if not (whole and name in ("problems", "by_problem"))}

    return {name: short(manifest) for name, manifest in made.items()}


def _checkpoints(
    made: Mapping[str, Manifest], models: Mapping[str, tuple[str, tuple[str, ...]]], prefix: str
) -> dict[str, Checkpoint]:
    return {
        name: checkpoint(
            prefix + label, made[EVALUATION + name]["figures"], [made[s]["figures"] for s in stages if s in made]
        )
        for name, (label, stages) in models.items()
        if EVALUATION + name in made
    }


def _setting(one: Checkpoint, manifests: Sequence[Manifest]) -> str:
    r, g = one.reasoning, one.general
    machines = dict.fromkeys(
        ", ".join(
            f"{value}" if name == "device" else f"{name} {value}"
            for name, value in manifest["made_by"].items()
            if name not in ("command", "model", "r1jax")
        )
        for manifest in manifests
        if manifest.get("made_by")
    )
    return (
        f"{r.n_problems} held-out reasoning problems and {g.n_problems} held-out general prompts, "
        f"{r.samples_per_problem} samples each; made on {'; '.join(machines)}; r1jax {__version__}."
    )


def _watch(out: Path, made: Mapping[str, Manifest]) -> str:
    lines = []
    for name in JUDGES:
        if name in made and ("r1" not in made or name in made["r1"]["inputs"]):
            figures = made[name]["figures"]
            right, guess = (100 * figures[key] for key in ("held_out_accuracy", "held_out_guess"))
            lines.append(
                f"- {name}: {right:.1f}% right on {figures['held_out']} held-out judgements, about things that it has "
                f"not seen judged (who does not look: {guess:.1f}%); {figures['judgements']} learned, "
                f"{figures['tokens']:,} tokens, {figures['seconds']:.0f} seconds"
            )
    if "r1" in made:
        settings = made["r1"]["settings"]
        kinds: dict[str, list[str]] = {}
        for kind, mixture in parse_routes(settings["routes"]).items():
            for reward in mixture if judge_of(kind) else ():
                if reward not in RULES:
                    kinds.setdefault(reward.rpartition(":")[2], []).append(kind)
        if watch := hacking_watch(read_metrics(out / "r1"), kinds):
            lines.append(f"\nDuring stage 5:\n\n{watch}")
    return "\n".join(lines)


def _data(made: Mapping[str, Manifest]) -> str:
    parts = []
    for name in ("cold_start_data", "rejection_sampling"):
        if name in made:
            figures = made[name]["figures"]
            counts = figures["counts"]
            rows = [[what, str(count)] for what, count in counts.items()]
            origins = {
                "of the model's own samples": counts.get("kept", 0),
                "written by rules": counts["generated"],
                "general": counts["general"],
            }
            shares = ", ".join(f"{100 * n / figures['rows']:.1f}% {what}" for what, n in origins.items() if n)
            parts.append(f"{name}/{DATA} ({figures['rows']} rows: {shares}):\n\n{table(['', 'count'], rows)}")
    if "cold_start_data" in made and made["cold_start_data"]["inputs"]:
        how = "the model given" if "rewriter" in made["cold_start_data"]["files"] else "rules"
        parts.append(f"The cold start's own samples were rewritten by {how}.\n")
    return "\n".join(parts)
