"""Sampling and an update of a decoder with experts and latent attention, on meshes with an expert axis."""

import dataclasses

import jax
import numpy as np
import pytest

from r1jax.algorithms.grpo import GRPO
from r1jax.models.transformer import param_specs
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


def placed():
    """The weights on the entered mesh."""
    return place(sharp_params(CONFIG), param_shardings(param_specs(CONFIG), jax.sharding.get_mesh()))


def drawn(name):
    """Samples on a mesh, with their routing."""
    options = {"end_tokens": tuple(range(40, 60)), "samples_per_prompt": GROUP, "keep_routing": True}
    with jax.set_mesh(make_mesh(name)):
        return jax.device_get(sample(placed(), PROMPTS, CONFIG, jax.random.key(3), sampling=SAMPLING, **options))


def updated(name, samples):
    """The state after an update on a mesh that replays the routing of the samples, and its metrics."""
    mesh = make_mesh(name)
    context = dataclasses.replace(CONTEXT, balance=Balance(bias_speed=0.01, loss_weight=0.1))
    with jax.set_mesh(mesh):
        state, optimizer, shapes = fresh(placed(), CONFIG, mesh=mesh)
        state, sums, _ = update(state, batch_of(samples), optimizer, GRPO(), context, CONFIG, 1)
    for leaf, shape in zip(jax.tree.leaves(state), jax.tree.leaves(shapes), strict=True):
        assert leaf.sharding.is_equivalent_to(shape.sharding, leaf.ndim)
    return jax.device_get(state), reduce_metrics(sums)


@pytest.fixture(scope="module")
def samples():
    return drawn("1x1")


@pytest.mark.parametrize("name", ["1x1x8", "2x2x2"])
def test_a_mesh_gives_the_same_samples(samples, name):
    other = drawn(name)
    np.testing.assert_array_equal(other.tokens, samples.tokens)
    np.testing.assert_array_equal(other.experts, samples.experts)
    np.testing.assert_allclose(other.logprobs, samples.logprobs, atol=1e-5)


def test_a_mesh_gives_the_same_update(samples):
    """Gradients (the first moments), the bias of the routers, and the global load of the experts, too."""
    (want, metrics), (got, others) = updated("1x1", samples), updated("2x2x2", samples)
    close(got, want, atol=1e-5)
    assert metrics["router_disagreement"] == 0
    assert others == pytest.approx(metrics, abs=1e-5)
