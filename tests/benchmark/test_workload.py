"""Whole RL steps of the benchmark and their checkpoints, on several meshes."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from r1jax.benchmark.mesh_estimate import abstract_state
from r1jax.benchmark.workload import Bench
from r1jax.checkpoints.native import Checkpoints
from r1jax.rl.state import RLState
from r1jax.sharding import make_mesh
from r1jax.training.loop import restore
from tests.benchmark.helpers import WORK, Parity


def one_step(mesh, gather="auto"):
    """Metrics and state of a whole step on a mesh."""
    with jax.set_mesh(make_mesh(mesh)):
        bench = Bench(dataclasses.replace(WORK, gather=gather), Parity())
        return bench.step(0), bench.state


@pytest.fixture(scope="module")
def alone():
    return one_step("1x1")


def test_a_whole_step_of_two_passes_is_the_same_on_a_mesh_with_weights_gathered_by_layer(alone):
    """Compares samples, losses and gradients.

    tests/rl/test_update.py and tests/experiments/test_r1_zero_resume.py have meshes with the other way of gathering.
    """
    (want, before), (got, after) = alone, one_step("2x1", "layer")
    for name in ("loss", "kl", "entropy", "ratio_mean", "gradient_norm"):
        assert got[name] == pytest.approx(want[name], abs=1e-6), name
    assert want["gradient_norm"] > 1e-3
    for moment in ("mu", "nu"):  # after one update, the gradient and its square by constants
        a, b = (optax.tree_utils.tree_get(state.policy.opt_state, moment) for state in (before, after))
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_allclose(x, y, atol=1e-5 * float(np.abs(x).max()) + 1e-12)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=3e-6), before.policy.params, after.policy.params)


def test_a_checkpoint_of_eight_devices_opens_on_other_meshes(alone, tmp_path):
    """Weights, moments and reference are restored bit by bit, with the shardings of each mesh."""
    _, state = alone

    def shapes(mesh):
        policy = abstract_state(WORK, make_mesh(mesh))
        return RLState(policy, policy.params)

    wide = shapes("8x1")
    spread = jax.tree.map(lambda x, s: jax.device_put(x, s.sharding), state, wide)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, *spread.saved(), {"reward": 0.0})
        checkpoints.wait()
        for mesh in ("8x1", "4x2", "1x1"):
            target = shapes(mesh)
            found = restore(checkpoints, target)
            assert found is not None and found.reference is not None
            for name in ("policy", "reference"):
                leaves = [jax.tree.leaves(getattr(c, name)) for c in (state, found, target)]
                for x, y, shape in zip(*leaves, strict=True):
                    np.testing.assert_array_equal(x, y)
                    assert y.sharding.is_equivalent_to(shape.sharding, y.ndim)
