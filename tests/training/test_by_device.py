"""Rows that each device computes by itself: what it has of a batch, and which models and meshes do not do it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.errors import UserError
from r1jax.models.transformer import param_specs
from r1jax.recipe import distillation
from r1jax.rl.config import RLConfig, check_parts
from r1jax.sharding import batch_sharding, compiler_mesh, make_mesh, param_shardings, place
from r1jax.training.by_device import added_over_rows, check_gather, over_rows
from tests.helpers.training import fresh
from tests.models.helpers import experts_alone
from tests.rl.helpers import close


@pytest.fixture
def by_device(tiny_config):
    return dataclasses.replace(tiny_config, gather="device")


def test_each_device_has_its_rows_and_all_weights(tiny_params, by_device):
    with jax.set_mesh(make_mesh("4x1")):
        weights = place(jax.device_get(tiny_params), param_shardings(param_specs(by_device), make_mesh("4x1")))
        rows = jax.device_put(np.arange(8), batch_sharding())

        def run(params, batch):
            rows, factor = batch
            assert compiler_mesh() is None and rows.shape == (2,)
            assert params["embedding"].shape == tiny_params["embedding"].shape
            return factor * rows + params["embedding"].sum()

        got = jax.jit(lambda *args: over_rows(run, *args, by_device))(weights, (rows, jnp.float32(2.0)))
    np.testing.assert_allclose(got, 2 * np.arange(8) + np.asarray(tiny_params["embedding"]).sum(), rtol=1e-4)


def test_gradients_are_added_over_the_devices_and_split_as_the_weights(tiny_params, by_device):
    mesh = make_mesh("4x1")
    shardings = param_shardings(param_specs(by_device), mesh)

    def run(params, rows, factor):
        grads = jax.tree.map(lambda w: (w * rows.sum() * factor.sum()).astype(jnp.bfloat16), params)
        return (grads, rows.sum()), rows[None]

    with jax.set_mesh(mesh):
        # In 16 bits, 512 + 2 would be 512.
        rows = jax.device_put(np.array([0.0, 512.0, 2.0, 0.0, 0.0, 0.0, 1.0, 1.0]), batch_sharding())
        weights = place(jax.tree.map(np.ones_like, jax.device_get(tiny_params)), shardings)
        factor = jax.device_put(np.full(4, 0.5), batch_sharding())  # whole on each device, whatever its sharding
        add = jax.jit(lambda weights, rows, factor: added_over_rows(run, weights, rows, by_device, factor))
        (grads, count), others = add(weights, rows, factor)
    jax.tree.map(lambda x: np.testing.assert_array_equal(x, np.full(x.shape, 1032.0, np.float32)), grads)
    assert count == 516 and others.shape == (4, 2)
    split = jax.tree.map(lambda x, own: x.sharding.is_equivalent_to(own, x.ndim), grads, shardings)
    assert all(jax.tree.leaves(split)) and {x.dtype for x in jax.tree.leaves(grads)} == {np.dtype("float32")}


@pytest.mark.parametrize("mesh", ["2x2", "2x1x2"])
def test_a_mesh_with_other_axes_is_refused(by_device, mesh):
    with pytest.raises(UserError, match=r"--gather=device needs .* data axis alone"):
        check_gather("device", mesh, by_device)
    with jax.set_mesh(make_mesh(mesh)), pytest.raises(UserError, match=r"--gather=device needs .* data axis alone"):
        check_parts(RLConfig(), by_device)


def test_a_model_with_experts_is_refused(by_device):
    experts = experts_alone(by_device)
    check_gather("device", "1x1", experts)
    check_gather("update", "2x1", experts)
    check_gather("device", "2x1", by_device)
    with pytest.raises(UserError, match=r"--gather=device needs .* a model without experts"):
        check_gather("device", "2x1", by_device, experts)
    with jax.set_mesh(make_mesh("2x1")):
        check_parts(RLConfig(), by_device)
        with pytest.raises(UserError, match=r"--gather=device needs .* a model without experts"):
            check_parts(RLConfig(), experts)


def test_a_student_on_several_devices_is_matched_with_the_whole_teacher(tiny_params, by_device):
    teacher = jax.tree.map(lambda x: 1.3 * x, jax.device_get(tiny_params))
    rng = np.random.default_rng(0)
    batch = rng.integers(1, 97, (8, 12), np.int32), rng.random((8, 11)) < 0.7
    found = []
    for name in ("1x1", "2x1"):
        mesh = make_mesh(name)
        shardings = param_shardings(param_specs(by_device), mesh)
        with jax.set_mesh(mesh):
            student, weights = (place(jax.device_get(one), shardings) for one in (tiny_params, teacher))
            state, optimizer, _ = fresh(student, by_device, mesh=mesh)
            rows = jax.device_put(batch, batch_sharding())
            step = distillation._update(
                state, rows, weights, optimizer, (by_device, by_device), distillation.MatchConfig(), 1.0, 2
            )
            found.append((jax.device_get(step[0].params), jax.device_get(step[1]["kl"])))
    close(found[0][0], found[1][0], atol=2e-6)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-5)
