"""Measures the error of gradients that are added up over microbatches in float32 and in bfloat16.

    PYTHONPATH=. python tests/tools/measure_accumulation.py docs/results/accumulate-bfloat16.json

A small model with random weights computes in bfloat16. The reference are the gradients of the same weights in float32,
added in float64. The error of a sum is its distance from the reference relative to the norm of the reference, over all
weights. The loss is the cross-entropy, or the log-probability of a sequence times a random sign, as in reinforcement
learning, where most of the gradients of a batch cancel.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.algorithms.logprobs import token_logprobs
from r1jax.benchmark.workload import frequencies
from r1jax.models.config import ModelConfig
from r1jax.models.transformer import cast, hidden_states, param_specs, unembedding
from r1jax.pipeline.manifest import versions
from r1jax.sharding import init_params
from r1jax.training.gradients import accumulate

ROWS, LENGTH, VOCABULARY = 64, 64, 512
MODEL = ModelConfig(
    vocab_size=VOCABULARY,
    hidden_size=128,
    intermediate_size=384,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
)


def sums(params, batch, config):
    """Sum of sign times log-probability over a microbatch, and its count."""
    h, _ = hidden_states(params, batch["tokens"][:, :-1], config)
    logp, _ = token_logprobs(h, unembedding(params, config), batch["tokens"][:, 1:])
    return -(batch["sign"][:, None] * logp).sum(), (jnp.ones(()),)


@partial(jax.jit, static_argnums=(2, 3))
def gradient(params, batch, config, microbatches):
    """The gradient of a batch, added over microbatches."""
    return accumulate(partial(sums, config=config), cast(params, config), batch, microbatches, config)[0][0]


def flat(tree):
    """All numbers of a tree in float64."""
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)])


def main():
    """Writes the errors for each loss, number of microbatches and type."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    file = parser.parse_args().file
    rng = np.random.default_rng(0)
    params = init_params(param_specs(MODEL), jax.random.key(0))
    params = jax.tree.map(lambda w: w.astype(jnp.bfloat16).astype(jnp.float32), params)  # the same in both types
    tokens = rng.choice(VOCABULARY, (ROWS, LENGTH + 1), p=frequencies(VOCABULARY))
    losses = {"cross-entropy": np.ones(ROWS, np.float32), "random signs": rng.choice([-1.0, 1.0], ROWS)}
    errors = {}
    for loss, sign in losses.items():
        batch = {"tokens": tokens, "sign": sign.astype(np.float32)}
        rows = [jax.tree.map(lambda x, i=i: x[i : i + 8], batch) for i in range(0, ROWS, 8)]
        want = sum(flat(gradient(params, row, MODEL, 1)) for row in rows)
        for microbatches in (1, 8, 64):
            for kind in ("float32", "bfloat16"):
                config = dataclasses.replace(MODEL, dtype="bfloat16", accumulate=kind)
                got = flat(gradient(params, batch, config, microbatches))
                error = float(np.linalg.norm(got - want) / np.linalg.norm(want))
                errors.setdefault(loss, {}).setdefault(f"{microbatches} microbatches", {})[kind] = error
                print(f"{loss}, {microbatches} microbatches, {kind}: {error:.2e}")
    figures = {"errors": errors, "device": jax.devices()[0].device_kind, "versions": versions("jax", "jaxlib")}
    file.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
