"""R1-Zero after kills and stops, with more steps, on other meshes, and in parts."""

import json
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from r1jax import load
from r1jax.checkpoints.native import Checkpoints
from tests.experiments.helpers import (
    params_of,
    run,
    same,
    short_run,
    start,
    status_of,
    steps_of,
    unfinish,
    wait_for_step,
)


def with_base(finished, out):
    """A run folder with the base model and its evaluation, as if a kill had come before RL."""
    for stage in ("pretrain", "evaluation_before"):
        shutil.copytree(finished / stage, out / stage)
    return out


def test_killed_and_started_again_it_ends_with_the_same_bits(finished, tmp_path):
    """Killed between two checkpoints, and before with what a kill ahead of the first checkpoint of RL leaves.

    The files have each step once.
    """
    out = with_base(finished[0], tmp_path / "run")
    (out / "r1-zero").mkdir()
    for name in ("metrics.jsonl", "completions.jsonl"):
        first = (finished[0] / "r1-zero" / name).read_text().splitlines(keepends=True)[0]
        (out / "r1-zero" / name).write_text(first.replace('"step": 0', '"step": 0, "killed": 1') + first[:20])
    process = start(out)
    wait_for_step(out, process, 3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    status, _, stderr = run(out)
    assert status == 0, stderr
    assert steps_of(out) == list(range(6)) and "killed" not in (out / "r1-zero" / "metrics.jsonl").read_text()
    same(params_of(out), params_of(finished[0]))
    texts = [(o / "r1-zero" / "completions.jsonl").read_text() for o in (out, finished[0])]
    assert texts[0] == texts[1]


def test_a_stopped_run_saves_its_step_and_resumes(finished, tmp_path):
    """Stopped by Ctrl-C and then by SIGTERM, between two regular checkpoints or at one."""
    out = with_base(finished[0], tmp_path / "run")
    saved = 0
    for number, status, name in ((signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")):
        process = start(out)
        wait_for_step(out, process, saved)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=120)
        with Checkpoints(out / "r1-zero") as checkpoints:
            saved = checkpoints.steps()[-1]
        assert process.returncode == status and f"{name}: the run stops after it has saved its state" in stderr, stderr
        assert f"stopped after step {saved} of 6; the same command resumes from there" in stdout
        assert saved == len(steps_of(out)) < 6
    status, *_ = run(out)
    assert status == 0
    same(params_of(out), params_of(finished[0]))


def test_stopped_before_the_first_step_it_ends_at_once(tmp_path):
    out = tmp_path / "run"
    process = start(out)
    deadline = time.monotonic() + 120
    while not (out / "pretrain" / "manifest.json").exists():  # what follows is the evaluation of the base
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 143 and "stopped; the same command resumes" in stdout, stderr
    assert not steps_of(out)


def test_killed_between_its_export_and_its_end_the_same_command_ends_well(finished, tmp_path):
    """With files that kills at other moments may leave: partial exports and partial files."""
    out = tmp_path / "run"
    shutil.copytree(finished[0], out)
    (out / "summary.json").unlink()
    unfinish(out, "model")
    shutil.copytree(out / "model", out / f".model.{'0' * 32}")
    (out / "report.md.part").write_text("# R1-Ze")
    (out / "curves.png").write_bytes(b"")
    status, _, stderr = run(out)
    assert status == 0, stderr
    assert {path.name for path in out.iterdir()} == {path.name for path in finished[0].iterdir()}
    names = ("model/model.safetensors", "evaluation_after/manifest.json", "r1-zero/completions.jsonl", "curves.png")
    for name in names:
        assert (out / name).read_bytes() == (finished[0] / name).read_bytes()


def test_a_finished_run_is_trained_on_with_more_steps(finished, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished[0], out)
    before = (out / "r1-zero" / "metrics.jsonl").read_text()
    assert status_of(out, "--rl.steps=7")["r1-zero"] == "continues"
    status, stdout, stderr = run(out, "--rl.steps=7")
    assert status == 0, stderr
    said = " ".join(stdout.split())
    assert "rl.steps was 6, now 7" in said and "the cosine schedule of 7 steps is followed from here" in said
    assert steps_of(out) == list(range(7)) and (out / "r1-zero" / "metrics.jsonl").read_text().startswith(before)
    assert json.loads((out / "summary.json").read_text())["steps"] == 7
    same(jax.device_get(load(out / "model").params), params_of(out))
    with pytest.raises(AssertionError):
        same(params_of(out), params_of(finished[0]))
    names = [f"evaluation_{when}/manifest.json" for when in ("before", "after")]
    assert [(out / n).read_bytes() == (finished[0] / n).read_bytes() for n in names] == [True, False]


def test_parts_of_the_experiment_run_by_themselves(finished, tmp_path):
    """--dry-run writes nothing, --until includes the evaluation, and --force runs changed stages again."""
    out = tmp_path / "run"
    status, stdout, _ = run(out, "--dry-run")
    rows = [line.split("│")[1].strip() for line in stdout.splitlines() if line.startswith("│")]
    assert status == 0 and not out.exists()
    assert [row for row in rows if row] == ["pretrain", "evaluation_before", "r1-zero", "evaluation_after", "model"]
    shutil.copytree(finished[0], out)
    for stage in ("r1-zero", "evaluation_after", "model"):
        shutil.rmtree(out / stage)
    changed = ["--evaluation.problems=3"]
    assert status_of(out, *changed)["evaluation_before"] == "changed"
    assert "--force runs it again" in run(out, *changed)[2]
    status, _, stderr = run(out, *changed, "--force", "--until=pretrain")
    assert status == 0 and not (out / "r1-zero").exists(), stderr
    assert (
        json.loads((out / "evaluation_before" / "manifest.json").read_text())["settings"]["evaluation"]["problems"] == 3
    )
    status, _, stderr = run(out, *changed, "--only=model")
    assert status == 2 and "--only needs the stage r1-zero, which is not finished" in stderr


def test_a_setting_concerns_the_stages_that_read_it(finished):
    out, _ = finished

    def changed(*flags):
        return {name for name, status in status_of(out, *flags).items() if status != "finished"}

    trained = {"r1-zero", "evaluation_after", "model"}
    how = ("--remat=block", "--unroll", "--gather=layer", "--mesh=2x1", "--sampling.slots=3", "--rl.microbatch=4")
    how += ("--rl.logprob-chunk=64", "--verifier.workers=3", "--verifier.deadline=9", "--save.every=3")
    assert changed(*how, "--save.keep-last=3", "--save.keep-best=2") == set()
    assert changed("--problems.train-size=41") == trained
    assert changed("--problems.held-out-size=41") == {"evaluation_before", "evaluation_after"}
    assert changed("--evaluation.temperature=0.5") == {"evaluation_before", "evaluation_after"}
    assert changed("--sampling.temperature=0.5") == changed("--rl.eps-low=0.1") == trained
    everything = {*trained, "pretrain", "evaluation_before"}
    assert changed("--seed=1") == changed("--pretrain.steps=7") == changed("--problems.digits=1") == everything


def test_a_damaged_checkpoint_is_passed_over(finished, tmp_path):
    """The newest step's largest file is cut in half: the run resumes from the step before, with the same result."""
    out = tmp_path / "run"
    shutil.copytree(finished[0], out)
    unfinish(out, "r1-zero", "evaluation_after")
    shutil.rmtree(out / "model")
    largest = max((p for p in (out / "r1-zero" / "6").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    status, _, stderr = run(out)
    assert status == 0 and "is damaged" in stderr and "is skipped" in stderr, stderr
    same(params_of(out), params_of(finished[0]))
    assert steps_of(out) == list(range(6))


@pytest.fixture(scope="module")
def alone(finished, pool, tmp_path_factory):
    """Three steps on one device."""
    return short_run("1x1", finished[0], pool, tmp_path_factory.mktemp("meshes") / "alone", steps=3)


def assert_same_run(one, other):
    assert other[1] == one[1]
    for a, b in zip(one[0], other[0], strict=True):
        assert a["step"] == b["step"] and a["gradient_norm"] > 1e-3
        for name in ("loss", "kl", "entropy", "reward", "ratio_mean", "gradient_norm"):
            assert b[name] == pytest.approx(a[name], abs=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), one[2], other[2])


def test_a_checkpoint_of_one_mesh_resumes_on_another(finished, pool, alone, tmp_path):
    """Two steps on eight devices of the model axis and a third on eight of the data axis are the same run.

    The next test has both axes.
    """
    short_run("1x8", finished[0], pool, tmp_path, steps=2)
    assert_same_run(alone, short_run("8x1", finished[0], pool, tmp_path, steps=3))


def test_the_same_command_resumes_on_another_mesh(finished, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished[0], out)
    unfinish(out, "r1-zero", "evaluation_after")
    for folder in ("model", "r1-zero/6"):
        shutil.rmtree(out / folder)
    status, _, stderr = run(out, "--mesh=2x2", "--verifier.workers=2")
    assert status == 0, stderr
    assert steps_of(out) == list(range(6))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), params_of(out), params_of(finished[0]))
