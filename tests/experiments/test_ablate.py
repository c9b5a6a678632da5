"""Ablations as a command: files of a run, resuming, plans, and refused grids."""

import csv
import dataclasses
import functools
import json

import pytest

from experiments.ablate import PRESETS, Config, settings_of, stages
from r1jax import cli
from r1jax.ablation.ablate import ablate
from r1jax.ablation.config import AblationConfig
from r1jax.ablation.result import Ablation
from r1jax.recipe import ablation as recipe
from tests.helpers.ablation import FakeLoop
from tests.helpers.commands import call
from tests.helpers.paths import FIXTURES

SMALL = [
    f"--base={FIXTURES / 'llama_tied'}",
    "--rl.steps=3",
    "--rl.prompts=2",
    "--rl.group=2",
    "--sampling.max-tokens=8",
    "--problems.train-size=20",
    "--problems.held-out-size=5",
    "--chunks.every=2",
]
GRID = ["--grid", "rl.beta=0,0.5", "--grid", "rl.inner-epochs=1,2", "--seeds=3"]


@pytest.fixture
def calls(monkeypatch):
    """The steps that ran of a loop of formulas, in place of the program."""
    ran = []
    made = functools.partial(ablate, make=lambda model, problems, spec, held_out: FakeLoop(spec, ran))
    monkeypatch.setattr(recipe, "ablate", made)
    return ran


def run(*flags):
    return call("ablate.py", *SMALL, *flags)


def test_a_run_leaves_tables_pictures_and_a_report(tmp_path, calls):
    status, stdout, stderr = run(*GRID, f"--out={tmp_path}")
    assert status == 0, stderr
    assert stdout.startswith("device: 1 x cpu, weights: ") and "4 arms x 3 seeds, 3 steps" in stdout
    assert calls == [(0, 2, 6), (2, 1, 6)] * 2
    names = {path.name for path in tmp_path.iterdir()}
    pictures = {"axis-rl-beta.png", "axis-rl-inner-epochs.png"}
    assert {"report.md", "report.html", "summary.json", "config.json", "ablation", *pictures} <= names
    result = Ablation.load(tmp_path / "ablation" / "results.npz")
    assert result.axes == {"rl.beta": (0, 0.5), "rl.inner-epochs": (1, 2)} and result.seeds == (0, 1, 2)
    rows = list(csv.DictReader((tmp_path / "ablation" / "results.csv").open()))
    assert len(rows) == 12 and rows[-1]["rl.beta"] == "0.5" and rows[-1]["seed"] == "2"
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["device"] == "1 x cpu" and len(summary["arms"]) == 4 and summary["jax"]
    status, stdout, _ = run(*GRID, f"--out={tmp_path}")
    assert status == 0 and "is finished" in stdout and len(calls) == 4
    status, _, stderr = run(*GRID[:-1], "--seeds=2", f"--out={tmp_path}")
    assert status == 2 and "was run with other settings (seeds was [0, 1, 2], now [0, 1])" in stderr


def test_the_plan_shows_arms_and_programs_and_makes_nothing(tmp_path, calls):
    status, stdout, _ = run(*GRID, "--dry-run", f"--out={tmp_path / 'none'}")
    assert status == 0 and "4 arms x 3 seeds" in stdout and not (tmp_path / "none").exists() and calls == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "the grid is empty: give at least one axis"),
        (["--grid"], "--grid has no value: expected text"),
        (["--grid", "rl.btea=0,1"], "did you mean --rl.beta?"),
        (["--grid", "rl.beta=0,x"], "--rl.beta=x: expected a number"),
        (["--grid", "rl.eps-low=-1"], "eps-low=-1.0 must be at least 0"),
        (["--grid", "rl.beta=0", "--grid", "rl.beta=1"], "--grid rl.beta is given twice"),
        (["--grid", "rl.beta=0", "--rewards", "accuracy", "language"], "reward language has no form"),
        (["--grid", "rl.beta=0", "--problems.source=countdown"], "has no form in an ablation"),
        (["--grid", "rl.beta=0", "--mesh=2x1"], "an ablation runs on one device"),
        (["--grid", "rl.beta=0", "--sampling.max-tokens=125"], "beyond the model's context of 128"),
        (["--grid", "rl.beta=0", "--seeds=0"], "--seeds=0 must be at least 1"),
        (["--grid", "rl.beta=0", "--measure", "1", "8"], "leave --grid out"),
        (["--measure", "0"], "must be at least 1"),
        (["--measure", "1", "8", "--dry-run"], "leave --dry-run out"),
        (["--grid", "sampling.max-tokens=8,125"], "beyond the model's context of 128"),
        (["--grid", "sampling.slots=1,2"], "sampling.slots=1 has no effect in an ablation"),
        (["--grid", "sampling.draft-slots=32,64"], "sampling.draft-slots has no effect in an ablation"),
        (["--kernels", "mosaic"], "these kernels cannot train several arms at once"),
        (["--grid", "sampling.draft=mtp"], "sampling.draft=mtp is not supported in an ablation"),
        (["--grid", "rl.mtp-weight=0.1"], "rl.mtp-weight: not in an ablation"),
        (["--grid", "seed=1,2"], "may differ in rl.*, sampling.*, rewards.* only"),
        (["--grid", "rl.beta=0", "--base=pretrain", "--problems.terms=3"], "give another --base"),
        (["--grid", "rl.beta=0", "--chunks.every=0"], "every must be at least 1"),
    ],
)
def test_a_wrong_command_is_one_line_before_any_work(flags, message, calls, tmp_path):
    out = tmp_path / "none"
    status, stdout, stderr = run(*flags, f"--out={out}")
    assert status == 2 and stdout == "" and not out.exists() and calls == []
    errors = [line for line in stderr.splitlines() if not line.startswith("warning: ")]
    assert len(errors) == 1 and errors[0].startswith("error: ") and message in errors[0]


def test_every_setting_reaches_the_stages():
    """The arms take their part of the command's settings whole; the others are in one of the two stages."""
    config = cli.parse(PRESETS, "tiny", ["--grid", "rl.beta=0,1", "--dtype=bfloat16", "--seed=3", "--seeds=2"])
    changed = dataclasses.replace(config, template="r1-zero", rewards=("accuracy",))
    assert (settings_of(changed).template, settings_of(changed).rewards) == ("r1-zero", ("accuracy",))
    pretraining, ablation = (stage.settings for stage in stages(config))
    assert ablation.dtype == "bfloat16" and ablation.seeds == (3, 4) and ablation.grid == ("rl.beta=0,1",)
    assert pretraining.seed == 3 and ablation.problems == config.problems
    longer = dataclasses.replace(config, grid=("sampling.max-tokens=24,96",))
    assert stages(longer)[0].settings.max_tokens == 96  # so that the base has the context of all arms
    own = {field.name for field in dataclasses.fields(Config)}
    read = {field.name for part in (AblationConfig, type(ablation)) for field in dataclasses.fields(part)}
    beside = "mesh until only force dry_run track base out seed measure save pretrain"
    assert own == (read - {"arms"}) | set(beside.split())
