"""Load of experts, the bias of routers and the balance loss, against sums over tokens and experts in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.models.experts import Routing
from r1jax.models.transformer import Extras
from r1jax.training.balance import Balance, balance_loss, expert_load, load_metrics, move_bias
from r1jax.training.language_model import cross_entropy_sums, language_model_update
from r1jax.training.metrics import reduce_metrics
from r1jax.training.optimizer import OptimizerConfig
from r1jax.training.state import apply_gradients
from tests.helpers.training import fresh, random_params
from tests.models.helpers import experts_alone

MASK = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]], bool)


@pytest.fixture(scope="module")
def config(tiny_config):
    return experts_alone(tiny_config)


@pytest.fixture(scope="module")
def params(config):
    return random_params(config)


@pytest.fixture(scope="module")
def extras(config):
    """Random scores and choices of two layers."""
    scores = jax.random.uniform(jax.random.key(0), (2, *MASK.shape, config.experts.number))
    chosen = jax.lax.top_k(scores, config.experts.active)[1]
    return Extras((None, None), (None, Routing(chosen, chosen, scores)))


def test_load_counts_the_tokens_of_the_mask(extras, config):
    load, experts = jax.jit(expert_load)(extras, jnp.asarray(MASK)), np.asarray(extras.routing[1].experts)
    for layer in range(2):
        assert load[layer].tolist() == np.bincount(experts[layer][MASK].ravel(), minlength=8).tolist()
    metrics = reduce_metrics(load_metrics(load, jnp.array(True)))
    assert metrics["load_violation"] == pytest.approx(float(max(row.max() / 2 for row in np.asarray(load)) - 1))
    assert metrics["expert_load_3"] == pytest.approx(float(np.asarray(load)[:, 3].sum() / 4))
    assert metrics["load_smallest"] == pytest.approx(float(min(row.min() / 2 for row in np.asarray(load))))
    none = reduce_metrics(load_metrics(jnp.zeros_like(load), jnp.array(False)))
    assert np.isnan(list(none.values())).all()


def test_the_load_of_many_experts_has_sixteen_columns():
    """Of 256 experts, one for each 16; of 40, eight for three experts and then eight for two."""
    for number, sizes in ((256, [16] * 16), (40, [3] * 8 + [2] * 8)):
        load = np.random.default_rng(number).integers(1, 9, (3, number)).astype(np.float32)
        metrics = reduce_metrics(load_metrics(jnp.asarray(load), jnp.array(True)))
        ends = np.cumsum(sizes)
        columns = [f"expert_load_{end - size}_to_{end - 1}" for end, size in zip(ends, sizes, strict=True)]
        assert {name for name in metrics if name.startswith("expert_load")} == set(columns)
        for name, end, size in zip(columns, ends, sizes, strict=True):
            assert metrics[name] == pytest.approx(load[:, end - size : end].mean() / load.mean(), rel=1e-5)
        assert metrics["load_smallest"] == pytest.approx((load.min(axis=1) / load.mean(axis=1)).min(), rel=1e-5)


def test_the_balance_loss_is_the_published_sum(extras, config):
    got = jax.jit(balance_loss, static_argnums=2)(extras, jnp.asarray(MASK), config)
    routing, E, k = extras.routing[1], config.experts.number, config.experts.active
    for row, mask in enumerate(MASK):
        expected, n = 0.0, mask.sum()
        for layer in range(2):
            scores = np.asarray(routing.scores[layer, row], np.float64)[mask]
            experts = np.asarray(routing.experts[layer, row])[mask]
            for i in range(E if n else 0):
                share = E / (k * n) * sum(i in of_token for of_token in experts)
                expected += share * (scores[:, i] / scores.sum(axis=1)).mean()
        assert got[row] == pytest.approx(expected, rel=1e-5)


def test_the_bias_moves_towards_equal_load(params, config):
    load = jnp.array([[0.0, 9, 4, 4, 4, 4, 4, 3]])  # mean 4
    moved = move_bias(params, load, config, 0.25, jnp.array(True))
    assert moved["layers"]["mlp"]["router_bias"].tolist() == [[0.25, -0.25, 0, 0, 0, 0, 0, 0.25]]
    assert moved["embedding"] is params["embedding"]
    assert not move_bias(params, load, config, 0.25, jnp.array(False))["layers"]["mlp"]["router_bias"].any()


@pytest.fixture(scope="module")
def rows(config):
    """Tokens, in rows of different lengths."""
    tokens = jax.random.randint(jax.random.key(5), (4, 12), 0, config.vocab_size)
    return {"tokens": tokens, "mask": jnp.arange(11) < jnp.array([11, 4, 7, 0])[:, None]}


def test_an_update_moves_the_bias_without_gradient_and_decay(params, config):
    """By the speed per update, in float32 although the weights are bfloat16; not if the gradient is not finite."""
    stored = jax.tree.map(lambda w: w.astype(jnp.bfloat16), params)
    before = jnp.full((1, 8), 0.3003)  # bfloat16 has 0.3008
    mlp = stored["layers"]["mlp"] | {"router_bias": before}
    stored = stored | {"layers": stored["layers"] | {"mlp": mlp}}
    settings = dict(learning_rate=0.1, weight_decay=0.5, param_dtype="bfloat16", rounding="stochastic")
    state, optimizer, _ = fresh(stored, config, OptimizerConfig(**settings))
    load = jnp.array([[0.0, 9, 4, 4, 4, 4, 4, 3]])  # mean 4

    @jax.jit
    def one(state, value):
        grads = jax.tree.map(lambda w: jnp.full(w.shape, value, w.dtype), state.params)
        grads["layers"]["mlp"]["router_bias"] = jnp.zeros((1, 8))
        return apply_gradients(state, grads, jnp.float32(1), optimizer, config, load, 0.001)

    after, metrics = one(state, 0.1)
    bias, moved = after.params["layers"]["mlp"]["router_bias"], np.array([1, -1, 0, 0, 0, 0, 0, 1])
    assert bias.dtype == jnp.float32 and after.params["embedding"].dtype == jnp.bfloat16
    np.testing.assert_allclose(bias[0] - before[0], 0.001 * moved, atol=1e-7)
    assert reduce_metrics(metrics)["load_violation"] == 1.25
    unchanged = one(state, jnp.nan)[0].params
    jax.tree.map(np.testing.assert_array_equal, unchanged, state.params)


def test_the_update_of_a_language_model_logs_the_load(params, config, rows):
    state, optimizer, _ = fresh(params, config)
    metrics = jax.eval_shape(lambda: language_model_update(state, rows, optimizer, config, balance=Balance(0.1, 0.1)))[
        1
    ]
    assert {"load_violation", "balance_loss", "loss", *(f"expert_load_{i}" for i in range(8))} <= set(metrics)


def test_the_balance_loss_is_added_with_the_weight_of_a_rows_tokens(params, config, rows):
    def sums(weight):
        return cross_entropy_sums(params, rows, config, 16, Balance(loss_weight=weight))

    (plain, (count, (metrics, _))), (total, (_, (balanced, _))) = jax.jit(lambda: (sums(0.0), sums(0.5)))()
    assert "balance_loss" not in metrics
    np.testing.assert_array_equal(metrics["loss"][0], plain)
    np.testing.assert_array_equal(balanced["loss"][0], plain)
    assert 0.5 < (total - plain) / count < 1.5  # 0.5 in perfect balance
    value, number = balanced["balance_loss"]
    assert number == 3 and 0.5 < value / number < 1.5


def test_a_model_without_experts_has_no_metrics_of_load(tiny_params, tiny_config, rows):
    both = Balance(0.001, 0.1)
    _, (_, (metrics, load)) = jax.eval_shape(lambda: cross_entropy_sums(tiny_params, rows, tiny_config, 16, both))
    assert set(metrics) == {"loss"} and load is None
