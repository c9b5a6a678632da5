"""Schedules, settings, rounding and weight decay of the optimiser."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from r1jax.errors import UserError
from r1jax.recipe.distillation import MatchConfig
from r1jax.recipe.pretraining import PretrainConfig
from r1jax.recipe.reward_models import RewardModelConfig
from r1jax.recipe.sft import SFTConfig
from r1jax.rl.config import RLConfig
from r1jax.sharding import make_mesh, place
from r1jax.training.optimizer import OptimizerConfig, make_optimizer, round_stochastically, warn_of_rounding
from r1jax.training.state import TrainState, apply_gradients, state_shapes


@pytest.mark.parametrize(
    ("schedule", "want"),
    [
        # Up over 2 of 6 updates, then 0.1 + 0.9 (1 + cos(pi t / 3)) / 2.
        ("cosine", [0.5, 1, *(0.1 + 0.45 * (1 + np.cos(np.pi * np.arange(4) / 3)))]),
        ("linear", [0.5, 1, 1, 0.75, 0.5, 0.25]),
        ("constant", [0.5, 1, 1, 1, 1, 1]),
    ],
)
def test_schedules_and_warmup_by_hand(schedule, want):
    """Each of 6 updates moves by its learning rate; the first is not 0, and cosine ends at a tenth."""
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=2, schedule=schedule, max_grad_norm=0, b1=0.0, b2=0.0)
    optimizer = make_optimizer(config, 6)
    params = {"w": jnp.zeros(())}
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    steps = []
    for _ in want:
        updates, state = update({"w": jnp.ones(())}, state, params)
        steps.append(-float(updates["w"]))
    np.testing.assert_allclose(steps, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [OptimizerConfig, RLConfig, PretrainConfig, SFTConfig, RewardModelConfig, MatchConfig])
@pytest.mark.parametrize(
    ("name", "value"), [("schedule", "foo"), ("schedule", None), ("param_dtype", "float16"), ("rounding", "up")]
)
def test_settings_that_no_optimiser_knows_are_refused(kind, name, value):
    with pytest.raises(UserError, match=f"{name.replace('_', '-')}={value} is not one of"):
        kind(**{name: value})


def test_stochastic_rounding_keeps_the_mean_and_exact_values():
    x = np.concatenate([np.linspace(-0.03, 0.03, 31), [1 + 2**-9, -3e-39, 1e30]]).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 4096)
    drawn = np.asarray(jax.jit(jax.vmap(lambda key: round_stochastically(x, key)))(keys), np.float64)
    want = np.asarray(x, np.float64)
    spacing = drawn.max(axis=0) - drawn.min(axis=0)
    assert (np.abs(drawn - want) <= spacing).all()  # one of the two neighbours
    assert (np.abs(drawn.mean(axis=0) - want) <= 5 * 0.5 * spacing / 64).all()  # deviation at most half the spacing
    assert (drawn[:, 31] == 1).mean() == pytest.approx(0.75, abs=0.03)  # 1 + 2^-9 lies at a quarter of 2^-7
    exact = np.array([0.0, -0.0, 1.0, -0.0078125, 3.389531e38, np.inf, -np.inf, np.nan]).astype(jnp.bfloat16)
    rounded = jax.jit(round_stochastically)
    for key in keys[:4]:
        got = rounded(exact.astype(np.float32), key)
        np.testing.assert_array_equal(np.asarray(got, np.float64), np.asarray(exact, np.float64))


def small_steps(model, mesh="1x1", **settings):
    """start(params, seed) of bfloat16 weights, and step(state): an update at 1e-6 by a gradient of ones."""
    config = OptimizerConfig(learning_rate=1e-6, param_dtype="bfloat16", max_grad_norm=0.0, **settings)
    mesh = make_mesh(mesh)
    optimizer = make_optimizer(config, 10)
    shardings = jax.tree.map(lambda s: s.sharding, state_shapes(model, config, optimizer, mesh))

    def start(params, seed=0):
        opt_state = make_optimizer(config, 10, seed).init(params)
        return place(TrainState(jnp.zeros((), jnp.int32), params, opt_state), shardings)

    @jax.jit
    def apply(state):
        return apply_gradients(state, jax.tree.map(jnp.ones_like, state.params), jnp.ones(()), optimizer, model)[0]

    def step(state, count):
        with jax.set_mesh(mesh):
            state = place(state, shardings)
            for _ in range(count):
                state = apply(state)
        return jax.device_get(state)

    return start, step


def test_stochastic_rounding_learns_where_nearest_does_not(tiny_params, tiny_config):
    """At 1e-6 the mean weight falls by 1e-6 an update; seed, update and path determine each random bit.

    Every mesh thus gives the same weights, also when a run resumes from a copy of its state on another mesh.
    """
    params = jax.tree.map(lambda w: w.astype(jnp.bfloat16), tiny_params)

    def fall(state):
        before, after = (np.asarray(tree["embedding"], np.float64) for tree in (params, state.params))
        return (before - after).mean()

    start, step = small_steps(tiny_config, rounding="stochastic")
    half = step(start(params), 10)
    whole = step(half, 10)
    assert fall(whole) == pytest.approx(20e-6, rel=0.2)
    gate, up = (np.asarray(whole.params["layers"]["mlp"][name]) for name in ("gate", "up"))
    old = params["layers"]["mlp"]
    assert not np.array_equal(gate != np.asarray(old["gate"]), up != np.asarray(old["up"]))
    other = step(start(params, seed=1), 10)
    assert not np.array_equal(half.params["embedding"], other.params["embedding"])

    _, elsewhere = small_steps(tiny_config, "4x2", rounding="stochastic")
    jax.tree.map(np.testing.assert_array_equal, whole.params, elsewhere(half, 10).params)

    start, step = small_steps(tiny_config)
    assert fall(step(start(params), 20)) < 5e-6


@pytest.mark.parametrize(("b2", "told"), [(0.9, False), (0.99, False), (0.995, True), (0.999, True)])
def test_moment_updates_that_bfloat16_loses_give_a_warning(b2, told):
    """After gradients of 1 the second moment is 1 in float32; in bfloat16 within a fifth, or there is a warning."""
    config = OptimizerConfig(learning_rate=1.0, param_dtype="bfloat16", b2=b2, max_grad_norm=0)
    optimizer, params = make_optimizer(config, 2000), {"w": jnp.ones(1, jnp.bfloat16)}
    state = jax.lax.fori_loop(
        0, 2000, lambda _, state: optimizer.update(params, state, params)[1], optimizer.init(params)
    )
    assert (abs(float(optax.tree_utils.tree_get(state, "nu")["w"][0]) - 1) > 0.2) == told
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        warn_of_rounding(config, "rl")
    assert bool(found) == told


def test_weight_updates_that_bfloat16_loses_give_a_warning():
    with pytest.warns(UserWarning, match=r"rl: at learning-rate=1e-06 .* rl.rounding=stochastic"):
        warn_of_rounding(RLConfig(param_dtype="bfloat16"), "rl")
    slow = RLConfig(param_dtype="bfloat16", rounding="stochastic", b2=0.999)
    with pytest.warns(UserWarning, match=r"rl: at b2=0.999 most updates of bfloat16 moments .* rl.b2=0.99 or less"):
        warn_of_rounding(slow, "rl")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_rounding(RLConfig(b2=0.999), "rl")
        warn_of_rounding(RLConfig(param_dtype="bfloat16", rounding="stochastic"), "rl")
        warn_of_rounding(RLConfig(param_dtype="bfloat16", learning_rate=1e-3), "rl")
        warn_of_rounding(RLConfig(), "rl")
    with pytest.raises(UserError, match="rounding=stochastic is for param-dtype=bfloat16"):
        RLConfig(rounding="stochastic")


def test_weight_decay_leaves_norms_and_biases(tiny_params):
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1.0, weight_decay=0.5), 1)
    params = jax.device_get(tiny_params)
    zeros = jax.tree.map(np.zeros_like, params)
    update = jax.jit(lambda zeros, params: optimizer.update(zeros, optimizer.init(params), params)[0])
    updates = jax.device_get(update(zeros, params))
    np.testing.assert_allclose(updates["embedding"], -0.5 * params["embedding"], rtol=1e-6)
    assert not updates["final_norm"].any() and not updates["layers"]["mlp_norm"].any()
