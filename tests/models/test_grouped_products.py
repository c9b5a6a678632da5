"""Products by group against products with a matrix per row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models.grouped_products import (
    from_groups,
    grouped_product,
    loop_outer,
    loop_product,
    order_by_group,
    ragged_outer,
    ragged_product,
    to_groups,
)

SIZES = [[0, 50, 1, 9, 0], [60, 0, 0, 0, 0], [0, 0, 0, 0, 60], [12, 12, 12, 12, 12], [1, 1, 1, 1, 56]]


def drawn(sizes, dtype="float32"):
    rng = np.random.default_rng(0)
    x, w, y = (rng.normal(size=shape).astype(dtype) for shape in ((60, 7), (5, 7, 6), (60, 6)))
    return x, w, y, np.array(sizes, np.int32)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_both_forms_equal_a_product_per_row(sizes):
    x, w, y, ends = drawn(sizes)
    group = np.repeat(np.arange(5), sizes)
    product = np.einsum("mk,mkn->mn", np.float64(x), np.float64(w)[group])
    outer = np.zeros((5, 7, 6))
    np.add.at(outer, group, np.float64(x)[:, :, None] * np.float64(y)[:, None])
    for form in (loop_product, ragged_product):
        np.testing.assert_allclose(jax.jit(form)(x, w, ends), product, atol=1e-5)
    for form in (loop_outer, ragged_outer):
        np.testing.assert_allclose(jax.jit(form)(x, y, ends), outer, atol=1e-5)


def test_gradients_equal_those_of_a_product_per_row():
    x, w, y, sizes = map(jnp.asarray, drawn(SIZES[0]))
    group = np.repeat(np.arange(5), SIZES[0])

    def loss(product):
        return lambda x, w: (jnp.sin(product(x, w)) * y).sum()

    own = jax.jit(jax.grad(loss(lambda x, w: grouped_product(x, w, sizes)), argnums=(0, 1)))(x, w)
    other = jax.jit(jax.grad(loss(lambda x, w: jnp.einsum("mk,mkn->mn", x, w[group])), argnums=(0, 1)))(x, w)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), own, other)


def test_copies_go_to_their_groups_and_back():
    groups = jnp.array([[2, 0], [0, 1], [2, 1], [0, 2]])
    order = order_by_group(groups, 4)
    assert order.sizes.tolist() == [3, 2, 3, 0]
    rows = jnp.arange(4.0)[:, None]
    assert to_groups(rows, order)[:, 0].tolist() == [0, 1, 3, 1, 2, 0, 2, 3]
    copies = from_groups(to_groups(rows, order), order, 2)
    np.testing.assert_array_equal(copies, np.repeat(rows[:, None], 2, axis=1))


def test_bfloat16_sums_are_in_float32():
    """In bfloat16 a sum of ones stops at 256, and 1 + 2^-8 is 1."""
    ones = jnp.ones((500, 1), jnp.bfloat16)
    gradient = jax.jit(jax.grad(lambda w: grouped_product(ones, w, jnp.array([0, 500])).astype(jnp.float32).sum()))
    assert gradient(jnp.ones((2, 1, 1), jnp.bfloat16)).ravel().tolist() == [0, 500]
    wide = jax.jit(grouped_product)(
        jnp.ones((1, 500), jnp.bfloat16), jnp.ones((1, 500, 1), jnp.bfloat16), jnp.array([1])
    )
    assert wide.tolist() == [[500]]
    order = order_by_group(jnp.array([[0, 1, 2]]), 3)
    factors = jnp.array([[1.0], [2**-8], [2**-8]])
    copies = jax.grad(lambda h: (to_groups(h, order).astype(jnp.float32) * factors).sum())(jnp.ones((1, 1), "bfloat16"))
    assert copies.item() == 1 + 2**-7
