"""Processing of logits: frequencies of drawn tokens, the kernel of the draw, truncation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.kernels.block_sums import BLOCK, block_sums_kernel
from r1jax.sampling import processors
from r1jax.sampling.processors import Sampling, draw, sample_token, truncate


def shares(index, n):
    """The share of the 2^32 words that the non-decreasing ``index`` (words -> 0..n-1) maps to each entry."""
    low, high = np.zeros(n - 1, np.uint64), np.full(n - 1, 2**32, np.uint64)  # of the first word beyond entry j
    for _ in range(33):
        middle = (low + high) // 2
        beyond = (middle == 2**32) | (index(np.minimum(middle, 2**32 - 1).astype(np.uint32)) > np.arange(n - 1))
        low, high = np.where(beyond, low, middle + 1), np.where(beyond, middle, high)
    return np.diff(np.concatenate([[0.0], low.astype(np.float64), [2.0**32]])) / 2**32


DRAW = jax.jit(draw)


def drawn_shares(logits):
    """Exact probability of each token under draw, over all pairs of words; 0 in blocks that no word selects."""
    blocks = -(-len(logits) // BLOCK)
    tile = jnp.tile(jnp.asarray(logits), (BLOCK, 1))  # always as many rows: other shapes add up in other orders

    def tokens(first, second):
        words = np.zeros((BLOCK, 2), np.uint32)
        first, second = np.broadcast_arrays(np.uint32(first), np.uint32(second))
        words[: first.size, 0], words[: first.size, 1] = first.ravel(), second.ravel()
        return np.asarray(DRAW(tile, words)[0])[: first.size]

    of_block = shares(lambda words: tokens(words, 0) // BLOCK, blocks)
    ends = np.cumsum(of_block) * 2**32
    found = np.zeros(blocks * BLOCK)
    for block in np.flatnonzero(of_block):
        inside = shares(lambda words, block=block: tokens(ends[block] - 1, words) % BLOCK, BLOCK)
        found[block * BLOCK : (block + 1) * BLOCK] = of_block[block] * inside
    return found


def logits_of(kind):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=600).astype(np.float32)
    if kind == "peaked":  # nearly all mass on three tokens; the others have 1e-22 to 1e-10, at the edges of blocks too
        logits = rng.uniform(-50, -23, size=600).astype(np.float32)
        logits[[5, 130, 400]] = 0.0, -0.3, -1.0
    elif kind == "masked":
        logits[rng.random(600) < 0.9] = -np.inf
        logits[256:384] = -np.inf  # a whole block
    elif kind == "tail":  # a block far below the rest, in which float32 would round relative to the row's maximum
        logits[128:256] -= 95.0
    elif kind == "flat":
        logits = np.zeros(600, np.float32)
    return logits


@pytest.mark.parametrize("kind", ["normal", "peaked", "masked", "tail", "flat"])
def test_every_token_is_drawn_as_often_as_its_probability_says(kind):
    logits = logits_of(kind)
    p = np.exp(logits.astype(np.float64))
    p /= p.sum()
    found = drawn_shares(logits)
    assert found.sum() == pytest.approx(1.0, abs=1e-12) and not found[600:].any()
    found = found[:600]
    assert (np.abs(found - p) <= 2.0**-30 + 5e-7 * p).all()
    assert not found[p == 0].any()
    rare = p < 1e-12
    assert found[rare].sum() <= p[rare].sum() + 2.0**-30  # and not each of them a little too often


def test_draw_gives_the_normaliser_and_ends_at_tokens_with_mass():
    logits = np.full((2, 300), -np.inf, np.float32)
    logits[:, 7], logits[:, 205] = 0.0, 1.0
    words = np.array([[0, 0], [2**32 - 1, 2**32 - 1]], np.uint32)
    tokens, normaliser = DRAW(logits, words)
    assert tokens.tolist() == [7, 205]
    np.testing.assert_allclose(normaliser, np.log(1 + np.e), rtol=1e-6)


def test_draw_with_the_kernel_is_the_same(monkeypatch):
    rng = np.random.default_rng(1)
    logits = jnp.asarray(rng.normal(size=(16, 300)) * 4, jnp.float32)
    words = jnp.asarray(rng.integers(0, 2**32, (16, 2)), jnp.uint32)
    plain = DRAW(logits, words)
    monkeypatch.setattr(processors, "block_sums", lambda logits, kernels: block_sums_kernel(logits, interpret=True))
    kernel = jax.jit(lambda *given: draw(*given))(logits, words)  # another function: DRAW is compiled
    np.testing.assert_array_equal(plain[0], kernel[0])
    np.testing.assert_allclose(plain[1], kernel[1], rtol=1e-6)


def test_truncation_by_hand():
    logits = jnp.log(jnp.array([[0.4, 0.3, 0.2, 0.06, 0.04]]))

    def kept(**options):
        return np.isfinite(jax.jit(truncate, static_argnums=1)(logits, Sampling(**options)))[0].tolist()

    assert kept(top_k=2) == [True, True, False, False, False]
    assert kept(top_p=0.75) == [True, True, True, False, False]  # 0.7 is not yet enough
    assert kept(top_p=0.05) == [True, False, False, False, False]
    assert kept(min_p=0.12) == [True, True, True, True, False]  # 0.12 * 0.4 = 0.048
    assert kept(top_k=3, min_p=0.6) == [True, True, False, False, False]


def test_logprobs_of_a_truncated_draw_by_hand():
    logits = np.log(np.array([[0.4, 0.3, 0.2, 0.1]], np.float32))
    word = np.full((1, 2), int(0.6 * 2**32), np.uint32)
    sampled = jax.jit(sample_token, static_argnums=2)
    token, policy, drawn = sampled(logits, word, Sampling(top_k=2))
    assert token.tolist() == [1]  # 0.6 * 0.7 = 0.42 lies past 0.4
    np.testing.assert_allclose(jnp.exp(policy), [0.3], rtol=1e-6)
    np.testing.assert_allclose(jnp.exp(drawn), [3 / 7], rtol=1e-6)
    _, policy, drawn = sampled(logits, word, Sampling(temperature=0.5))
    np.testing.assert_allclose(jnp.exp(policy), [0.09 / 0.30], rtol=1e-6)
