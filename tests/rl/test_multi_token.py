"""Multi-token prediction in a step of reinforcement learning: its loss, and the figure of its draft."""

import dataclasses

import jax
import numpy as np
import pytest

from r1jax.algorithms.grpo import GRPO
from r1jax.rl.batch import build_batch
from r1jax.rl.metrics import draft_acceptance
from r1jax.rl.update import policy_sums
from r1jax.sampling.slots import Samples
from tests.helpers.latent import sharp_params
from tests.helpers.mtp import MTP, reference_states
from tests.rl.helpers import CONTEXT, M

CONFIG = dataclasses.replace(MTP, num_layers=1, experts=None)
PROMPTS = [[1, 2, 3], [5, 6]]
COMPLETIONS = [[7, 30, 9, 11], [12, 1]]


def samples():
    lengths = np.array([len(one) for one in COMPLETIONS])
    tokens, zeros = np.zeros((2, M), np.int32), np.zeros((2, M), np.float32)
    for row, one in zip(tokens, COMPLETIONS, strict=True):
        row[: len(one)] = one
    return Samples(tokens, lengths, np.zeros(2, np.int32), zeros - 3, zeros - 3, np.int32(4))


def test_only_the_layers_of_multi_token_prediction_learn_from_it():
    """With advantages of 0 the algorithm has no gradient."""
    params, context = sharp_params(CONFIG), dataclasses.replace(CONTEXT, mtp_weight=0.3)

    @jax.jit
    def gradient(params, batch):
        return jax.grad(policy_sums, has_aux=True)(params, batch, GRPO(beta=0.0), context, CONFIG)

    batch = build_batch(PROMPTS, samples(), 3 + M, advantages=np.zeros(2))
    learned, (_, metrics, *_) = gradient(params, batch)
    own = learned.pop("mtp")
    assert not any(w.any() for w in jax.tree.leaves(learned))
    assert all(own[name].any() for name in ("embedding_norm", "state_norm", "projection", "final_norm"))
    assert own["mlp"]["gate"].any() and own["attention"]["kv_up"].any()

    host, expected = jax.device_get(params), []
    for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True):
        text = prompt + completion
        logits = reference_states(host, text)[1] @ host["unembedding"].astype(np.float64) / CONTEXT.temperature
        logq = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        expected += [-logq[i - 2, text[i]] for i in range(len(prompt), len(text))]
    total, weight = metrics["mtp_loss"]
    assert weight == len(expected) == 6
    assert total / weight == pytest.approx(np.mean(expected), rel=1e-5)


def test_the_acceptance_is_the_share_of_the_proposed_tokens_of_all_samples():
    drafted = dataclasses.replace(samples(), proposed=np.array([3, 1]), accepted=np.array([1, 0]))
    assert draft_acceptance(drafted) == {"draft_acceptance": 0.25}
    assert draft_acceptance(samples()) == {}
    assert draft_acceptance(dataclasses.replace(drafted, proposed=np.zeros(2, int))) == {}
