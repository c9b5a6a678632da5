"""The update of a language model."""

import jax
import numpy as np
import pytest

from r1jax.models.transformer import forward
from r1jax.training.language_model import language_model_update
from r1jax.training.metrics import reduce_metrics
from tests.helpers.training import fresh


def test_language_model_update_lowers_the_loss_on_its_batch(tiny_params, tiny_config):
    tokens = np.random.default_rng(0).integers(0, tiny_config.vocab_size, (4, 12))
    batch = {"tokens": tokens, "mask": np.broadcast_to(np.arange(11) < 8, (4, 11))}
    logits = np.asarray(jax.jit(forward, static_argnums=2)(tiny_params, tokens, tiny_config), np.float64)
    logq = (logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))[:, :-1]
    want = -np.take_along_axis(logq, tokens[:, 1:, None], -1)[:, :8].mean()
    state, optimizer, _ = fresh(tiny_params, tiny_config)
    losses = []
    for _ in range(3):
        state, metrics = language_model_update(state, batch, optimizer, tiny_config, 2)
        losses.append(reduce_metrics(metrics)["loss"])
    assert losses[0] == pytest.approx(float(want), rel=1e-5)
    assert losses[0] > losses[1] > losses[2]
