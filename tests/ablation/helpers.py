"""A loop of an ablation whose figures are formulas, for tests of what is around it."""

from __future__ import annotations

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from r1jax.rl.config import RLConfig
from r1jax.sampling.processors import Sampling

NUMBERS = ("rl.algorithm.beta", "rl.learning_rate")


@dataclasses.dataclass(frozen=True)
class Spec:
    """The settings of an arm."""

    rl: RLConfig = RLConfig(steps=7, prompts=2, group=2)
    sampling: Sampling = Sampling(max_tokens=8)
    seed: int = 0


@flax.struct.dataclass
class Walks:
    """A random walk for each training."""

    place: jax.Array  # [N]
    seeds: jax.Array  # [N]


def draws(seeds, step):
    """A random number for each seed: [N] float32."""
    return np.array([np.random.default_rng((seed, step)).normal() for seed in seeds], np.float32)


class FakeLoop:
    """At each step, a walk moves by a random number of its seed and step, times beta plus rl.group.

    ``calls`` are the steps that ran, and how many trainings at a time. ``at`` is called with each first step.
    """

    def __init__(self, spec, calls=None, at=lambda step: None):
        self._spec, self.calls, self._at = spec, [] if calls is None else calls, at

    def _scale(self, values, count):
        return values.get("rl.algorithm.beta", np.full(count, self._spec.rl.algorithm.beta, np.float32))

    def start(self, values, seeds):
        return Walks(jnp.zeros(len(seeds)), jnp.asarray(seeds))

    def run(self, states, values, first_step, steps):
        self._at(first_step)
        place, seeds, rows = np.asarray(states.place), np.asarray(states.seeds), []
        for step in range(first_step, first_step + steps):
            place = place + draws(seeds, step) * self._scale(values, len(seeds)) + np.float32(self._spec.rl.group)
            rows.append(place)
        self.calls.append((first_step, steps, len(seeds)))
        rewards = jnp.asarray(np.stack(rows, axis=1))
        return Walks(jnp.asarray(place), states.seeds), {"reward": rewards, "tokens": jnp.ones_like(rewards)}

    def evaluate(self, states):
        return {"accuracy": states.place / 100}

    def bytes_of(self, arms):
        return 1000 + 100 * arms
