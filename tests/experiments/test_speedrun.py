"""Speedruns of a very small model: stopped by the target, by the number of steps and by the clock, and resumed."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from experiments.speedrun import PAGE, PLAIN, PRESETS, RESULTS, changed_settings, check, stages, why_not_a_record
from r1jax import cli
from r1jax.data.problems.dataset import ProblemsConfig
from r1jax.errors import UserError
from r1jax.recipe import speedrun
from r1jax.recipe.speedrun import measure_stage, speedrun_stage
from r1jax.report.speedrun import read_records, records_page
from r1jax.rewards.config import VerifierConfig
from r1jax.sharding import make_mesh
from r1jax.training.loop import SaveConfig
from tests.helpers.commands import call
from tests.helpers.paths import ROOT

BASE = str(ROOT / "tests" / "fixtures" / "qwen2")
SMALL = (
    "--preset=small",
    f"--base={BASE}",
    "--every=2",
    "--rl.prompts=4",
    "--rl.group=2",  # as many samples as in an evaluation and a measurement, which share a compiled program
    "--sampling.max-tokens=12",
    "--save.every=2",
    "--verifier.workers=1",
    "--task.max-tokens=12",
    *("--task.rewards", "length", "accuracy"),
    "--task.problems.train-size=40",
    "--task.evaluation.problems=4",
    "--task.measurement.problems=4",
    "--task.measurement.samples=2",
    "--task.transfer.held-out-size=4",
    "--task.shown=3",
)


def run(out, *flags):
    status, stdout, stderr = call("speedrun.py", f"--out={out}", *SMALL, *flags)
    assert status == 0, stderr
    return stdout


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def record_of(out):
    return json.loads((out / "record" / "record.json").read_text())


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """A run whose target this model cannot reach, and what it printed."""
    out = tmp_path_factory.mktemp("speedrun") / "failed"
    return out, run(out, "--rl.steps=4", "--target=1", "--entry=mine", "--seed=5")


def test_a_run_below_its_target_ends_with_the_evaluations_that_it_has(failed):
    out, stdout = failed
    record, rows = record_of(out), lines(out / "record" / "evaluations.jsonl")
    assert [row["step"] for row in rows] == [2, 4] and 0 < rows[0]["seconds"] < rows[1]["seconds"] == record["seconds"]
    assert all(0 <= row["low"] <= row["pass_at_1"] <= row["high"] <= 1 for row in rows)
    assert (record["entry"], record["seed"], record["steps"], record["reached"]) == ("mine", 5, 4, False)
    assert "it did not reach the target" in record["not_a_record"] and "not reach 100.0%" in stdout
    assert [row["step"] for row in lines(out / "record" / "metrics.jsonl")] == [0, 1, 2, 3]
    for name in ("held_out", "transfer"):
        for when in ("before", "after"):
            figures = record[f"{name}_{when}"]
            assert (figures["problems"], figures["samples"]) == (4, 2) and 0 <= figures["pass_at_1"] <= 1
    assert record["settings"]["rl"]["group"] == 2 and record["versions"]["jax"] and record["device"] == "1 x cpu"
    assert sum(path.stat().st_size for path in (out / "record").iterdir()) < 2**20


def test_the_samples_before_and_after_are_kept_and_shown(failed):
    out, stdout = failed
    samples = lines(out / "record" / "samples.jsonl")
    assert len(samples) == 3 and all(
        {"completion", "correct"} == set(one["before"]) == set(one["after"]) for one in samples
    )
    status, shown, _ = call("speedrun.py", f"--show={out / 'record'}")
    assert status == 0 and all(f"{one['question']} -> {one['answer']}" in shown for one in samples)
    assert samples[0]["question"] in stdout


def train(folder, **changes):
    """Figures and evaluations of the timed training alone."""
    config = dataclasses.replace(cli.parse(PRESETS, "gsm-symbolic", [*SMALL, "--rl.steps=4"]), **changes)
    with jax.set_mesh(make_mesh("1x1")):
        figures = speedrun_stage(stages(config)[0].settings, {"policy": Path(BASE)}, folder)
    return figures, lines(folder / "evaluations.jsonl"), [row["step"] for row in lines(folder / "metrics.jsonl")]


def test_a_run_stops_at_the_first_evaluation_that_passes(tmp_path):
    figures, rows, steps = train(tmp_path / "speedrun", target=0.0)
    assert (figures["reached"], figures["steps"], figures["starts"]) == (True, 2, 1)
    assert ([row["step"] for row in rows], steps) == ([2], [0, 1])


def test_a_run_whose_time_is_over_is_evaluated_and_ends(tmp_path):
    figures, rows, steps = train(tmp_path / "speedrun", target=1.0, minutes=1e-4)
    assert (figures["reached"], figures["steps"]) == (False, 1)
    assert ([row["step"] for row in rows], steps) == ([1], [0])


def test_a_run_that_goes_on_is_no_record(failed, tmp_path):
    shutil.copytree(failed[0], tmp_path / "run")
    before = lines(tmp_path / "run" / "record" / "evaluations.jsonl")
    flags = ("--rl.steps=6", "--target=1", "--entry=mine", "--seed=5")
    # As if it had been killed after the evaluation of a step whose checkpoint is lost.
    stale = [*before, {**before[-1], "step": 6, "seconds": 1e6}]
    (tmp_path / "run" / "speedrun" / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in stale))
    run(tmp_path / "run", *flags)
    record, rows = record_of(tmp_path / "run"), lines(tmp_path / "run" / "record" / "evaluations.jsonl")
    assert [row["step"] for row in rows] == [2, 4, 6] and rows[:2] == before
    assert before[1]["seconds"] < rows[2]["seconds"] < 1e6
    assert "it was resumed, so its clock is not exact" in record["not_a_record"]


@pytest.fixture
def compilation_cache(tmp_path):
    """The folder of a new compilation cache, which stores every program."""
    settings = {
        "jax_enable_compilation_cache": True,
        "jax_compilation_cache_dir": str(tmp_path / "xla"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    reset_cache()
    yield tmp_path / "xla"
    for name, value in before.items():
        jax.config.update(name, value)
    reset_cache()


def test_programs_are_stored_again_when_the_clock_is_stopped(compilation_cache, monkeypatch, tmp_path):
    def compile_one(*_):
        jax.jit(lambda x: x + 1).lower(1.0).compile()

    def load(*_):
        compile_one()
        raise InterruptedError

    jax.config.update("jax_enable_compilation_cache", False)
    compile_one()  # jax decides here not to use the cache
    assert not list(compilation_cache.glob("*"))
    monkeypatch.setattr(speedrun, "load_model", load)
    with pytest.raises(InterruptedError):
        measure_stage(stages(cli.parse(PRESETS, "gsm-symbolic", SMALL))[1].settings, {"policy": Path(BASE)}, tmp_path)
    assert list(compilation_cache.glob("*-cache"))


def test_only_settings_of_the_task_and_the_machine_spoil_a_record():
    rl = dataclasses.replace(PLAIN.rl, learning_rate=6e-6, minibatches=2)
    entry = dataclasses.replace(PLAIN, rl=rl, sampling=dataclasses.replace(PLAIN.sampling, max_tokens=256), every=5)
    machine = {"verifier": VerifierConfig(workers=9), "save": SaveConfig(every=7), "base": "qwen.gguf"}
    config = dataclasses.replace(entry, **machine, seed=3, entry="mine", target=0.5, minutes=3.0, out=Path("a"))
    assert why_not_a_record(config) == []
    assert changed_settings(config) == {
        "every": 5,
        "sampling.max_tokens": 256,
        "rl.learning_rate": 6e-6,
        "rl.minibatches": 2,
    }
    assert changed_settings(PLAIN) == {}
    measurement = dataclasses.replace(PLAIN.task.measurement, samples=4)
    for changes, reason in (
        (
            {"task": dataclasses.replace(PLAIN.task, measurement=measurement)},
            "changed the task: task.measurement.samples",
        ),
        ({"task": dataclasses.replace(PLAIN.task, measured_seed=2)}, "changed the task: task.measured_seed"),
        ({"mesh": "2x1"}, "ran on 2x1 devices"),
        ({"keep_compiled": True}, "used compiled programs of earlier processes"),
    ):
        assert why_not_a_record(dataclasses.replace(config, **changes)) == [f"it {reason}"]


def test_the_page_has_the_table_of_the_committed_records():
    assert records_page(read_records(RESULTS)) in PAGE.read_text()


def test_mistakes_are_one_line_before_any_run(tmp_path):
    for arguments, message in (((), "no model: give --base"), ((f"--show={tmp_path}",), "give the folder of a record")):
        status, stdout, stderr = call("speedrun.py", f"--out={tmp_path / 'out'}", *arguments)
        assert (status, stdout) == (2, "") and message in stderr and len(stderr.strip().splitlines()) == 1, stderr
    assert not (tmp_path / "out").exists()
    for values, message in (
        ({"target": 40.0}, "--target=40.0 must be from 0 to 1"),
        ({"every": 0}, "--every=0 at least 1"),
        ({"minutes": 0.0}, "--minutes=0.0 must be above 0"),
        ({"seed": -1}, "--seed=-1"),
    ):
        with pytest.raises(UserError, match=message):
            dataclasses.replace(PLAIN, **values)
    small = dataclasses.replace(PRESETS["small"][1], base=BASE)
    for values, message in (
        ({"max_tokens": 500}, "beyond the model's context of 128"),
        ({"rewards": ("format",)}, "lacks accuracy"),
        ({"transfer": ProblemsConfig("none.jsonl")}, "none.jsonl: give --task.transfer.source"),
        ({"problems": ProblemsConfig("gym:gsm_symbol")}, "gsm_symbolic"),
    ):
        with pytest.raises(UserError, match=message):
            check(dataclasses.replace(small, task=dataclasses.replace(small.task, **values)))
    for flag, values in (
        ("rl.replay-routing", {"rl": dataclasses.replace(small.rl, replay_routing=True)}),
        ("sampling.draft=mtp", {"sampling": dataclasses.replace(small.sampling, draft="mtp")}),
    ):
        with pytest.raises(UserError, match=flag):
            check(dataclasses.replace(small, **values))
