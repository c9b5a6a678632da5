"""The report of a run of the recipe, from the manifests and metrics of its finished stages."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from r1jax import __version__
from r1jax.disk import write_whole
from r1jax.pipeline.plan import finished_stages
from r1jax.recipe.folders import CONVERSATIONS, EVALUATION, STUDENTS
from r1jax.report.curves import plot_curves, plot_headline, plot_pass_at_k
from r1jax.report.findings import findings
from r1jax.report.recipe_tables import EvaluatedModel, answers_table, evaluated_model, main_table
from r1jax.report.rendering import percent, render, to_html
from r1jax.report.reward_hacking import hacking_signs
from r1jax.report.style import MODEL_LABELS
from r1jax.report.token_values import token_value_sections
from r1jax.rewards.routing import parse_routes
from r1jax.rewards.rules import RULES
from r1jax.training.metrics import read_metrics

Manifest = Mapping[str, Any]
Manifests = Mapping[str, Manifest]  # by the name of the stage

# Model, by the name of its stage -> the stages whose tokens and seconds are its cost.
MODELS = {
    "base": ("base",),
    "zero": ("zero",),
    "cold_start": ("cold_start_data", "cold_start"),
    "reasoning_rl": ("reasoning_rl",),
    "reasoning_rl_no_language": ("reasoning_rl_no_language",),
    "sft": ("rejection_sampling", "sft"),
    "r1": ("r1",),
}
STUDENT_MODELS = {name: (name,) for name in ("student", "distilled", "matched", "student_rl")}
_TRAINED_BY_RL = ("zero", "reasoning_rl", "reasoning_rl_no_language", "r1")
_REWARD_MODELS = ("helpfulness", "harmlessness")
_DATA_SETS = ("cold_start_data", "rejection_sampling")


def write_report(out: Path) -> list[EvaluatedModel]:
    """Writes report.md, report.html, summary.json and pictures of the finished stages in ``out`` and of its students.

    report.html embeds its pictures. summary.json leaves out the figures by problem, which are in the manifests. Writes
    nothing if no model has been evaluated. Returns the models in the order of the report.
    """
    made = finished_stages(out)
    students = {folder.name: finished_stages(folder) for folder in sorted((out / STUDENTS).glob("*/"))}
    teacher = _evaluated_models(made, MODELS, "")
    taught = [_evaluated_models(stages, STUDENT_MODELS, f"{name}: ") for name, stages in students.items()]
    every_model = [(name, one) for models in (teacher, *taught) for name, one in models.items()]
    models = [one for _, one in every_model]
    if not models:
        return []
    manifests = [*made.values(), *(one for stages in students.values() for one in stages.values())]
    commands = list(dict.fromkeys(one["made_by"]["command"] for one in manifests if one.get("made_by")))
    results = [finding for group in (teacher, *taught) for finding in findings(group)]
    questions = list(models[0].answers)
    page = render(
        "recipe.md.j2",
        commands=commands,
        reasoning=models[0].reasoning,
        general=models[0].general,
        machines=_machines(manifests),
        version=__version__,
        main_table=main_table(models),
        first_label=models[0].label,
        not_comparable=_on_other_problems(models),
        findings=results,
        reward_models=_reward_models(made),
        hacking_signs=_hacking_signs(out, made),
        data_sets=list(_data_sets(made)),
        rewritten_by=_rewritten_by(made),
        pictures=_draw_pictures(out, made, students, every_model),
        answers_tables=[answers_table(models, part) for part in (questions[:4], questions[-6:-2])],
    )
    plain, coloured = token_value_sections({label: folder for label, _, folder in _rl_trainings(out, made, students)})
    write_whole(out / "report.md", f"{page}\n{plain}" if plain else page)
    write_whole(out / "report.html", to_html(f"{page}\n{coloured}", _title(made), out))
    summary = {
        "commands": commands,
        "findings": [dataclasses.asdict(one) for one in results],
        "stages": _summarised(made),
        "students": {name: _summarised(stages) for name, stages in students.items()},
    }
    write_whole(out / "summary.json", json.dumps(summary, indent=2) + "\n")
    return models


def _evaluated_models(made: Manifests, models: Mapping[str, tuple[str, ...]], prefix: str) -> dict[str, EvaluatedModel]:
    """The evaluated models by the name of their stage. prefix: of their labels."""
    return {
        name: evaluated_model(
            prefix + MODEL_LABELS[name],
            made[EVALUATION + name]["figures"],
            [made[stage]["figures"] for stage in stages if stage in made],
        )
        for name, stages in models.items()
        if EVALUATION + name in made
    }


def _on_other_problems(models: Sequence[EvaluatedModel]) -> list[str]:
    """The labels of the models whose evaluation has other problems than that of the first model."""
    first = sorted(models[0].reasoning.problems)
    return [one.label for one in models if sorted(one.reasoning.problems) != first]


def _title(made: Manifests) -> str:
    """The recipe's name with the base model and the seed, if the manifests have them."""
    model = next((one["made_by"]["model"] for one in made.values() if "model" in one.get("made_by", {})), None)
    seed = next((one["settings"]["seed"] for one in made.values() if "seed" in one["settings"]), None)
    return " · ".join(["R1 recipe", *([model] if model else []), *([f"seed {seed}"] if seed is not None else [])])


def _machines(manifests: Sequence[Manifest]) -> list[str]:
    """The devices and library versions that the stages ran with, each combination once."""
    lines = (
        ", ".join(
            f"{value}" if name == "device" else f"{name} {value}"
            for name, value in manifest["made_by"].items()
            if name not in ("command", "model", "r1jax")
        )
        for manifest in manifests
        if manifest.get("made_by")
    )
    return list(dict.fromkeys(lines))


def _draw_pictures(
    out: Path, made: Manifests, students: Mapping[str, Manifests], models: Sequence[tuple[str, EvaluatedModel]]
) -> list[tuple[str, str]]:
    """Draws the pictures of a report, and returns the alternative text and the file name of each."""
    title = _title(made)
    evaluations = {one.label: one.reasoning for _, one in models}
    names = {one.label: name for name, one in models}
    plot_headline(evaluations, out / "pass-at-1.png", title, names)
    plot_pass_at_k(evaluations, out / "pass-at-k.png", title, names)
    pictures = [("pass@1 of each model", "pass-at-1.png"), ("pass@k of each model", "pass-at-k.png")]
    trainings = _rl_trainings(out, made, students)
    if trainings:
        runs = {label: read_metrics(folder) for label, _, folder in trainings}
        plot_curves(runs, out / "curves.png", title, {label: name for label, name, _ in trainings})
        pictures.append(("reinforcement learning, step by step", "curves.png"))
    return pictures


def _rl_trainings(out: Path, made: Manifests, students: Mapping[str, Manifests]) -> list[tuple[str, str, Path]]:
    """Label, name of the stage, and folder of each finished training by RL."""
    own = [(MODEL_LABELS[name], name, out / name) for name in _TRAINED_BY_RL if name in made]
    return own + [
        (f"{student}: {MODEL_LABELS['student_rl']}", "student_rl", out / STUDENTS / student / "student_rl")
        for student, stages in students.items()
        if "student_rl" in stages
    ]


def _summarised(made: Manifests) -> dict[str, Any]:
    """Manifests without the paths of their inputs, and without the figures by problem, which are long."""

    def short(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        omitted = ("problems", "by_problem") if "by_problem" in value else ()
        return {name: short(part) for name, part in value.items() if name not in omitted}

    return {
        stage: {name: short(entry) for name, entry in manifest.items() if name != "paths"}
        for stage, manifest in made.items()
    }


def _reward_models(made: Manifests) -> list[tuple[str, Mapping[str, Any]]]:
    """The name and figures of each reward model that a stage trained, and that stage 5 used if it has run."""
    used = made["r1"]["inputs"] if "r1" in made else _REWARD_MODELS
    return [(name, made[name]["figures"]) for name in _REWARD_MODELS if name in made and name in used]


def _hacking_signs(out: Path, made: Manifests) -> list[str]:
    """Signs of reward hacking in the metrics of stage 5, for each reward that is not a rule."""
    if "r1" not in made:
        return []
    judged: dict[str, list[str]] = {}
    for kind, mixture in parse_routes(made["r1"]["settings"]["routes"]).items():
        for reward in mixture:
            if reward not in RULES:
                judged.setdefault(reward.rpartition(":")[2], []).append(kind)
    return hacking_signs(read_metrics(out / "r1"), judged)


def _data_sets(made: Manifests) -> Iterator[dict[str, Any]]:
    """Path, number of rows, shares of their origins, and counts of each data set."""
    for name in _DATA_SETS:
        if name in made:
            figures = made[name]["figures"]
            counts = figures["counts"]
            origins = {
                "of the model's own samples": counts.get("kept", 0),
                "written by rules": counts["generated"],
                "general": counts["general"],
            }
            rows = figures["rows"]
            yield {
                "path": f"{name}/{CONVERSATIONS}",
                "rows": rows,
                "shares": [f"{percent(count / rows)}% {origin}" for origin, count in origins.items() if count],
                "counts": [[what, str(count)] for what, count in counts.items()],
            }


def _rewritten_by(made: Manifests) -> str:
    """The rewriter of the cold start's samples: rules or a model; "" if it has no samples."""
    if "cold_start_data" not in made or not made["cold_start_data"]["inputs"]:
        return ""
    return "the model given" if "rewriter" in made["cold_start_data"]["files"] else "rules"
