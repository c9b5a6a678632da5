"""Chunked log-probabilities against the plain formula in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.algorithms.logprobs import token_logprobs, token_predictions

B, T, D, V = 3, 7, 8, 37


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    return rng.normal(size=(B, T, D)), rng.normal(size=(D, V)), rng.integers(0, V, (B, T)), rng.normal(size=(2, B, T))


def plain(hidden, unembedding, targets, temperature):
    z = hidden @ unembedding / temperature
    logq = z - np.log(np.exp(z).sum(-1, keepdims=True))
    q = np.exp(logq)
    return logq, q, np.take_along_axis(logq, targets[..., None], -1)[..., 0], -(q * logq).sum(-1)


@pytest.mark.parametrize("chunk", [1, 6, 10_000])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_values_and_gradients_match_float64(case, chunk, temperature):
    hidden, unembedding, targets, weights = case

    def weighted(h, w):
        logp, entropy = token_logprobs(h, w, jnp.asarray(targets), temperature, chunk)
        return (logp * weights[0]).sum() + (entropy * weights[1]).sum(), (logp, entropy)

    gradient = jax.jit(jax.grad(weighted, argnums=(0, 1), has_aux=True))
    (d_h, d_w), (logp, entropy) = gradient(np.float32(hidden), np.float32(unembedding))
    logq, q, want_logp, want_entropy = plain(hidden, unembedding, targets, temperature)
    np.testing.assert_allclose(logp, want_logp, atol=1e-5)
    np.testing.assert_allclose(entropy, want_entropy, atol=1e-5)
    # d logp = 1[target] - q and d entropy = -q (log q + H), both over temperature.
    dz = weights[0][..., None] * (np.eye(V)[targets] - q) - weights[1][..., None] * q * (logq + want_entropy[..., None])
    dz /= temperature
    np.testing.assert_allclose(d_h, dz @ unembedding.T, atol=1e-4)
    np.testing.assert_allclose(d_w, np.einsum("btd,btv->dv", hidden, dz), atol=1e-4)


def test_no_array_of_tokens_by_vocabulary(case):
    """The largest intermediate with a vocabulary axis has one chunk of tokens, forward and backward."""
    chunk = 2 * B

    def loss(h, w):
        logp, entropy = token_logprobs(h, w, jnp.zeros((B, 64), jnp.int32), 1.0, chunk)
        return (logp + entropy).sum()

    text = str(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(jnp.ones((B, 64, D)), jnp.ones((D, V))))
    assert f"f32[{B},2,{V}]" in text
    for tokens in (f"{B},64,{V}", f"32,{B},2,{V}", f"{B * 64},{V}"):
        assert f"[{tokens}]" not in text


def test_the_right_predictions_are_those_without_a_more_likely_token():
    rng = np.random.default_rng(0)
    hidden, matrix = rng.normal(size=(3, 40, 4)).astype(np.float32), rng.normal(size=(4, 5)).astype(np.float32)
    targets = rng.integers(0, 5, (3, 40))
    logp, best = token_predictions(hidden, matrix, targets, 0.7, 16)
    np.testing.assert_array_equal(best, (hidden @ matrix).argmax(axis=-1) == targets)
    assert 10 < best.sum() < 110
    np.testing.assert_array_equal(logp, token_logprobs(hidden, matrix, targets, 0.7, 16)[0])
