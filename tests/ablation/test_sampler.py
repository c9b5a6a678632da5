"""The sampler of an ablation."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.ablation.sampler import ARMS, sample_together
from r1jax.sampling.processors import Sampling


def test_stored_weights_draw_the_same_samples(tiny_params, tiny_config):
    prompts, lengths = jnp.array([[1, 2, 3], [5, 0, 0]]), jnp.array([3, 1])

    def draw(weights):
        one = partial(
            sample_together,
            tiny_params,
            prompts,
            lengths,
            jnp.arange(4),
            config=dataclasses.replace(tiny_config, decoding_weights=weights),
            sampling=Sampling(max_tokens=5),
            end_tokens=(7,),
        )
        return jax.jit(jax.vmap(lambda key: one(key=key), axis_name=ARMS))(jax.random.split(jax.random.key(0), 2))

    copied, stored = map(draw, ("copied", "stored"))
    np.testing.assert_array_equal(stored.tokens, copied.tokens)
    np.testing.assert_allclose(stored.logprobs, copied.logprobs, atol=1e-5)
