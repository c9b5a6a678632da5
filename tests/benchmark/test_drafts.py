"""The time of a step that verifies proposed tokens, from calls whose time is known."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.benchmark import drafts
from r1jax.benchmark.drafts import time_drafts
from r1jax.sampling.processors import Sampling
from r1jax.sampling.slots import Samples


def test_prefill_is_left_out(monkeypatch, tiny_config):
    """A call takes 7 s, and each step 0.1 s or, with proposals, 0.1 s and as much for each; half of them count."""

    def sampled(params, queue, key, config, sampling, end_tokens, widths):
        tokens, (slots,) = int(queue.limits[0]), widths
        assert len(queue.prompts) == max(1, slots // 4) and sampling.draft_slots == (
            slots if sampling.proposals else 32
        )
        steps = -(-tokens // (1 + sampling.proposals // 2))
        none = jnp.zeros((slots, 1))
        counts = (jnp.full(slots, 10), jnp.full(slots, 5)) if sampling.proposals else (None, None)
        samples = Samples(none, none, none, none, none, jnp.int32(steps), None, *counts)
        sampled.seconds = 7 + 0.1 * steps * (1 + sampling.proposals)
        return samples

    def seconds_of(call, repeats):
        call()
        return sampled.seconds

    monkeypatch.setattr(drafts, "sample_queue", sampled)
    monkeypatch.setattr(drafts, "timed", seconds_of)
    state = types.SimpleNamespace(policy=types.SimpleNamespace(params={}))
    prompts = [[1, 2]] * 4
    bench = types.SimpleNamespace(
        sampling=Sampling(max_tokens=32), prompts=prompts, model_config=tiny_config, state=state
    )
    rows = list(time_drafts(bench, ((2, 0), (2, 2), (8, 0), (8, 4)), 4, 1))
    np.testing.assert_allclose([row["seconds"] for row in rows], [0.1, 0.3, 0.1, 0.5])
    assert [row["times_single"] for row in rows] == pytest.approx([1, 3, 1, 5])
    assert [row["accepted"] for row in rows] == [0, 0.5, 0, 0.5] and rows[1]["steps"] == 16
