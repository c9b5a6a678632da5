"""The loss of multi-token prediction against sums over tokens in float64 NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.errors import UserError
from r1jax.models.mtp import mtp_states
from r1jax.models.transformer import hidden_states, param_specs
from r1jax.recipe.pretraining import PretrainConfig, model_config
from r1jax.rl.config import RLConfig, check_parts
from r1jax.sampling.processors import Sampling
from r1jax.sharding import batch_sharding, make_mesh, param_shardings, place
from r1jax.training.balance import move_bias
from r1jax.training.language_model import cross_entropy_sums, language_model_update
from r1jax.training.metrics import reduce_metrics
from r1jax.training.multi_token import mtp_losses
from tests.helpers.latent import sharp_params
from tests.helpers.mtp import MTP, reference_states
from tests.helpers.training import fresh

TWO = dataclasses.replace(MTP, num_layers=1, experts=dataclasses.replace(MTP.experts, dense_layers=0), mtp_layers=2)
ONE = dataclasses.replace(TWO, mtp_layers=1)
TEXTS = [[5, 9, 2, 60, 31, 7, 7], [8, 3, 41, 12]]
# Rows of the packed texts, as (text, place of its first token in the row); the fourth row is empty.
ROWS = [[(0, 0), (1, 7)], [(1, 0)], [(0, 0)], []]


def batch():
    """The loss is on the tokens of a text from its third on, but not on its fifth."""
    tokens, mask, segments = np.zeros((4, 13), np.int32), np.zeros((4, 12), bool), np.full((4, 12), 9, np.int32)
    for row, placed in enumerate(ROWS):
        for number, (text, begin) in enumerate(placed):
            n = len(TEXTS[text])
            tokens[row, begin : begin + n], segments[row, begin : begin + n] = TEXTS[text], number
            mask[row, begin + 1 : begin + n - 1] = True
            mask[row, begin + 3] = False
    return {"tokens": tokens, "mask": mask, "segments": segments}


@pytest.fixture(scope="module")
def params():
    return sharp_params(TWO)


@pytest.fixture(scope="module")
def want(params):
    """For each layer and text, the log-probabilities of all tokens by the place of the token in the text."""
    host = jax.device_get(params)
    found = {1: {}, 2: {}}
    for text, tokens in enumerate(TEXTS):
        for k, states in enumerate(reference_states(host, tokens)[1:], 1):
            logits = states @ np.asarray(host["unembedding"], np.float64)
            logq = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
            found[k][text] = {i + k + 1: row for i, row in enumerate(logq) if i + k + 1 < len(tokens)}
    return found


def counted(want, k):
    """(row, place of the token, token, log-probabilities) of the predictions of layer k that count."""
    for row, placed in enumerate(ROWS):
        for text, begin in placed:
            for at, logq in want[k][text].items():
                if at >= 2 and at != 4:
                    yield row, begin + at, TEXTS[text][at], logq


def test_losses_are_those_of_the_formula_on_a_mesh(params, want):
    mesh = make_mesh("2x2")

    @jax.jit
    def losses(params, batch):
        tokens, mask, segments = batch["tokens"], batch["mask"], batch["segments"]
        h, _ = hidden_states(params, tokens[:, :-1], TWO, segments=segments)
        _, extras = mtp_states(params, h, tokens[:, 1:], TWO, segments)
        return *mtp_losses(params, h, tokens, mask, TWO, 8, segments), extras.routing[0].experts

    with jax.set_mesh(mesh):
        spread = place(jax.device_get(params), param_shardings(param_specs(TWO), mesh))
        values, metrics, load, experts = jax.device_get(losses(spread, jax.device_put(batch(), batch_sharding())))
    expected, right, number = np.zeros((4, 12)), 0, 0
    for k in (1, 2):
        for row, at, token, logq in counted(want, k):
            expected[row, at - 1] -= logq[token] / 2
            right, number = right + (logq.argmax() == token), number + 1
    np.testing.assert_allclose(values, expected, atol=2e-5)
    assert number == sum(len(list(counted(want, k))) for k in (1, 2)) == (4 + 2 + 2 + 4) + (3 + 1 + 1 + 3)
    got = reduce_metrics(metrics)
    assert got["mtp_loss"] == pytest.approx(2 * expected.sum() / number, rel=1e-5)
    assert got["mtp_accuracy"] == pytest.approx(right / number)
    for k in (1, 2):  # the experts of the state from which a token is predicted
        used = np.concatenate([experts[k - 1, row, at - 1 - k] for row, at, *_ in counted(want, k)])
        assert load[k - 1].tolist() == np.bincount(used, minlength=8).tolist()


@pytest.fixture(scope="module")
def one(params):
    return {**params, "mtp": jax.tree.map(lambda w: w[:1], params["mtp"])}


def test_the_loss_of_a_language_model_includes_it(one):
    """With its weight, per token of the mask. Traced only, an update in microbatches has its metrics."""
    data = batch()
    sums = jax.jit(lambda p, w: cross_entropy_sums(p, data, ONE, 8, mtp_weight=w), static_argnums=1)
    (plain, _), (loss, (count, (metrics, load))) = sums(one, 0.0), sums(one, 0.3)
    further, number = metrics["mtp_loss"]
    assert loss == pytest.approx(float(plain + 0.3 * further), rel=1e-5)
    assert count == number == data["mask"].sum() and load.shape == (2, 8)

    def updated(weight):
        state, optimizer, _ = fresh(one, ONE)
        return jax.eval_shape(lambda: language_model_update(state, data, optimizer, ONE, 2, 8, mtp_weight=weight))[1]

    assert updated(0.3).keys() - updated(0.0).keys() == {"mtp_loss", "mtp_accuracy"}


def test_the_bias_of_its_routers_moves_if_its_load_is_known(one):
    load = jnp.array([[0.0, 9, 4, 4, 4, 4, 4, 3], [9, 0, 4, 4, 4, 4, 4, 3]])
    for rows, moves in ((2, [-0.25, 0.25, 0, 0, 0, 0, 0, 0.25]), (1, [0.0] * 8)):
        moved = move_bias(one, load[:rows], ONE, 0.25, jnp.array(True))["mtp"]["mlp"]["router_bias"]
        np.testing.assert_allclose(moved - one["mtp"]["mlp"]["router_bias"], [moves], atol=1e-6)


def test_a_weight_needs_layers_to_train():
    with pytest.raises(UserError, match=r"rl.mtp-weight=0.3: the model has no layers of multi-token prediction"):
        check_parts(RLConfig(mtp_weight=0.3), dataclasses.replace(TWO, mtp_layers=0))
    check_parts(RLConfig(mtp_weight=0.3), TWO)
    assert RLConfig(mtp_weight=0.3).context(Sampling()).mtp_weight == 0.3
    with pytest.raises(UserError, match=r"mtp-weight -1\.0 must be at least 0"):
        RLConfig(mtp_weight=-1.0)
    with pytest.raises(UserError, match=r"mtp-layers 1 must be 0, or above 0 with --pretrain.architecture=deepseek_v3"):
        PretrainConfig(mtp_layers=1)
    with pytest.raises(UserError, match="mtp-weight needs mtp-layers of at least 1"):
        PretrainConfig(architecture="deepseek_v3", mtp_weight=0.1)
    assert model_config(PretrainConfig(architecture="deepseek_v3", mtp_layers=2), 99, 64).mtp_layers == 2
