"""Samples of a tiny model, which the tests of batches and updates share."""

import jax
import pytest

from r1jax.sampling.sampler import sample
from tests.rl.helpers import GROUP, PROMPTS, SAMPLING


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
