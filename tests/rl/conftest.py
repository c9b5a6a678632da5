"""Samples of a tiny model, which the tests of batches and updates share."""

import dataclasses

import jax
import pytest

from r1jax.models.transformer import param_specs
from r1jax.sampling.sampler import sample
from r1jax.sharding import init_params
from tests.rl.helpers import GROUP, PROMPTS, SAMPLING


@pytest.fixture(scope="session")
def tiny_config(tiny_config):
    """One block: depth is no subject here, and programs are compiled sooner."""
    return dataclasses.replace(tiny_config, num_layers=1)


@pytest.fixture(scope="session")
def tiny_params(tiny_config):
    return init_params(param_specs(tiny_config), jax.random.key(0))


@pytest.fixture(scope="session")
def samples(tiny_params, tiny_config):
    drawn = sample(
        tiny_params,
        PROMPTS,
        tiny_config,
        jax.random.key(3),
        sampling=SAMPLING,
        end_tokens=tuple(range(40, 60)),
        samples_per_prompt=GROUP,
    )
    return jax.device_get(drawn)
