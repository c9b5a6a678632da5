from __future__ import annotations

import base64
import dataclasses
import json

import pytest
from rich.console import Console

from r1jax.pipeline.execute import execute_pipeline
from r1jax.pipeline.stage import Stage
from r1jax.report.recipe_run import MODELS, write_report
from r1jax.report.recipe_screen import print_recipe
from r1jax.report.style import MODEL_LABELS
from tests.report.helpers import cells, figures, row


def stage(name, inputs=(), **given):
    return Stage(name, made, Settings(**given), {name: name for name in inputs})


@dataclasses.dataclass(frozen=True)
class Settings:
    correct: float = 0.5
    names: str = "abcde"
    routes: tuple[str, ...] = ("sum: accuracy format", "facts: helpfulness format", "safety: mine.py:kind format")


@dataclasses.dataclass(frozen=True)
class Seeded(Settings):
    seed: int = 7


def made(settings, inputs, folder):
    if folder.name.startswith("evaluation_"):
        return figures(settings.correct, names=settings.names)
    if folder.name in ("zero", "r1", "student_rl"):
        rows = [row(i, 0.5, 1.0, 1.0) | {"reward_kind": i / 9, "accuracy_safety": 1 - i / 9} for i in range(8)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    if folder.name == "helpfulness":
        return {"held_out_accuracy": 0.9, "held_out_guess": 0.5, "held_out": 10, "judgements": 90, "tokens": 7} | {
            "seconds": 1.0
        }
    if folder.name == "cold_start_data":
        counts = {"sampled": 50, "wrong": 20, "kept": 30, "generated": 10, "general": 0}
        return {"rows": 40, "counts": counts, "tokens": 5, "seconds": 1.0}
    return {"tokens": 10, "seconds": 1.0}


def graph(zero=0.8):
    stages = [stage("helpfulness")]
    for name, correct in (("zero", zero), ("cold_start_data", 0), ("cold_start", 0.6), ("r1", 0.9)):
        before = tuple(one.name for one in stages[1:] if not one.name.startswith("evaluation"))[-1:]
        stages.append(stage(name, (*before, *(["helpfulness"] if name == "r1" else [])), correct=correct))
        if name in MODELS:
            stages.append(stage(f"evaluation_{name}", (name,), correct=correct))
    return stages


def quiet(stages, out, **options):
    execute_pipeline(
        stages, out, report=lambda _: None, made_by={"command": "python r1.py", "device": "1 x toaster"}, **options
    )


def test_a_run_with_a_student_is_reported_from_its_manifests(tmp_path):
    quiet(graph(), tmp_path)
    student = tmp_path / "students" / "small"
    names = {"student": 0.1, "distilled": 0.7, "student_rl": 0.3}
    stages = [stage(f"{e}{name}", correct=c) for name, c in names.items() for e in ("", "evaluation_")]
    execute_pipeline(
        stages, student, report=lambda _: None, made_by={"command": "python distill.py", "device": "2 x kettle"}
    )
    models = write_report(tmp_path)
    report = (tmp_path / "report.md").read_text()
    table = [line for line in report.partition("Shares in percent")[0].splitlines() if line.startswith("| ")]
    labels = [cell[0] for cell in cells("\n".join(table[2:]))]
    assert labels == [one.label for one in models]
    assert labels == ["R1-Zero", "1 cold start", "5 R1", *(f"small: {MODEL_LABELS[n]}" for n in names)]
    assert "    python r1.py\n    python distill.py\n" in report
    assert "1 x toaster; 2 x kettle" in report
    assert "helpfulness: 90.0% right on 10 held-out judgements" in report
    assert "always answering the most frequent label: 50.0%" in report
    assert "40 rows: 75.0% of the model's own samples, 25.0% written by rules" in report
    assert "helpfulness: no sign of reward hacking" in report and "kind: looks like reward hacking" in report
    assert "Distillation beats RL on the student: **yes**" in report
    page = (tmp_path / "report.html").read_text()
    for picture in ("curves", "pass-at-k", "pass-at-1"):
        assert base64.b64encode((tmp_path / f"{picture}.png").read_bytes()).decode() in page
        assert f"]({picture}.png)" in report
    summary = json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)  # NaN is no JSON
    assert "by_problem" not in json.dumps(summary)
    (finding,) = [one for one in summary["findings"] if one["claim"].startswith("Distillation")]
    assert finding["verdict"] == "yes" and finding["change"]["value"] == pytest.approx(0.4)
    assert summary["stages"]["zero"]["settings"]["correct"] == 0.8
    assert set(summary["students"]["small"]) == {one.name for one in stages}


def test_a_student_that_answered_other_problems_is_named(tmp_path):
    quiet(graph(), tmp_path)
    out = tmp_path / "students" / "small"
    names = {"distilled": ("abcde", 0.7), "student_rl": ("fghij", 0.3)}
    stages = [stage(f"{e}{name}", correct=c, names=n) for name, (n, c) in names.items() for e in ("", "evaluation_")]
    execute_pipeline(stages, out, report=lambda _: None)
    write_report(tmp_path)
    report = (tmp_path / "report.md").read_text()
    assert "On other problems, and therefore not comparable with R1-Zero: small: student with RL alone." in report
    assert "Distillation beats RL on the student: **not comparable**" in report


def test_pictures_name_the_model_and_the_seed(tmp_path):
    stages = [dataclasses.replace(one, settings=Seeded(one.settings.correct)) for one in graph()]
    execute_pipeline(
        stages, tmp_path, report=lambda _: None, made_by={"command": "r1.py", "device": "1", "model": "toy"}
    )
    write_report(tmp_path)
    assert "<title>R1 recipe · toy · seed 7</title>" in (tmp_path / "report.html").read_text()


def test_models_that_were_made_from_an_older_stage_are_not_reported(tmp_path):
    quiet(graph(), tmp_path)
    quiet(graph(zero=0.7), tmp_path, until="evaluation_zero", force=True)
    write_report(tmp_path)
    report = (tmp_path / "report.md").read_text()
    assert "| R1-Zero |" in report and "| 5 R1 |" not in report and "| 1 cold start |" not in report


def test_without_a_model_there_is_no_report(tmp_path):
    quiet(graph(), tmp_path, until="helpfulness")
    assert write_report(tmp_path) == []
    assert not (tmp_path / "report.md").exists()


def test_the_main_figures_are_printed_with_the_path_of_the_report(tmp_path, capsys):
    quiet(graph(), tmp_path)
    print_recipe(write_report(tmp_path), tmp_path, Console(width=160))
    lines = capsys.readouterr().out.splitlines()
    shown = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in lines if line.startswith("│")}
    assert shown == {"R1-Zero": "80.0", "1 cold start": "60.0", "5 R1": "90.0"}
    assert lines[-1] == f"{tmp_path}: report.html, report.md, summary.json, a folder per stage"
    assert write_report(tmp_path / "none") == []
    print_recipe([], tmp_path, Console())
    assert "no report" in capsys.readouterr().out
