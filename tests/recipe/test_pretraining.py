"""The architectures of small base models."""

import dataclasses

import pytest

from r1jax.errors import UserError
from r1jax.models.cost import block_flops
from r1jax.recipe.pretraining import PretrainConfig, model_config


def test_a_token_of_the_small_model_with_experts_uses_as_many_weights_as_of_a_dense_one():
    config = model_config(PretrainConfig(architecture="deepseek_v3"), 112, 100)
    experts = config.experts
    assert experts and config.latent and experts.bias and experts.scores == "sigmoid"
    dense = dataclasses.replace(config, experts=None)
    router = 2 * config.hidden_size * experts.number
    assert block_flops(config) - router == block_flops(dense)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "mixtral"}, "architecture mixtral is not one of llama"),
        ({"architecture": "deepseek_v3", "num_layers": 1}, "num-layers must be at least 2"),
        ({"router_bias_speed": -1.0}, "router-bias-speed and balance-loss must be at least 0"),
    ],
)
def test_wrong_settings_are_one_line(changes, message):
    with pytest.raises(UserError, match=message):
        PretrainConfig(**changes)
