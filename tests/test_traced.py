"""Settings that are arrays, and functions that are compiled alone or as parts of another program."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.algorithms.grpo import GRPO
from r1jax.algorithms.logprobs import token_logprobs
from r1jax.errors import UserError
from r1jax.rl.config import RLConfig
from r1jax.traced import enabled, holds_arrays, program, replace, where_enabled


@dataclasses.dataclass(frozen=True)
class Scale:
    by: float


@program(static_argnames="scale")
def scaled(x, scale):
    """x times the scale."""
    traces.append(scale.by)
    return x * scale.by


traces = []


def test_a_program_is_compiled_once_by_its_static_arguments_and_inlined_in_others():
    traces.clear()
    x = jnp.arange(3.0)
    for _ in range(2):
        np.testing.assert_array_equal(scaled(x, Scale(2.0)), [0, 2, 4])
    assert traces == [2.0]
    per_arm = jax.jit(jax.vmap(lambda by: scaled(x, replace(Scale(1.0), by=by))))
    np.testing.assert_array_equal(per_arm(jnp.array([2.0, 3.0])), [[0, 2, 4], [0, 3, 6]])
    assert scaled.lower(x, Scale(2.0)).compile()(x).tolist() == [0, 2, 4]
    assert scaled.__doc__ == "x times the scale."


def test_replace_checks_numbers_and_not_arrays():
    with pytest.raises(UserError):
        replace(RLConfig(), learning_rate=-1.0)
    changed = jax.jit(lambda rate: replace(RLConfig(), learning_rate=rate).learning_rate)
    assert changed(-1.0) == -1.0
    assert not holds_arrays(RLConfig()) and holds_arrays(replace(GRPO(), beta=jnp.zeros(())))


def test_a_weight_is_disabled_by_the_python_number_0_alone():
    assert not enabled(0) and not enabled(0.0) and not enabled(False) and enabled(0.5)
    assert enabled(jnp.zeros(()))
    values = jnp.array([1.0, 2.0])
    np.testing.assert_array_equal(where_enabled(jnp.zeros(()), values, 3.0), [3, 3])
    np.testing.assert_array_equal(where_enabled(jnp.array(0.5), values, 3.0), values)
    assert where_enabled(0.5, values, 3.0) is values


def test_a_temperature_that_is_an_array():
    keys = jax.random.split(jax.random.key(0), 3)
    hidden, matrix = jax.random.normal(keys[0], (2, 3, 4)), jax.random.normal(keys[1], (4, 7))
    targets = jax.random.randint(keys[2], (2, 3), 0, 7)

    def total(hidden, temperature):
        return sum(x.sum() for x in token_logprobs(hidden, matrix, targets, temperature))

    want = jax.value_and_grad(total)(hidden, 0.7)
    got = jax.jit(jax.value_and_grad(total))(hidden, jnp.float32(0.7))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
