"""Sampling and an update of a decoder with experts and latent attention, on meshes with an expert axis."""

import dataclasses

import jax
import numpy as np
import pytest

from r1jax.algorithms.grpo import GRPO
from r1jax.models.transformer import forward, param_specs
from r1jax.rl.update import update
from r1jax.sampling.sampler import sample
from r1jax.sharding import make_mesh, param_shardings, place
from r1jax.training.balance import Balance
from r1jax.training.metrics import reduce_metrics
from tests.helpers.latent import LATENT, sharp_params
from tests.helpers.training import fresh
from tests.models.helpers import experts_alone
from tests.rl.helpers import CONTEXT, GROUP, PROMPTS, SAMPLING, batch_of, close

CONFIG = experts_alone(LATENT)


def run(name):
    """Samples with their routing, logits, and the state and the metrics of an update that replays it, on a mesh."""
    mesh = make_mesh(name)
    with jax.set_mesh(mesh):
        params = place(sharp_params(CONFIG), param_shardings(param_specs(CONFIG), mesh))
        options = {"end_tokens": tuple(range(40, 60)), "samples_per_prompt": GROUP, "keep_routing": True}
        samples = sample(params, PROMPTS, CONFIG, jax.random.key(3), sampling=SAMPLING, **options)
        samples = jax.device_get(samples)
        batch = batch_of(samples)
        logits = jax.jit(forward, static_argnums=2)(params, batch.tokens, CONFIG)
        state, optimizer, shapes = fresh(params, CONFIG, mesh=mesh)
        context = dataclasses.replace(CONTEXT, balance=Balance(bias_speed=0.01, loss_weight=0.1))
        state, sums, _ = update(state, batch, optimizer, GRPO(), context, CONFIG, 1)
        for leaf, shape in zip(jax.tree.leaves(state), jax.tree.leaves(shapes), strict=True):
            assert leaf.sharding.is_equivalent_to(shape.sharding, leaf.ndim)
    return samples, logits, state, reduce_metrics(sums)


@pytest.fixture(scope="module")
def alone():
    return run("1x1")


@pytest.mark.parametrize("name", ["8x1", "1x1x8", "2x2x2"])
def test_a_mesh_gives_the_same_samples_and_the_same_update(alone, name):
    """Logits, gradients (the first moments), the bias of the routers, and the global load of the experts, too."""
    samples, logits, state, metrics = run(name)
    np.testing.assert_array_equal(samples.tokens, alone[0].tokens)
    np.testing.assert_array_equal(samples.experts, alone[0].experts)
    np.testing.assert_allclose(samples.logprobs, alone[0].logprobs, atol=1e-5)
    np.testing.assert_allclose(logits, alone[1], atol=1e-5 * np.abs(alone[1]).max())
    close(jax.device_get(alone[2]), jax.device_get(state), atol=1e-5)
    assert metrics == pytest.approx(alone[3], abs=1e-5)
