"""Layers of multi-token prediction against their formulas in NumPy."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

from r1jax.models.mtp import mtp_states, without_mtp
from r1jax.models.transformer import hidden_states, param_specs, scalar_config
from tests.helpers.latent import sharp_params
from tests.helpers.mtp import MTP, reference_states

TWO = dataclasses.replace(MTP, num_layers=1, experts=None, mtp_layers=2)
TEXTS = [[5, 9, 2, 60, 31, 7, 7], [8, 3, 41, 12]]


@pytest.fixture(scope="module")
def params():
    return sharp_params(TWO)


@partial(jax.jit, static_argnames="config")
def states_of(params, tokens, segments, config):
    """tokens [B, T + 1]."""
    h, _ = hidden_states(params, tokens[:, :-1], config, segments=segments)
    return [h, *mtp_states(params, h, tokens[:, 1:], config, segments)[0]]


def rows():
    """Both texts packed in one row, and the first one alone with padding."""
    tokens = np.zeros((2, 13), np.int32)
    tokens[0, :11], tokens[1, :7] = TEXTS[0] + TEXTS[1], TEXTS[0]
    segments = np.array([[0] * 7 + [1] * 4 + [2], [0] * 12], np.int32)
    return tokens, segments


@pytest.fixture(scope="module")
def want(params):
    return [reference_states(jax.device_get(params), text) for text in TEXTS]


def check(got, want):
    for k, (own, first, second) in enumerate(zip(got, *want, strict=True)):
        assert (len(first), len(second)) == (7 - k, 4 - k)
        for row in own[:, : 7 - k]:
            np.testing.assert_allclose(row, first, atol=2e-5)
        np.testing.assert_allclose(own[0, 7 : 11 - k], second, atol=2e-5)


def test_states_are_those_of_the_formulas(params, want):
    """Those of a packed text are the same as those of the text alone."""
    check(jax.device_get(states_of(params, *rows(), TWO)), want)


def test_the_decoder_has_the_same_weights(params):
    kept, config = without_mtp(params, TWO)
    assert config == dataclasses.replace(TWO, mtp_layers=0)
    specs = param_specs(TWO)
    assert specs.pop("mtp")["projection"].shape == (2, 64, 32)
    assert specs == param_specs(config) and kept.keys() == specs.keys()


def test_only_deepseek_v3_with_an_output_matrix_has_such_layers():
    assert "mtp" not in param_specs(scalar_config(MTP))
    with pytest.raises(ValueError, match="llama has no multi-token prediction"):
        dataclasses.replace(MTP, architecture="llama")
    with pytest.raises(ValueError, match="scalar head predicts no tokens"):
        dataclasses.replace(MTP, head="scalar")
