"""Weak and strong scaling over meshes: workloads, efficiency and the result file."""

import dataclasses

import pytest

from r1jax.benchmark.scaling import Results, scaled_workload, with_efficiency
from r1jax.benchmark.workload import Workload
from r1jax.errors import UserError
from tests.helpers.scaling import run_of


def test_work_grows_with_the_data_axis_or_stays():
    work = Workload(prompts=32, group=16, microbatch=64, slots=100)
    sizes = {
        (scaling, data): (w.prompts, w.rl.microbatch_size, w.slots)
        for scaling in ("weak", "strong")
        for data in (1, 4, 8)
        for w in [scaled_workload(work, data, scaling)]
    }
    assert sizes == {
        ("weak", 1): (32, 64, 100),
        ("weak", 4): (128, 256, 400),
        ("weak", 8): (256, 512, 800),
        ("strong", 1): (32, 64, 100),
        ("strong", 4): (32, 256, 400),
        ("strong", 8): (32, 512, 800),
    }
    # A backward pass has at most all sequences.
    assert scaled_workload(dataclasses.replace(work, prompts=4), 8, "strong").microbatch == 64


def test_efficiency_is_the_rate_of_a_device_over_that_of_the_fewest():
    failed = {"scaling": "strong", "mesh": "1x1", "devices": 1, "error": "out of memory"}
    runs = [
        run_of("weak", "8x1", 720.0),
        run_of("weak", "1x1", 100.0),
        run_of("strong", "4x2", 300.0),
        run_of("strong", "2x1", 150.0),
        failed,
    ]
    done = with_efficiency(runs)
    assert [run.get("baseline") for run in done] == ["1x1", "1x1", "2x1", "2x1", None]
    got = [run["efficiency"]["update"] for run in done[:4]]
    assert got == pytest.approx([0.9, 1.0, 0.5, 1.0])
    assert with_efficiency(done) == done


def test_a_result_file_keeps_every_run_and_refuses_other_settings(tmp_path):
    path, header = tmp_path / "out" / "tiny.json", {"model": "tiny", "settings": {"repeats": 1}}
    results = Results(path, header)
    other = Results(path, header)  # as another process has it
    results.add(run_of("weak", "2x1", 150.0))
    other.add(run_of("weak", "1x1", 100.0))
    assert [run["efficiency"]["step"] for run in results.runs()] == pytest.approx([0.75, 1.0])
    assert results.find("strong", "1x1") is None and other.find("weak", "2x1")["devices"] == 2
    with pytest.raises(UserError, match=r"settings.repeats was 1, now 2\).*another --out"):
        Results(path, {"model": "tiny", "settings": {"repeats": 2}})
    path.write_text("[")
    with pytest.raises(UserError, match="not a result file"):
        Results(path, header)
