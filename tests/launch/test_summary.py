"""The summary of the runs that launch/gpus8.sh starts."""

import json
import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT


def write_rows(folder, rows):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_runs_are_compared_by_samples_by_stage_and_after_the_kill(tmp_path):
    """Two devices against one: two steps of one device have as many samples as one step of two devices."""
    seconds = (10.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    for name, accuracy, took in (
        ("zero-1x1", (0.0, 0.2, 0.5, 0.7, 0.9, 1.1), seconds),
        ("zero-2x1", (0.1, 0.9, 1.0), (20.0, 2.0, 4.0)),
    ):
        rows = [{"reward_accuracy": a, "seconds": s} for a, s in zip(accuracy, took, strict=True)]
        write_rows(tmp_path / name / "r1-zero", rows)
    made = {"made_by": {"device": "two"}, "figures": {"seconds": 30.0}}
    for run, stage, took in (("r1-1x1", "zero", seconds), ("r1-2x1", "zero", (9.0, 3.0, 5.0)), ("r1-1x1", "sft", ())):
        write_rows(tmp_path / run / stage, [{"seconds": s} for s in took])
        (tmp_path / run / stage / "manifest.json").write_text(json.dumps(made))
    write_rows(tmp_path / "r1-2x1" / "sft", [{"seconds": 1.0}])  # begun and not finished
    for name, loss in (("resume", (5.0, 1.0, 2.0)), ("resume-1x1", (7.0, 1.5, 2.25))):
        write_rows(tmp_path / name / "r1-zero", [{"loss": x, "reward": 1.0, "entropy": -x} for x in loss])
        (tmp_path / name / "summary.json").write_text(json.dumps({"device": "two", "versions": {}}))
    (tmp_path / "killed").write_text("1\n")
    (tmp_path / "r1-1x1" / "summary.json").write_text(json.dumps({"stages": {}}))
    subprocess.run([sys.executable, "launch/summary.py", str(tmp_path), "2", "2x1"], cwd=ROOT, check=True)

    found = json.loads((tmp_path / "summary.json").read_text())
    zero = found["zero"]
    assert zero["accuracy_aimed_at"] == pytest.approx(0.1 + 0.9 * (1.0 - 0.1))
    assert [p["accuracy"] for p in zero["at_equal_samples"]["one"]] == pytest.approx([0.1, 0.6, 1.0])
    assert [p["seconds"] for p in zero["at_equal_samples"]["one"]] == pytest.approx([11.0, 13.0, 15.0])
    assert zero["seconds_to_it"] == {"one": 15.0, "wide": 26.0}
    assert zero["seconds_a_step"] == {"one": 1.0, "wide": 3.0}
    assert found["resume"] == {"resume-1x1": {"loss": 0.5, "reward": 0.0, "entropy": 0.5}, "killed_after_step": 1}
    assert found["runs"].keys() == {"resume", "resume-1x1"}
    assert found["r1"]["2x1"] == {"zero": {"made_by": {"device": "two"}, "seconds": 30.0, "seconds_a_step": 4.0}}
    assert found["r1"]["1x1"].keys() == {"zero"} and found["r1"]["1x1"]["zero"]["seconds_a_step"] == 1.0
