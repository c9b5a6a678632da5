"""Log-probabilities of the trainer, compared with those of the sampler."""

import jax.numpy as jnp
import numpy as np

from r1jax.rl.logprobs import batch_logprobs
from tests.rl.helpers import batch_of


def test_logprobs_equal_those_of_the_sampler(samples, tiny_params, tiny_config):
    """The trainer's old log-probabilities equal the sampler's for any number of microbatches."""
    batch = batch_of(samples)
    for microbatches in (1, 4):
        got = batch_logprobs(tiny_params, batch.tokens, tiny_config, 0.8, microbatches, 16)
        np.testing.assert_allclose(jnp.where(batch.mask, got, 0), batch.sampler_logprobs, atol=1e-5)
