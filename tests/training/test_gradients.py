"""Gradients added up over microbatches: their sum, its type, and its memory."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models.config import ModelConfig
from r1jax.models.gradient_slots import weights_of_layer
from r1jax.models.transformer import cast, param_specs
from r1jax.sharding import batch_sharding, make_mesh, param_shapes, param_shardings, place
from r1jax.training.gradients import accumulate, accumulate_parts
from r1jax.training.language_model import cross_entropy_sums
from tests.helpers.training import random_params

SMALL = ModelConfig(
    vocab_size=24,
    hidden_size=16,
    intermediate_size=24,
    num_layers=2,
    num_heads=2,
    num_kv_heads=2,
    head_dim=8,
    attention_bias=True,
)
ROWS = {
    "tokens": np.random.default_rng(0).integers(0, 24, (8, 9)),
    "mask": np.random.default_rng(1).random((8, 8)) < 0.7,
}
PARTS = {name: x.reshape(4, 2, -1) for name, x in ROWS.items()}


@partial(jax.jit, static_argnames=("config", "microbatches"))
def gradient(params, batch, config, microbatches):
    """Gradient and count of the summed cross-entropy."""
    return accumulate(
        partial(cross_entropy_sums, config=config, chunk=64), cast(params, config), batch, microbatches, config
    )[0]


@pytest.mark.parametrize(
    ("mesh", "options", "microbatches"),
    [
        ("1x1", {}, 4),
        ("2x1", {"tie_embeddings": False, "unroll": True}, 4),
        ("1x2", {"remat": "block"}, 4),
        ("2x1", {"gather": "device"}, 4),
        ("2x1", {"gather": "device", "tie_embeddings": False}, 1),
    ],
    ids=["1x1 tied", "2x1 untied", "1x2 tied", "2x1 by device", "2x1 by device at once"],
)
def test_the_sum_is_the_gradient_of_the_whole_batch(mesh, options, microbatches):
    config, mesh = dataclasses.replace(SMALL, **options), make_mesh(mesh)
    params = random_params(config)
    plain = jax.jit(jax.grad(lambda p: cross_entropy_sums(p, ROWS, config, chunk=64)[0]))
    want = jax.device_get(plain(params))
    with jax.set_mesh(mesh):
        spread = place(params, param_shardings(param_specs(config), mesh))
        got, count = jax.device_get(gradient(spread, jax.device_put(ROWS, batch_sharding()), config, microbatches))
    assert count == ROWS["mask"].sum()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6 * np.abs(b).max()), got, want)


@partial(jax.jit, static_argnames=("config", "in_place"))
def added(parts, config, in_place=True):
    """Sum over parts [n] of the gradient of w part, where w [2] is a weight of two layers that two scans read."""

    def sums(params, part):
        def layer(total, weights):
            return total + 0.5 * weights_of_layer(weights)["w"] * part[0], None

        first, _ = jax.lax.scan(layer, jnp.zeros(()), params["layers"])
        second, _ = jax.lax.scan(layer, first, params["layers"])
        return second + params["final_norm"] * part[0], (jnp.ones(()),)

    params = {"layers": {"w": jnp.ones(2)}, "final_norm": jnp.ones(())}
    return accumulate(sums, params, parts, len(parts), config, in_place)[0]


@partial(jax.jit, static_argnames=("config", "in_place"))
def gradient_of_parts(params, parts, number, config, in_place=True):
    """As gradient, of the first ``number`` of parts [n, ...]; also the loss of each part."""

    def sums(params, part):
        loss, (count, _) = cross_entropy_sums(params, part, config, chunk=64)
        return loss, (count, loss)

    def part(parts, p):
        return jax.tree.map(lambda x: x[p], parts)

    return accumulate_parts(sums, cast(params, config), part, parts, number, len(parts["mask"]), config, in_place)


@pytest.mark.parametrize("in_place", [True, False])
def test_the_number_of_parts_may_be_known_when_the_program_runs(in_place):
    params = random_params(SMALL)
    for number in (1, 3):
        (grads, count), (losses,) = gradient_of_parts(params, PARTS, number, SMALL, in_place)
        first = {name: x[: 2 * number] for name, x in ROWS.items()}
        loss, want = jax.value_and_grad(lambda p, rows=first: cross_entropy_sums(p, rows, SMALL, chunk=64)[0])(params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), grads, want)
        assert count == first["mask"].sum() and not losses[number:].any()
        np.testing.assert_allclose(losses.sum(), loss, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "want"), [("float32", 260.0), ("bfloat16", 256.0)])
def test_the_sum_is_rounded_to_its_type_after_each_microbatch(dtype, want):
    """From 256 on, numbers of bfloat16 are 2 apart: adding 1 four times changes nothing, and adding 4 would."""
    grads, count = added(jnp.array([256.0, 1.0, 1.0, 1.0, 1.0]), dataclasses.replace(SMALL, accumulate=dtype))
    for x in jax.tree.leaves(grads):
        assert x.dtype == dtype and (np.asarray(x, np.float32) == want).all()
    assert count == 5


def test_sums_that_are_not_in_place_may_be_under_vmap():
    grads, _ = jax.vmap(lambda parts: added(parts, SMALL, False))(jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    np.testing.assert_array_equal(grads["layers"]["w"], [[6.0, 6.0], [15.0, 15.0]])


@pytest.mark.parametrize("known", [True, False])
def test_no_second_array_of_the_sums_size_is_in_memory(known):
    """Of a model with most of its weights in many layers, beside the sum itself, which is the result.

    known: the number of parts, when the program is compiled.
    """
    config = dataclasses.replace(SMALL, num_layers=32, intermediate_size=128, remat="block")
    params = param_shapes(param_specs(config), jnp.float32)
    program = gradient.lower(params, ROWS, config, 4) if known else gradient_of_parts.lower(params, PARTS, 3, config)
    memory = program.compile().memory_analysis()
    assert memory.temp_size_in_bytes < 0.5 * memory.output_size_in_bytes
