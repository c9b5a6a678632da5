"""A decoder with a kind of layer that the package does not have."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models import layers
from r1jax.models.config import ModelConfig
from r1jax.models.kinds import FeedForward
from r1jax.models.layers import Run
from r1jax.models.transformer import forward
from r1jax.sampling.processors import Sampling
from r1jax.sampling.sampler import sample
from r1jax.sharding import ParamSpec, make_mesh
from tests.helpers.training import random_params

CONFIG = ModelConfig(num_layers=2, intermediate_size=40)
PROMPTS = [[5, 9, 2], [7, 1, 4]]


def specs(config):
    D, F = config.hidden_size, config.intermediate_size
    return {"up": ParamSpec((D, F), ("embed", "mlp")), "down": ParamSpec((F, D), ("mlp", "embed"))}


def apply(x, weights, config, replay=None):
    """Squared ReLU without a gate (arXiv 2109.08668)."""
    return jnp.square(jax.nn.relu(x @ weights["up"])) @ weights["down"], None


SQUARED = FeedForward(specs, apply, lambda weights, config: weights, apply)


@pytest.fixture(autouse=True)
def last_layer(monkeypatch):
    """The last layer of each decoder has the new kind."""
    present = layers.runs

    def runs(config):
        *others, last = present(config)
        return (*others, dataclasses.replace(last, layers=last.layers - 1), Run("squared", 1, last.attention, SQUARED))

    for module in ("r1jax.models.layers", "r1jax.models.transformer", "r1jax.sampling.decode"):
        monkeypatch.setattr(f"{module}.runs", runs)


def test_a_new_kind_is_initialised_trained_and_decoded():
    params = jax.tree.map(lambda w: 4 * w if w.ndim > 2 else w, random_params(CONFIG))
    assert set(params["squared"]["mlp"]) == {"up", "down"} and params["layers"]["mlp"]["gate"].shape[0] == 1

    def loss(params, tokens):
        logits = forward(params, tokens, CONFIG)
        return jnp.square(logits).mean(), jax.nn.log_softmax(logits)

    with jax.set_mesh(make_mesh("2x2")):
        sampling = Sampling(max_tokens=4, temperature=1.0)
        samples = sample(params, PROMPTS, CONFIG, jax.random.key(4), sampling=sampling, end_tokens=())
    samples = jax.device_get(samples)
    whole = np.concatenate([np.array(PROMPTS), samples.tokens], axis=1)
    gradient, table = jax.jit(jax.grad(loss, has_aux=True))(params, whole)
    assert all(np.asarray(w).any() for w in gradient["squared"]["mlp"].values())
    picked = np.take_along_axis(np.asarray(table)[:, 2:-1], samples.tokens[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(samples.logprobs, picked, atol=1e-5)
