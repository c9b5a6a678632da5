"""The whole recipe through its commands: all stages, the report, kills between and within stages, a student."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest

from experiments import distill
from experiments.r1 import PRESETS
from r1jax.checkpoints.load import load
from r1jax.data.formats.conversations import read_conversations
from r1jax.data.problems.problem import Problem
from r1jax.data.text.template import find_template
from r1jax.pipeline.plan import finished_stages, make_plan
from r1jax.recipe import cold_start, rejection_sampling
from r1jax.recipe.cold_start import ColdStartSettings
from r1jax.recipe.evaluation import EvaluationSettings, evaluation_stage
from r1jax.recipe.judge import JUDGES
from r1jax.recipe.judged_samples import JudgedSample
from r1jax.recipe.rejection_sampling import RejectionSettings
from r1jax.recipe.table import recipe_stages
from r1jax.report.recipe_run import MODELS
from r1jax.report.style import MODEL_LABELS
from r1jax.rewards import Completion
from r1jax.settings import from_json
from r1jax.sharding import make_mesh
from tests.helpers.commands import call
from tests.helpers.paths import ROOT

# RL, selections and evaluations sample as many times, so that they share compiled programs; so do fine-tunings, and
# teacher and student. tests/recipe/test_sft.py has a student of another depth.
RL = "--{0}.steps 2 --{0}.prompts 6 --{0}.group 2"
ARGUMENTS = " ".join(
    [
        "--pretrain.steps 3 --pretrain.batch 8 --pretrain.corpus.documents 400 --pretrain.num-layers 1",
        "--pretrain.architecture qwen2",
        *(RL.format(name) for name in ("zero", "reasoning-rl", "final-rl")),
        "--general-steps 1 --sampling.max-tokens 40 --cold-start-rows 16",
        *(f"--{name}.problems 6 --{name}.samples 2" for name in ("cold-start-select", "rejection")),
        *(f"--{name}.batch 4 --{name}.schedule constant" for name in ("cold-start-sft", "sft")),
        "--cold-start-sft.epochs 2 --cold-start-sft.learning-rate 1e-3 --sft.epochs 1 --sft.learning-rate 1e-3",
        "--reward-model.epochs 1 --evaluation.problems 6 --evaluation.samples 2 --general-repeats 1",
        "--problems.train-size 40 --verifier.workers 1 --verifier.deadline 60 --save.every 1",
    ]
).split()


def execute(script, *arguments):
    """The output of a command that ends with status 0; wide enough for the rows of a plan."""
    with mock.patch.dict(os.environ, COLUMNS="160"):
        status, stdout, stderr = call(script, *arguments)
    assert status == 0, stderr[-2000:]
    return stdout


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("r1") / "run"
    said = execute("r1.py", "--out", out, *ARGUMENTS)
    (out.parent / "said").write_text(said)
    return out


def test_the_first_line_says_device_weights_and_folder(run):
    first = (run.parent / "said").read_text().splitlines()[0]
    assert first == f"device: 1 x cpu, weights: made in {run / 'base'}, folder: {run}"


def test_every_model_is_made_evaluated_and_reported(run):
    summary = json.loads((run / "summary.json").read_text())
    report = (run / "report.md").read_text()
    for name, label in ((name, MODEL_LABELS[name]) for name in MODELS):
        figures = summary["stages"][f"evaluation_{name}"]["figures"]
        assert figures["reasoning"]["n_problems"] == 6 and figures["general"]["n_problems"] == 6
        assert {"helpfulness", "accuracy", "language"} <= set(figures["general"]["rewards"])
        assert f"| {label} |" in report
    for name in MODELS:
        assert load(run / name).config.num_layers == 1
    for name in ("helpfulness", "harmlessness"):
        assert load(run / name).config.head == "scalar"
    assert "<table>" in (run / "report.html").read_text()


def test_the_data_sets_hold_what_their_counts_say(run):
    for name in ("cold_start_data", "rejection_sampling"):
        figures = json.loads((run / name / "manifest.json").read_text())["figures"]
        conversations = read_conversations(run / name / "conversations.jsonl")
        counts = figures["counts"]
        assert len(conversations) == figures["rows"] == sum(counts.get(n, 0) for n in ("kept", "generated", "general"))
        assert counts["sampled"] == 12


def test_preference_rewards_come_in_the_last_steps_alone(run):
    rows = [json.loads(line) for line in (run / "r1" / "metrics.jsonl").read_text().splitlines()]
    models = [{name for name in row if name in ("reward_helpfulness", "reward_harmlessness")} for row in rows]
    assert not models[0] and models[1]
    assert all("reward_language" in row for row in rows)


def arguments_to_config(out):
    from r1jax import cli

    return cli.parse(PRESETS, "tiny", args=["--out", str(out), *ARGUMENTS])


def test_a_finished_run_has_nothing_left_to_do_and_a_change_reaches_what_follows(run):
    config = arguments_to_config(run)
    assert {one.status for one in make_plan(recipe_stages(config), run)} == {"finished"}
    other = dataclasses.replace(config, reasoning_rl=dataclasses.replace(config.reasoning_rl, learning_rate=1e-3))
    changed = {one.stage.name: one.status for one in make_plan(recipe_stages(other), run)}
    assert changed["reasoning_rl"] == "changed" and changed["rejection_sampling"] == "follows" == changed["r1"]
    assert changed["zero"] == changed["cold_start"] == changed["evaluation_cold_start"] == "finished"
    how = dataclasses.replace(config, remat="block", gather="layer", save=dataclasses.replace(config.save, every=7))
    assert {one.status for one in make_plan(recipe_stages(how), run)} == {"finished"}


def killed(out, file, lines):
    """Starts the command and kills it once ``file`` has ``lines`` lines; True if it was still running."""
    process = subprocess.Popen(
        [sys.executable, "experiments/r1.py", "--out", str(out), *ARGUMENTS, "--until", "reasoning_rl"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None:
        if file.exists() and len(file.read_bytes().splitlines()) >= lines:
            break
        time.sleep(0.01)
    alive = process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return alive


def test_killed_within_stages_the_same_command_ends_with_the_same_bits(run, tmp_path):
    """The stages before RL are finished; their kills are those of any training."""
    out = tmp_path / "run"
    for name in ("base", "evaluation_base", "helpfulness", "harmlessness"):
        shutil.copytree(run / name, out / name)
    assert killed(out, out / "zero" / "metrics.jsonl", 1)
    assert not (out / "zero" / "manifest.json").exists()
    assert killed(out, out / "cold_start" / "metrics.jsonl", 2)
    execute("r1.py", "--out", out, *ARGUMENTS, "--until", "reasoning_rl")
    assert not (out / "sft").exists()
    for name in ("zero", "cold_start", "reasoning_rl"):
        jax.tree.map(np.testing.assert_array_equal, load(run / name).params, load(out / name).params)
    assert (run / "cold_start_data" / "conversations.jsonl").read_bytes() == (
        out / "cold_start_data" / "conversations.jsonl"
    ).read_bytes()


def test_a_student_is_distilled_matched_and_trained_alone(run):
    said = execute(
        "distill.py",
        "--teacher",
        run,
        "--pretrain.steps",
        3,
        "--pretrain.batch",
        8,
        "--pretrain.corpus.documents",
        400,
        "--pretrain.num-layers",
        1,
        *["--sft.epochs", "1", "--sft.batch", "4", "--sft.learning-rate", "1e-3", "--sft.schedule", "constant"],
        *RL.format("rl").split(),
        "--match.steps",
        1,
        "--match.prompts",
        6,
        "--match.samples",
        2,
    )
    out = run / "students" / "qwen2-small"
    assert said.splitlines()[0] == f"device: 1 x cpu, weights: made in {out / 'student'}, folder: {out}"
    report = (run / "report.md").read_text()
    for label in ("student", "student distilled", "student distilled, then matched", "student with RL alone"):
        assert f"| qwen2-small: {label} |" in report
    assert "Distillation beats RL on the student" in report
    assert load(run / "students" / "qwen2-small" / "distilled").config.architecture == "qwen2"


def test_the_plan_is_printed_without_doing_anything(tmp_path):
    printed = execute("r1.py", "--out", tmp_path / "none", "--dry-run", "--until", "cold_start")
    rows = {line.split("│")[1].strip(): line for line in printed.splitlines() if "│" in line}
    assert "left out" in rows["reasoning_rl"] and "left out" not in rows["evaluation_cold_start"]
    assert all("GiB" in rows[name] for name in ("base", "helpfulness", "zero", "cold_start"))
    assert not (tmp_path / "none").exists()


def test_what_only_evaluations_or_only_training_read_concerns_the_others_not(run):
    config = arguments_to_config(run)

    def changed(**changes):
        config_ = dataclasses.replace(config, **changes)
        return {one.stage.name for one in make_plan(recipe_stages(config_), run) if one.status != "finished"}

    evaluations = {f"evaluation_{name}" for name in MODELS}
    late = changed(general=dataclasses.replace(config.general, train_size=20))
    assert late == {"r1", "evaluation_r1"}
    assert not changed(rewrite_prompt="{reasoning}")  # nobody is asked
    assert changed(general=dataclasses.replace(config.general, held_out_size=20)) == evaluations
    assert changed(evaluation=dataclasses.replace(config.evaluation, problems=5)) == evaluations
    assert not changed(verifier=dataclasses.replace(config.verifier, workers=3))
    fewer = changed(problems=dataclasses.replace(config.problems, train_size=30))
    assert "base" not in fewer and "helpfulness" not in fewer and "zero" in fewer
    hotter = changed(sampling=dataclasses.replace(config.sampling, temperature=0.9))
    assert not {"base", "evaluation_base", "helpfulness"} & hotter and {"zero", "sft"} <= hotter


def settings_of(run, stage):
    return json.loads((run / stage / "manifest.json").read_text())["settings"]


def test_a_stage_is_a_function_that_takes_what_a_user_brings(run, tmp_path, monkeypatch):
    problem = Problem("2 + 2?", "4", "sum", language="en")
    text = "<think>two and two</think><answer>4</answer>"
    completion = Completion(text=text, tokens=9, limit=40, finished=True, template=find_template("r1"))
    one = JudgedSample(problem, completion, True)
    for module in (cold_start, rejection_sampling):
        monkeypatch.setattr(module, "sample_policy", lambda *_: [one, one])
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    (tmp_path / "general.jsonl").write_text(json.dumps({"messages": said}) + "\n")

    def made(name, kind, function, stage, inputs, **changes):
        settings = dataclasses.replace(from_json(kind, settings_of(run, stage)), **changes)
        (tmp_path / name).mkdir()
        with jax.set_mesh(make_mesh("1x1")):
            figures = function(settings, inputs, tmp_path / name)
        return figures["counts"], read_conversations(tmp_path / name / "conversations.jsonl")

    first = (ColdStartSettings, cold_start.cold_start_stage, "cold_start_data")
    counts, rows = made("rules", *first, {"policy": run / "zero"}, rows=0)
    assert counts == {"sampled": 2, "kept": 1, "duplicate": 1, "generated": 0, "general": 0} and len(rows) == 1
    third = (RejectionSettings, rejection_sampling.rejection_sampling_stage, "rejection_sampling")
    inputs = {"policy": run / "zero", "general": tmp_path / "general.jsonl"}
    counts, rows = made("general", *third, inputs, general=None, general_repeats=3)
    assert counts == {"sampled": 2, "kept": 1, "duplicate": 1, "generated": 0, "general": 3}
    assert rows.count(said) == 3 and len(rows) == 4
    asked = []
    monkeypatch.setattr(cold_start, "rewrite_by_model", lambda samples, *rest: asked.append(rest) or [])
    inputs = {"policy": run / "zero", "rewriter": run / "base"}
    counts, rows = made("model", *first, inputs, rewrite_prompt="again: {reasoning}", rows=2)
    assert counts == {"generated": 2, "general": 0} and len(rows) == 2
    ((_, model, prompt, limit, folder),) = asked
    assert (model.config.num_layers, prompt, limit) == (1, "again: {reasoning}", 40)
    assert folder == tmp_path / "model" / "rewritten"


def test_a_function_of_the_user_has_the_column_of_the_model_it_replaces(run, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("from r1jax.rewards import reward\n\n@reward\ndef judge(problem, completion):\n    return 0.5\n")
    settings = from_json(EvaluationSettings, settings_of(run, "evaluation_r1"))
    names = tuple((name, f"{file}:judge") for name in JUDGES)
    settings = dataclasses.replace(settings, general=dataclasses.replace(settings.general, judges=(), functions=names))
    with jax.set_mesh(make_mesh("1x1")):
        figures = evaluation_stage(settings, {"policy": run / "r1", "helpfulness_file": file}, tmp_path)
    rewards = figures["general"]["rewards"]
    assert rewards["helpfulness"] == rewards["harmlessness"] == 0.5
    assert "helpfulness" not in figures["reasoning"]["rewards"]


def test_a_student_is_judged_by_the_models_and_functions_that_its_teacher_was_given(run, monkeypatch):
    made = finished_stages(run)
    evaluation, rl = made["evaluation_r1"], made["reasoning_rl"]["settings"]
    judges = {"judges": ["helpfulness"], "functions": [["harmlessness", "mine.py:safe"]]}
    given = {
        "inputs": {"policy": "r1"},
        "paths": {"helpfulness": "/models/kind", "harmlessness_file": "mine.py", "problems": "/not/a/judge.jsonl"},
        "settings": evaluation["settings"] | {"general": evaluation["settings"]["general"] | judges},
    }
    monkeypatch.setattr(distill, "finished_stages", lambda _: made | {"evaluation_r1": evaluation | given})
    graph = {stage.name: stage for stage in distill.student_stages(distill.Config(), run, distill.read_teacher(run))}
    evaluated = graph["evaluation_distilled"]
    assert evaluated.files == {"helpfulness": Path("/models/kind"), "harmlessness_file": Path("mine.py")}
    assert evaluated.settings.general.functions == (("harmlessness", "mine.py:safe"),)
    assert graph["student_rl"].settings.routes == tuple(rl["routes"])
    assert graph["student_rl"].settings.template == graph["evaluation_student"].settings.template == "r1"
    monkeypatch.undo()
    own = {stage.name: stage for stage in distill.student_stages(distill.Config(), run, distill.read_teacher(run))}
    judges = {name: run / name for name in JUDGES}
    assert own["evaluation_distilled"].files == judges
