"""Packed texts have the loss and the gradient of separate texts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.data.text.packing import Example, pack
from r1jax.errors import UserError
from r1jax.models.transformer import cast
from r1jax.training.language_model import cross_entropy_sums

LENGTHS = (9, 4, 12, 7, 3, 13)


@pytest.fixture(scope="module")
def examples(tiny_config):
    rng = np.random.default_rng(0)

    def example(n):
        mask = np.arange(n) >= n // 3  # the first third is a prompt, which is not learned
        return Example(rng.integers(1, tiny_config.vocab_size, n), mask)

    return [example(n) for n in LENGTHS]


def stacked(rows):
    return {name: jnp.asarray(np.stack([row[name] for row in rows])) for name in rows[0]}


def test_first_fit_of_a_small_example():
    tokens = [np.full(n, i + 1) for i, n in enumerate((3, 4, 2, 1))]
    rows = list(pack([Example(t, np.ones(len(t), bool)) for t in tokens], width=5))
    # 3 opens a row of 6, 4 does not fit beside it, 2 fits beside 3, 1 beside both.
    assert [row["tokens"].tolist() for row in rows] == [[1, 1, 1, 3, 3, 4], [2, 2, 2, 2, 0, 0]]
    assert [row["segments"].tolist() for row in rows] == [[1, 1, 1, 2, 2], [1, 1, 1, 1, 0]]
    assert [row["mask"].tolist() for row in rows] == [[True, True, False, True, False], [True] * 3 + [False] * 2]


def test_every_token_is_in_one_row(examples):
    rows = list(pack(examples, width=15))
    assert len(rows) == 4
    found = sorted(int(token) for row in rows for token in row["tokens"] if token)
    assert found == sorted(int(token) for example in examples for token in example.tokens)
    assert sum(row["mask"].sum() for row in rows) == sum(example.mask[1:].sum() for example in examples)


def test_a_packed_batch_has_the_loss_and_gradient_of_its_texts_alone(examples, tiny_config, tiny_params):
    gradient = jax.jit(jax.value_and_grad(cross_entropy_sums, has_aux=True), static_argnames=("config", "chunk"))
    params = cast(tiny_params, tiny_config)
    packed = stacked(list(pack(examples, width=15)))
    (loss, (count, _)), grads = jax.device_get(gradient(params, packed, config=tiny_config, chunk=16))

    alone = jax.device_get([gradient(params, _alone(e, 15), config=tiny_config, chunk=16) for e in examples])
    assert count == sum(c for (_, (c, _)), _ in alone)
    np.testing.assert_allclose(loss, sum(part for (part, _), _ in alone), rtol=1e-5)
    total = jax.tree.map(lambda *g: sum(g), *(g for _, g in alone))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5), grads, total)


def _alone(example, width):
    # One text at the start of a row, without pack and without segments.
    n = len(example.tokens)
    tokens, mask = np.zeros((1, width + 1), np.int32), np.zeros((1, width), bool)
    tokens[0, :n], mask[0, : n - 1] = example.tokens, example.mask[1:]
    return {"tokens": jnp.asarray(tokens), "mask": jnp.asarray(mask)}


def test_texts_that_are_too_long_and_missing_texts_are_refused(examples):
    with pytest.raises(UserError, match="13 tokens and a row 12"):
        list(pack(examples, width=11))
    with pytest.raises(UserError, match="no examples"):
        list(pack([], width=11))
