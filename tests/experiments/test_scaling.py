"""The commands that measure and estimate scaling: meshes, settings that are refused, and a run that resumes."""

import json
import os
import subprocess
import sys

import jax
import pytest
from rich.console import Console

from experiments.scaling import Config, check, meshes_here, results_of
from r1jax.benchmark.workload import CPU_SETTINGS
from r1jax.errors import UserError
from tests.experiments.helpers import shrink_benchmark
from tests.helpers.commands import call
from tests.helpers.paths import ROOT
from tests.helpers.scaling import run_of


def test_meshes_larger_than_the_machine_are_skipped_unless_named(monkeypatch):
    devices = jax.devices()
    monkeypatch.setattr(jax, "devices", lambda: devices[:2])
    console = Console(record=True, width=200)
    assert meshes_here(Config(), console) == ["1x1", "2x1"]
    assert "2 devices found: 4x1, 8x1, 4x2, 2x4, 1x8 skipped" in console.export_text()
    with pytest.raises(UserError, match="--mesh=4x1 needs 4 devices and this machine has 2"):
        meshes_here(Config(meshes=("1x1", "4x1")), console)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"meshes": ("8by1",)}, "DATAxMODEL"),
        ({"meshes": ("2x1x2",)}, "no experts for an expert axis of 2"),
        ({"meshes": ("1x1", "expert:3"), "model": "moe-16b"}, "64 experts do not split over the 3 devices"),
        ({"meshes": ("1x1", "3x1")}, "strong scaling on 3x1: rl.microbatch=192 does not divide"),
        ({"group": 1}, "weak scaling on 1x1: rl.group=1"),
    ],
)
def test_settings_that_no_mesh_allows_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        check(Config(**settings))
    check(Config())


def test_the_same_command_resumes_with_the_missing_meshes(tmp_path, monkeypatch):
    """The file holds one of two runs: that run is kept, the other is made, and the figures cover both."""
    shrink_benchmark(monkeypatch)
    made = run_of("weak", "1x1", 1000.0, prompts=4, collectives={"rollout": {}, "update": {}})
    results_of(Config(**CPU_SETTINGS, repeats=1, out=tmp_path)).add(made)
    flags = ("--repeats=1", "--meshes", "1x1", "2x1", "--scalings", "weak", f"--out={tmp_path}")
    status, stdout, stderr = call("scaling.py", *flags)
    assert status == 0, stderr
    runs = json.loads((tmp_path / "tiny.json").read_text())["runs"]
    assert made.items() <= runs[0].items()
    run = runs[1]
    assert (run["scaling"], run["mesh"], run["devices"], run["prompts"], run["microbatch"]) == ("weak", "2x1", 2, 8, 16)
    assert [run[part]["tokens"] for part in ("rollout", "update", "step")] == [32 * n for n in (32, 48, 32)]
    assert run["baseline"] == "1x1"
    assert run["efficiency"]["step"] == pytest.approx(run["step"]["tokens_per_second"] / 2 / 500)
    for part in ("rollout", "update"):
        assert run["collectives"][part]["devices"] == 2 and run["collectives"][part]["seconds"] > 0
    assert "weak 1x1" in stdout and "weak 2x1" in stdout


def test_the_default_mesh_of_a_plan_exists_on_any_cpu():
    code = "from experiments.plan import Config, mesh_of_devices; print(dict(mesh_of_devices(Config().mesh).shape))"
    plain = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=plain, capture_output=True, text=True, check=False
    )
    assert "'data': 8, 'expert': 1, 'model': 1" in done.stdout, done.stderr


def test_a_plan_has_the_bytes_of_a_device_and_the_smallest_meshes(tmp_path):
    """Without the 128 devices of the mesh."""
    flags = ("--model=tiny-moe", "--mesh=64x2", "--memory=1", "--prompts=1", "--group=16", "--microbatch=1")
    status, stdout, stderr = call("plan.py", *flags, "--tokens=32", "--prompt=16", f"--out={tmp_path}")
    assert status == 0, stderr
    figures = json.loads((tmp_path / "tiny-moe-weak-64x2.json").read_text())
    assert figures["cache_bytes_per_token"] == 2 * 2 * (32 + 8)
    sums = {stage: sum(kinds.values()) for stage, kinds in figures["bytes_by_kind"].items()}
    assert set(sums) == {"SFT", "RL, update", "RL, rollout", "sampling"}
    assert figures["smallest_mesh"] == {"SFT": "1x1", "RL": "1x1", "sampling": "1x1"}
    assert "smallest meshes of devices with 1 GB" in " ".join(stdout.split())


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("scaling", ["--meshes", "1x1", "8x2"]),
        ("scaling", ["--meshes", "3x1"]),
        ("plan", ["--mesh=8x1", "--scaling=strong", "--model=tiny", "--prompts=1", "--group=4"]),
        ("plan", ["--target=nowhere.txtpb"]),
        ("plan", ["--memory=0"]),
    ],
)
def test_wrong_settings_end_in_one_line(name, flags, tmp_path):
    status, stdout, stderr = call(f"{name}.py", *flags, f"--out={tmp_path}/out")
    assert status == 2 and not stdout
    assert len(stderr.strip().splitlines()) == 1, stderr
    assert not (tmp_path / "out").exists()
