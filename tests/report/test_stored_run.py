"""A stored run, in the layouts of a run folder and of docs/results, and in those of manifests old and new."""

import json

import pytest

from r1jax.errors import UserError
from r1jax.report.stored_run import open_run
from tests.helpers.paths import ROOT


def store(folder, stages):
    folder.mkdir(exist_ok=True)
    (folder / "summary.json").write_text(json.dumps({"stages": stages, "findings": []}))
    return folder


def test_stages_come_after_those_that_they_read(tmp_path):
    stages = {
        "a": {"inputs": {"policy": "c", "conversations": "b"}, "fingerprints": {"c": "x", "b": "x"}},
        "b": {"inputs": {"c": "hash"}},  # as version 0.1.0 wrote it
        "c": {"inputs": {}, "fingerprints": {}},
    }
    run = open_run(store(tmp_path, stages))
    assert list(run.stages) == ["c", "b", "a"]
    assert [run.reads(name) for name in run.stages] == [(), ("c",), ("c", "b")]


def test_metrics_are_those_of_the_stage_in_both_layouts(tmp_path):
    run = open_run(store(tmp_path, {}))
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1}\n')
    (tmp_path / "metrics-zero.jsonl").write_text('{"step": 5}\n')
    assert run.metrics("sft") == [{"step": 0}, {"step": 1}]
    assert run.metrics("zero") == [{"step": 5}]


@pytest.mark.parametrize("name", ["r1-tiny-cpu-seed0", "r1-smollm2-h100-seed0"])
def test_committed_runs_can_be_opened(name):
    run = open_run(ROOT / "docs" / "results" / name)
    order = list(run.stages)
    assert all(order.index(other) < order.index(stage) for stage in order for other in run.reads(stage))
    assert len(run.metrics("r1")) == run.stages["r1"]["figures"]["steps"] and run.findings


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"summary\.json does not exist"):
        open_run(tmp_path)
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(UserError, match="lists no stages"):
        open_run(tmp_path)
