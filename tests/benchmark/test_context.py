"""Sampling in a long context: lengths and figures."""

import dataclasses

import jax
import numpy as np
import pytest

from r1jax.benchmark.context import context_limits, time_context
from r1jax.benchmark.workload import CPU_SETTINGS, Bench, Workload
from r1jax.models.shapes import SHAPES
from r1jax.rewards.config import parse_rewards
from r1jax.rewards.pool import RewardPool
from r1jax.sampling import memory
from r1jax.sharding import make_mesh


def test_lengths_are_lognormal():
    limits = context_limits(4096, 32_768)
    logs = np.log(limits[limits < 32_768])
    assert np.median(limits) == pytest.approx(2000, rel=0.05)
    assert (limits == 32_768).mean() == pytest.approx(0.0099, abs=0.005)  # 1 - Phi(ln(32768 / 2000) / 1.2)
    assert logs.std() == pytest.approx(1.2, rel=0.05)
    np.testing.assert_array_equal(context_limits(64, 4096), np.minimum(context_limits(64, 32_768), 4096))


def test_figures_are_those_of_the_loops(monkeypatch):
    """Sixteen sequences: nine of 5 tokens, four of 20, two of 30, one of 40; rings of 16, 32 and 40."""
    monkeypatch.setitem(SHAPES, "tiny", dataclasses.replace(SHAPES["tiny"], num_layers=1))
    monkeypatch.setattr(memory, "SHORTEST", 16)
    limits = np.random.default_rng(0).permutation([5] * 9 + [20] * 4 + [30] * 2 + [40])
    with RewardPool(parse_rewards(["format"]), 1, 60.0) as pool, jax.set_mesh(make_mesh("1x1")):
        bench = Bench(Workload(**CPU_SETTINGS), pool, 64, training=False)
        seconds, figures = time_context(bench, limits)
    entry = 4 * 2 * bench.model_config.num_kv_heads * bench.model_config.head_dim
    rows = [(loop["slots"], loop["length"], loop["steps"]) for loop in figures["loops"]]
    assert rows == [(16, 16, 16), (8, 32, 16), (8, 40, 8)]
    assert [loop["cache_bytes"] for loop in figures["loops"]] == [s * n * entry for s, n, _ in rows]
    assert figures["cache_bytes"] == 320 * entry and figures["full_cache_bytes"] == 640 * entry
    assert 0 < seconds == sum(loop["seconds"] for loop in figures["loops"]) and figures["compile_seconds"] > 0
