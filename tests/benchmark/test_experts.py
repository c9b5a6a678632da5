"""The benchmark of a layer of experts: its counted work, and its figures on a CPU."""

import jax
import pytest

from r1jax.benchmark.experts import experts_cost, time_experts
from r1jax.models.config import Experts, ModelConfig
from r1jax.sharding import make_mesh
from tests.helpers.commands import call

CONFIG = ModelConfig(hidden_size=4, experts=Experts(number=8, active=2, width=3, shared_width=5))


def test_cost_by_hand():
    """A token: 4 x 8 for the router, three products of 4 x 3 for each of 2 experts, and three of 4 x 5."""
    cost = experts_cost(CONFIG, tokens=10, active=7, size=2)
    assert cost.flops == 2 * 10 * (4 * 8 + 2 * 3 * 4 * 3 + 3 * 4 * 5)
    assert cost.bytes == 2 * (4 * 8 + 7 * 3 * 4 * 3 + 3 * 4 * 5 + 10 * 4 + 10 * 4)


def test_parts_of_a_layer():
    with jax.set_mesh(make_mesh("1x1")):
        products, parts = time_experts(CONFIG, tokens=64, slots=2, flops=1e9, bandwidth=1e9, repeats=1)
    assert products == "loop"
    forward, both, decoding = (parts[f"experts {n}"] for n in ("forward", "forward and backward", "decoding"))
    assert both["flops"] == 3 * forward["flops"] and forward["tokens"] == 64 and decoding["tokens"] == 2
    assert forward["active_experts"] == 8 and 2 <= decoding["active_experts"] <= 4
    assert 1 <= forward["largest_load"] < parts["experts forward, skewed"]["largest_load"] <= 4
    for part in parts.values():
        assert part["flops_utilisation"] == pytest.approx(part["flops"] / part["seconds"] / 1e9)
        assert part["bandwidth_utilisation"] == pytest.approx(part["bytes"] / part["seconds"] / 1e9)


@pytest.mark.parametrize("flags", [["--cases", "experts"], ["--model=tiny", "--cases", "rollout", "experts"]])
def test_a_model_without_experts_is_refused_in_one_line(flags, tmp_path):
    status, stdout, stderr = call("benchmark.py", *flags, f"--out={tmp_path}/out")
    assert status == 2 and not stdout
    assert "has no experts: choose --model=moe-16b" in stderr and len(stderr.strip().splitlines()) == 1
