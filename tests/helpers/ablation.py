"""A loop of an ablation whose figures are formulas, for tests of what is around it."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from r1jax.ablation.config import AblationConfig, ChunkConfig
from r1jax.evaluation.evaluate import EvaluationConfig
from r1jax.rl.config import RLConfig
from r1jax.sampling.processors import Sampling

CONFIG = AblationConfig(
    sampling=Sampling(max_tokens=8),
    rl=RLConfig(steps=5, prompts=2, group=2),
    evaluation=EvaluationConfig(problems=3, samples=2),
    chunks=ChunkConfig(every=2),
)


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
        return values.get("rl.beta", np.full(count, self._spec.rl.algorithm.beta, np.float32))

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
        correct = np.zeros((len(states.place), 3, 2), bool)
        correct[:, 0, 0] = True  # one of the two samples of one of three problems
        return {"accuracy": states.place / 100, "correct": correct}

    def bytes_of(self, arms, steps):
        return 1000 + 100 * arms + steps
