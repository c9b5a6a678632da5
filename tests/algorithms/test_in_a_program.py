"""Algorithms as parts of a program of JAX: arrays on the devices, and settings that are arrays."""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.algorithms.ppo import PPO
from r1jax.algorithms.prime import LABELS, PRIME
from r1jax.algorithms.relatives import DAPO
from r1jax.traced import replace
from tests.algorithms.test_prime import random_rollout

# Settings that act by arithmetic, with other values than the defaults; 0 turns a term off.
NUMBERS = {
    PPO(): [
        {"beta": 0.3, "gamma": 0.9, "gae_lambda": 0.7, "whiten": True, "value_clip": 0.05},
        {"beta": 0.0, "gamma": 1.0, "gae_lambda": 0.0, "whiten": False, "value_clip": 0.0},
    ],
    PRIME(): [
        {"gamma": 0.9, "prm_beta": 0.5, "process_weight": 2.0, "normalise_process": True},
        {"gamma": 0.0, "prm_beta": 0.1, "process_weight": 0.0, "normalise_process": False},
    ],
}


@pytest.mark.parametrize("algorithm", NUMBERS, ids=lambda one: type(one).__name__)
def test_settings_that_are_arrays_give_what_numbers_give(algorithm):
    rollout = random_rollout()
    (name,) = algorithm.learned
    rollout = dataclasses.replace(rollout, outputs={name: rollout.outputs["prm"]})

    def results(algorithm):
        advantages, targets = algorithm.prepare(rollout)
        trained = rollout.outputs[name] * 1.1
        return advantages, algorithm.learned_loss(name, trained, rollout.mask, targets[name])

    varied = jax.jit(jax.vmap(lambda values: results(replace(algorithm, **values))))
    found = varied({key: jnp.array([one[key] for one in NUMBERS[algorithm]]) for key in NUMBERS[algorithm][0]})
    for arm, values in enumerate(NUMBERS[algorithm]):
        own = dataclasses.replace(algorithm, **values)
        want = jax.jit(lambda own=own: results(own))()
        jax.tree.map(lambda a, b, arm=arm: np.testing.assert_allclose(a[arm], b, rtol=1e-4, atol=1e-5), found, want)


def test_a_weight_of_the_divergence_that_is_an_array_needs_a_reference():
    assert not PPO().needs_reference and replace(PPO(), beta=jnp.zeros(())).needs_reference


@pytest.mark.parametrize("group", [5, 10])
def test_prime_keeps_the_same_groups_with_the_ends_of_the_range(group):
    """All shares of correct completions, at limits that float32 does not hold exactly."""
    labels = (np.arange(group) < np.arange(group + 1)[:, None]).astype(np.float32)  # 0 to all of a group
    spread = np.arange(group + 1) != 2
    for low, high in [(0.2, 0.8), (0.3, 0.7), (0.4, 0.6), (0.0, 1.0)]:
        limits = PRIME(accuracy_low=low, accuracy_high=high)
        want = limits.keeps(labels, spread, {LABELS: labels})
        np.testing.assert_array_equal(
            want, [group * low - 0.01 < k < group * high + 0.01 and k != 2 for k in range(group + 1)]
        )

        def kept(low, high, limits=limits):
            arrays: Any = replace(limits, accuracy_low=low, accuracy_high=high)
            return arrays.keeps(jnp.asarray(labels), jnp.asarray(spread), {LABELS: jnp.asarray(labels)})

        np.testing.assert_array_equal(jax.jit(kept)(low, high), want)


@pytest.mark.parametrize("labels", [(0.1, 0.5, 0.2, 0.8), (0.2, 0.8, 0.9, 0.9)])
def test_means_of_float32_do_not_leave_the_range_by_rounding(labels):
    """The means are 0.4 and 0.7, and in float32 0.39999998 and 0.70000005 in some orders."""
    rows = np.array(list(itertools.permutations(labels)), np.float32)
    algorithm: Any = PRIME(accuracy_low=0.4, accuracy_high=0.7)
    kept = jax.jit(lambda x: algorithm.keeps(x, jnp.ones(len(x), bool), {LABELS: x}))
    assert kept(rows).all()


def test_truncated_samples_inside_a_program():
    truncated = np.array([True, False, True])
    assert jax.jit(DAPO.counted)(truncated).tolist() == DAPO.counted(truncated).tolist() == [False, True, False]
