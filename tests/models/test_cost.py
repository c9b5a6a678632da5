"""Operations and weights of models with experts, counted from the specs of their weights."""

import dataclasses
import math

import pytest

from r1jax.models.cost import active_count, block_flops, decoding_weights
from r1jax.models.shapes import SHAPES
from r1jax.models.transformer import param_specs
from r1jax.sharding import param_count
from tests.models.helpers import with_experts


@pytest.mark.parametrize("shared", [0, 16])
def test_a_token_is_multiplied_with_its_experts_alone(tiny_config, shared):
    config = with_experts(tiny_config)
    config = dataclasses.replace(config, experts=dataclasses.replace(config.experts, shared_width=shared))
    own, specs = config.experts, param_specs(config)
    count = 0
    for run in ("dense_layers", "layers"):
        for part in ("attention", "mlp"):
            for name, spec in specs[run][part].items():
                if "bias" not in name:
                    routed = run == "layers" and name in ("gate", "up", "down")
                    count += math.prod(spec.shape) * own.active // own.number if routed else math.prod(spec.shape)
    assert block_flops(config) == 2 * count
    unused = 3 * (own.number - own.active) * config.hidden_size * own.width
    assert decoding_weights(config, 1) == active_count(config) == param_count(specs) - unused
    assert active_count(tiny_config) == param_count(param_specs(tiny_config))
    assert decoding_weights(config, 1000) == pytest.approx(param_count(specs))
    assert decoding_weights(tiny_config, 1) == param_count(param_specs(tiny_config))


def test_a_token_uses_the_published_number_of_parameters():
    """37 of the 671 billion of DeepSeek-V3 (arXiv 2412.19437), and 2.4 of the 15.7 of DeepSeek-V2-Lite, whose count of
    active parameters leaves out one of the two embeddings. By hand, from the sizes in config.json.
    """
    D, V = 7168, 129_280
    attention = D * 1536 + 1536 * 128 * 192 + D * 576 + 512 * 128 * 256 + 128 * 128 * D + 1536 + 512 + 2 * D
    routed = D * 256 + 256 + 9 * 3 * D * 2048
    active = 61 * attention + 3 * 3 * D * 18_432 + 58 * routed + 2 * V * D + D
    assert active_count(SHAPES["deepseek-v3"]) == active
    assert round(active / 1e9) == 38 and 36.5e9 < active - V * D < 37e9
    lite = SHAPES["moe-16b"]
    assert 2.4e9 < active_count(lite) - lite.vocab_size * lite.hidden_size < 2.5e9
