"""Small decoders with experts."""

import dataclasses

from r1jax.models.config import Experts

SMALL = Experts(
    number=8,
    active=2,
    width=16,
    shared_width=16,
    dense_layers=1,
    scores="sigmoid",
    scale=2.5,
    groups=4,
    active_groups=2,
    group_score="two highest",
    bias=True,
)


def experts_alone(config):
    """The config with one layer of experts as in DeepSeek-V3, which compiles sooner."""
    return dataclasses.replace(config, num_layers=1, experts=dataclasses.replace(SMALL, dense_layers=0))


def with_experts(config):
    """The config with a dense layer and a layer of experts as in DeepSeek-V3."""
    return dataclasses.replace(config, num_layers=2, experts=SMALL)
