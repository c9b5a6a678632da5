"""YaRN against values worked by hand and values of transformers."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models import rotary
from r1jax.models.config import ModelConfig, Yarn

BARE = ModelConfig(head_dim=8)  # frequencies 1, 0.1, 0.01 and 0.001
YARN = Yarn(factor=4.0, original_context=200, beta_fast=4.0, beta_slow=1.0)


def test_yarn_by_hand():
    """Over 200 tokens, the pair 0.9008 would turn 4 times and the pair 1.5029 once."""
    first, last = (8 * np.log(200 / (2 * np.pi * turns)) / (2 * np.log(1e4)) for turns in (4, 1))
    assert (round(first, 4), round(last, 4)) == (0.9008, 1.5029)

    def scaled(**options):
        return rotary.frequencies(dataclasses.replace(BARE, rope_scaling=dataclasses.replace(YARN, **options)))

    # Pairs 0 to 2: the first is kept, the third is divided by 4, and the second is halfway between.
    np.testing.assert_allclose(scaled(), [1, 0.1 * (1 + 1 / 4) / 2, 0.01 / 4, 0.001 / 4], rtol=1e-6)
    kept = (last - 1) / (last - first)
    np.testing.assert_allclose(scaled(truncate=False)[1], 0.1 * (kept + (1 - kept) / 4), rtol=1e-6)
    np.testing.assert_allclose(scaled(factor=1.0), [1, 0.1, 0.01, 0.001], rtol=1e-6)


# Frequencies 8, 12, 16, 20 and 24 of 32 for theta 10,000, and the two factors, of transformers 5.23.
PUBLISHED = [
    ({"mscale": 1.0, "mscale_all_dim": 1.0}, [0.1, 0.02687936, 0.0055, 0.0007905694, 2.5e-05], 1.0, 1.87385421),
    ({"mscale": 0.707, "mscale_all_dim": 0.707}, [0.1, 0.02687936, 0.0055, 0.0007905694, 2.5e-05], 1.0, 1.58962617),
    ({"mscale_all_dim": 0.5}, [0.1, 0.02687936, 0.0055, 0.0007905694, 2.5e-05], 1.15572199, 1.40290752),
    ({"factor": 4.0, "original_context": 32768}, [0.1, 0.03162278, 0.01, 0.002614961, 0.0005961539], 1.13862944, 1.0),
    (
        {"factor": 4.0, "original_context": 32768, "truncate": False, "attention_factor": 1.3},
        [0.1, 0.03162278, 0.01, 0.002708657, 0.000607408],
        1.3,
        1.0,
    ),
    (
        {"factor": 4.0, "original_context": 64, "mscale": 0.707},
        [0.03333333, 0.007905695, 0.0025, 0.0007905695, 0.00025],
        1.13862944,
        1.0,
    ),
    # The pair that turns once would be 66 and is limited to 63, although there are only 32 pairs.
    (
        {"factor": 8.0, "original_context": 10**9, "beta_fast": 1e6},
        [0.1, 0.03162278, 0.01, 0.002981822, 0.0008668479],
        1.20794415,
        1.0,
    ),
    # Both limits are rounded to the first pair, which alone is kept.
    (
        {"factor": 8.0, "original_context": 200, "beta_fast": 33.0, "beta_slow": 32.0},
        [0.0125, 0.003952847, 0.00125, 0.0003952847, 0.000125],
        1.20794415,
        1.0,
    ),
]


@pytest.mark.parametrize(("options", "frequencies", "on_tables", "on_scores"), PUBLISHED)
def test_yarn_equals_transformers(options, frequencies, on_tables, on_scores):
    config = dataclasses.replace(BARE, head_dim=64, rope_scaling=Yarn(**options))
    np.testing.assert_allclose(rotary.frequencies(config)[8:28:4], frequencies, rtol=1e-6)
    np.testing.assert_allclose(rotary.score_factor(config), on_scores, rtol=1e-8)
    cos, sin = rotary.tables(jnp.array([5]), config)
    np.testing.assert_allclose(np.hypot(cos, sin), np.full((1, 32), on_tables), rtol=1e-6)
    np.testing.assert_allclose(np.arctan2(sin, cos)[0, 8:28:4], 5 * np.array(frequencies), rtol=1e-5)


def test_other_scalings_have_no_factors():
    assert rotary.score_factor(BARE) == 1
    np.testing.assert_allclose(np.hypot(*rotary.tables(jnp.arange(9), BARE)), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor": 0.5}, "must be at least 1"),
        ({"beta_slow": 32.0}, "must be below beta_fast"),
        ({"mscale": -1.0}, "mscale is -1.0"),
        ({"attention_factor": 0.0}, "attention_factor is 0.0"),
    ],
)
def test_impossible_yarn_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Yarn(**options)


def test_yarn_needs_a_base_above_one():
    with pytest.raises(ValueError, match="must be above 1"):
        ModelConfig(rope_theta=1.0, rope_scaling=Yarn())
