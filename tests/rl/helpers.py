"""Batches of eight sampled completions, and the arguments of their updates."""

import jax
import numpy as np

from r1jax.rl.batch import build_batch
from r1jax.rl.config import UpdateContext
from r1jax.rl.setup import StepSetup
from r1jax.sampling.processors import Sampling

PROMPTS = [[1, 2, 3], [5, 6]]
GROUP = 4
M = 10
SAMPLING = Sampling(max_tokens=M, temperature=0.8)


def batch_of(samples, counts=None):
    """All samples, with logits from the first completion on only."""
    B = len(PROMPTS) * GROUP
    prompts = [p for p in PROMPTS for _ in range(GROUP)]
    batch = build_batch(prompts, samples, 3 + M, counts=counts, advantages=np.linspace(-1, 1, B))
    return batch.replace(first=min(map(len, PROMPTS)) - 1)


def close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


CONTEXT = UpdateContext(temperature=0.8, on_policy=True, max_tokens=M, chunk=16)


def setup_of(config, optimizer, model):
    """The setup that ``learn`` reads; nothing is sampled or scored."""
    return StepSetup(config, model, config.context(SAMPLING), optimizer, {}, 3 + M, None, None)
