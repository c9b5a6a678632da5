"""The benchmark on a CPU: the work it says it does, the figures it leaves, its refusals."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.benchmark import variable_limits

ROOT = Path(__file__).parents[1]


def benchmark(*flags):
    command = [sys.executable, "experiments/benchmark.py", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    out = tmp_path_factory.mktemp("benchmark")
    cases = ("rollout", "variable", "long", "step", "parity")
    done = benchmark("--repeats=1", f"--out={out}", "--cases", *cases)
    assert done.returncode == 0, done.stderr
    assert "the figures say nothing about a chip" in " ".join(done.stdout.split())
    return json.loads((out / "tiny.json").read_text())


def test_each_part_counts_the_tokens_of_its_work(figures):
    # 4 prompts x 4 samples of 32 tokens after 16; the passes that learn see prompts too.
    parts = figures["parts"]
    assert {name: parts[name]["tokens"] for name in parts} == {
        "rollout": 512, "variable": variable_limits(16, 64).sum(), "long": 2048, "reference": 768, "update": 768,
        "step": 512,
    }  # fmt: skip


def test_the_floor_is_the_slower_of_operations_and_bytes(figures):
    flops, bandwidth = figures["matrix_tflops"] * 1e12, figures["read_terabytes"] * 1e12
    for name in ("rollout", "variable", "long", "reference", "update"):
        part = figures["parts"][name]
        assert part["tokens_per_second"] == pytest.approx(part["tokens"] / part["seconds"])
        assert part["times_floor"] == pytest.approx(part["seconds"] / part["floor_seconds"])
        # A rollout is a sum of steps, each bound by one or the other.
        slowest = max(part["flops"] / flops, part["bytes"] / bandwidth)
        assert slowest * (1 - 1e-9) <= part["floor_seconds"] <= part["flops"] / flops + part["bytes"] / bandwidth
    floors = [figures["parts"][name]["floor_seconds"] for name in ("rollout", "reference", "update")]
    assert figures["parts"]["step"]["floor_seconds"] == pytest.approx(sum(floors))


def test_the_update_does_three_times_the_forward_pass(figures):
    parts = figures["parts"]
    assert parts["update"]["flops"] == pytest.approx(3 * parts["reference"]["flops"], rel=0.01)


def test_the_sampler_agrees_with_the_trainer_in_float32(figures):
    assert 0 <= figures["float32_sampler_gap"] <= figures["float32_sampler_gap_max"] < 1e-4
    assert figures["settings"]["model"] == "tiny" and figures["versions"]["jax"]


def test_limits_are_those_that_the_peers_were_given():
    limits = variable_limits(512, 1024)
    assert limits.min() >= 16 and limits.max() <= 1024
    # Of 512 draws the mean, 200.6 in expectation, varies by about 10 and the median by 7.
    assert limits.mean() == pytest.approx(200.6, abs=20)
    assert np.median(limits) == pytest.approx(128, abs=14)


@pytest.mark.parametrize("flags", [["--tokens=0"], ["--group=1"], ["--microbatch=24"], ["--mesh=3"], ["--model=gpt-2"]])
def test_wrong_settings_end_in_one_line(flags, tmp_path):
    done = benchmark(*flags, f"--out={tmp_path}/out")
    assert done.returncode == 2 and not done.stdout
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not (tmp_path / "out").exists()
