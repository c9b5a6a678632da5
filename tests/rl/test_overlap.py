"""Rewards are computed while the devices compute log-probabilities, with the same results."""

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.algorithms.grpo import GRPO
from r1jax.algorithms.table import ALGORITHMS
from r1jax.checkpoints.model import Model
from r1jax.rl import batch as batch_module
from r1jax.rl import step as step_module
from r1jax.rl.config import RLConfig
from r1jax.rl.setup import make_setup
from r1jax.rl.state import init_rl_state
from r1jax.rl.step import rl_step
from r1jax.rl.train import step_keys
from tests.rl.test_rollouts import Letters, environment_of


def run(tiny_params, tiny_config, algorithm, events, monkeypatch, minibatches=2):
    """Two steps, and the order of scoring and of model_logprobs in ``events``."""
    model = Model(tiny_config, jax.tree.map(lambda x: x.copy(), tiny_params), Letters())
    environment = environment_of(lambda problem, place: float(place * len(problem.question)))
    score = environment.pool.score
    environment.pool.score = lambda *given: events.append("score") or score(*given)
    logprobs = step_module.model_logprobs
    with monkeypatch.context() as patch:
        patch.setattr(step_module, "model_logprobs", lambda *given: events.append("logprobs") or logprobs(*given))
        config = RLConfig(prompts=2, group=4, minibatches=minibatches, learning_rate=1e-2, algorithm=algorithm)
        setup = make_setup(model, environment, config)
        state = init_rl_state(model.params, setup)
        found = []
        for step in range(2):
            problems = [
                environment.batch(step, 2, attempt, algorithm.attempts) for attempt in range(algorithm.attempts)
            ]
            state, result = rl_step(state, problems, step_keys(environment, step), setup)
            state = state.next_step()
            found.append((result.metrics, result.advantages))
    return jax.device_get((state, found))


def test_the_order_of_computation_changes_no_bit(tiny_params, tiny_config, monkeypatch):
    order, reverse = [], []
    one = run(tiny_params, tiny_config, GRPO(beta=0.1), order, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(GRPO, "keeps_all", False)
        other = run(tiny_params, tiny_config, GRPO(beta=0.1), reverse, monkeypatch)
    assert order == ["logprobs", "score"] * 2 and reverse == ["score", "logprobs"] * 2
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_groups_that_rewards_choose_are_scored_first(tiny_params, tiny_config, monkeypatch):
    events = []
    run(tiny_params, tiny_config, GRPO(drop_equal_groups=True, beta=0.1), events, monkeypatch)
    assert [event for event in events if event == "logprobs"] == ["logprobs"] * 2
    assert events[0] == "score" and events[-1] == "logprobs"


def test_tokens_are_laid_out_and_sent_to_the_devices_once(tiny_params, tiny_config, monkeypatch):
    laid_out, used = [], []
    lay_out, learn = batch_module.lay_out, step_module.learn

    def counted(*given):
        laid_out.append(lay_out(*given))
        return laid_out[-1]

    def learned(state, batch, *rest):
        used.append(batch.tokens.unsafe_buffer_pointer())
        return learn(state, batch, *rest)

    for module in (batch_module, step_module):
        monkeypatch.setattr(module, "lay_out", counted)
    monkeypatch.setattr(step_module, "learn", learned)
    run(tiny_params, tiny_config, GRPO(beta=0.1), [], monkeypatch)
    assert used == [one.tokens.unsafe_buffer_pointer() for one in laid_out] and len(used) == 2


def test_nothing_is_computed_early_that_is_not_needed(tiny_params, tiny_config, monkeypatch):
    events = []
    metrics = {"loss": (jnp.zeros(()), jnp.ones(()))}
    monkeypatch.setattr(step_module, "update", lambda state, *_: (state, metrics, {}))  # is not compiled
    run(tiny_params, tiny_config, GRPO(), events, monkeypatch, minibatches=1)
    assert events == ["score", "logprobs"] * 2


def test_an_algorithm_that_may_drop_groups_says_so():
    for name, algorithm in ALGORITHMS.items():
        rewards = np.zeros((2, 4), np.float32)
        kept = algorithm.keeps(rewards, np.zeros(2, bool), {"accuracy": rewards})
        assert algorithm.keeps_all == kept.all(), name
        assert algorithm.attempts == 1 or not algorithm.keeps_all
