"""The benchmark on a CPU: counted work, result file and refused settings."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments.benchmark import variable_limits
from r1jax.benchmark.context import context_limits
from r1jax.benchmark.workload import CPU_SETTINGS, Bench, Workload
from r1jax.models.shapes import SHAPES
from r1jax.rewards.config import parse_rewards
from r1jax.rewards.pool import RewardPool
from r1jax.sharding import make_mesh
from tests.experiments.helpers import shrink_benchmark
from tests.helpers.commands import call


@pytest.fixture(scope="module", autouse=True)
def shrunk():
    with pytest.MonkeyPatch.context() as patch:
        shrink_benchmark(patch)
        yield


@pytest.fixture(scope="module")
def figures(shrunk, tmp_path_factory):
    out = tmp_path_factory.mktemp("benchmark")
    cases = ("rollout", "variable", "uneven", "long", "context", "step", "parity")
    status, stdout, stderr = call("benchmark.py", "--repeats=1", f"--out={out}", "--cases", *cases)
    assert status == 0, stderr
    assert "the results do not describe a chip" in " ".join(stdout.split())
    return json.loads((out / "tiny.json").read_text())


def test_each_part_counts_the_tokens_of_its_work(figures):
    # 4 prompts x 4 samples of 32 tokens after 16; reference pass and update also process the prompts.
    parts = figures["parts"]
    assert {name: parts[name]["tokens"] for name in parts} == {
        "rollout": 512,
        "variable": variable_limits(16, 64).sum(),
        **dict.fromkeys(("uneven_single", "uneven_packed"), variable_limits(16, 64).sum() + 16 * 16),
        "long": 2048,
        "context": context_limits(16, 128).sum(),
        "reference": 768,
        "update": 768,
        "step": 512,
    }


@pytest.mark.parametrize("tie", [True, False])
def test_tokens_have_natural_frequencies(tie, monkeypatch):
    """Prompts and samples in bfloat16 follow 1 / (rank + 2.7): the first ids and each octave have their share."""
    shape = dataclasses.replace(SHAPES["tiny"], tie_embeddings=tie)
    monkeypatch.setitem(SHAPES, "tiny", shape)
    work = Workload(**CPU_SETTINGS | {"dtype": "bfloat16", "prompt": 64, "tokens": 64, "prompts": 4, "group": 16})
    with RewardPool(parse_rewards(["format"]), 1, 60.0) as pool, jax.set_mesh(make_mesh("1x1")):
        rollout = jax.device_get(Bench(work, pool).batch(0))
    below = np.cumsum([0.0, *(1 / (rank + 2.7) for rank in range(1, shape.vocab_size + 1))])
    for tokens in (rollout.tokens[::16, :64], rollout.tokens[:, 1:][rollout.mask]):
        count = np.bincount(tokens.ravel(), minlength=shape.vocab_size)
        for low, high in ((0, 1), (1, 3), (3, 7), (7, 15), (15, 63), (63, shape.vocab_size)):
            p = (below[high] - below[low]) / below[-1]
            deviation = (p * (1 - p) / count.sum()) ** 0.5
            # bfloat16 moves log p by up to 0.03, and random weights add noise to each.
            assert abs(count[low:high].sum() / count.sum() - p) < 0.05 * p + 4 * deviation, (low, high)


def test_the_floor_is_the_slower_of_operations_and_bytes(figures):
    flops, bandwidth = figures["matrix_tflops"] * 1e12, figures["read_terabytes"] * 1e12
    for name in ("rollout", "variable", "long", "context", "reference", "update"):
        part = figures["parts"][name]
        assert part["tokens_per_second"] == pytest.approx(part["tokens"] / part["seconds"])
        assert part["times_floor"] == pytest.approx(part["seconds"] / part["floor_seconds"])
        # A rollout is a sum of steps, each bound by operations or by bytes.
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


def test_the_help_names_every_shape():
    status, stdout, _ = call("benchmark.py", "--help")
    listed = " ".join(stdout.split()).replace("- ", "-")
    assert status == 0 and all(f"{name}," in listed or f"{name}." in listed for name in SHAPES)


@pytest.mark.parametrize(
    "flags", [["--tokens=0"], ["--group=1"], ["--microbatch=24"], ["--mesh=3"], ["--model=gpt-2"], ["--layers=25"]]
)
def test_wrong_settings_end_in_one_line(flags, tmp_path):
    status, stdout, stderr = call("benchmark.py", *flags, f"--out={tmp_path}/out")
    assert status == 2 and not stdout
    assert len(stderr.strip().splitlines()) == 1, stderr
    assert not (tmp_path / "out").exists()
