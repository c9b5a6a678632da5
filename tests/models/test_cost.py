"""Operations and weights of models with experts, counted from the specs of their weights."""

import dataclasses
import math

import pytest

from r1jax.models.cost import block_flops, decoding_weights
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
    assert decoding_weights(config, 1) == param_count(specs) - unused
    assert decoding_weights(config, 1000) == pytest.approx(param_count(specs))
    assert decoding_weights(tiny_config, 1) == param_count(param_specs(tiny_config))
