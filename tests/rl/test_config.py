"""Settings of RL that have no effect without others."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.algorithms.grpo import GRPO
from r1jax.algorithms.ppo import PPO
from r1jax.algorithms.ratios import clipped_surrogate, log_ratio, truncated_importance
from r1jax.errors import UserError
from r1jax.rl.config import RLConfig, check_run, without_effect
from r1jax.sampling.processors import Sampling


def rl_config(**settings):
    """An RLConfig with settings of the step and of GRPO."""
    own = {name: settings.pop(name) for name in list(settings) if name in vars(GRPO())}
    return RLConfig(**settings, algorithm=GRPO(**own))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"loss": "cispo"}, "rl.loss=cispo: no effect with one update a rollout"),
        ({"ratio": "sequence", "eps_high": 0.28}, "rl.ratio=sequence, rl.eps-high=0.28: no effect with one update"),
        ({"eps_low": 3e-4}, "rl.eps-low=0.0003: no effect with one update .* raise rl.minibatches or rl.inner-epochs"),
        ({"reference_every": 25}, "rl.reference-every=25: no effect without a reference: set rl.beta"),
        ({"max_resamples": 5}, "rl.max-resamples=5: no effect .* set rl.drop-equal-groups"),
    ],
)
def test_settings_without_effect_are_reported_with_the_settings_that_they_need(settings, line):
    found = without_effect(rl_config(**settings))
    assert len(found) == 1 and re.match(line, found[0])
    acting = {"inner_epochs": 2, "beta": 0.1, "drop_equal_groups": True}
    assert without_effect(rl_config(**settings, **acting)) == []
    assert without_effect(RLConfig()) == without_effect(rl_config(importance_cap=2.0, aggregate="token")) == []
    with pytest.warns(UserWarning, match=line):  # at the start of a command
        check_run(rl_config(**settings), Sampling(), 1)


def test_packing_needs_several_sequences_of_an_update_on_a_device():
    packed = RLConfig(prompts=2, group=4, minibatches=2, microbatch=1, pack=True)
    assert without_effect(packed) == without_effect(packed, 2) == []
    with pytest.warns(UserWarning, match=r"rl\.pack=True: no effect with one sequence .* raise rl\.prompts"):
        check_run(dataclasses.replace(packed, microbatch=4), Sampling(), 4)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"eps_high": 0.3, "value_clip": 0.5}, "rl.eps-high=0.3, rl.value-clip=0.5: no effect with one update a"),
        ({"kl_in": "loss"}, "rl.kl-in=loss: no effect without a reference: set rl.beta"),
        ({"max_resamples": 5}, "rl.max-resamples=5: no effect .* set rl.drop-equal-groups"),
    ],
)
def test_an_algorithm_states_its_own_settings_without_effect(settings, line):
    found = without_effect(RLConfig(algorithm=PPO(**settings)))
    assert len(found) == 1 and re.match(line, found[0])
    acting = PPO(**settings, beta=0.1, drop_equal_groups=True)
    assert without_effect(RLConfig(minibatches=2, algorithm=acting)) == without_effect(RLConfig(algorithm=PPO())) == []


def test_settings_of_ppo_are_checked():
    assert RLConfig(prompts=2, group=1, algorithm=PPO()).sequences == 2  # no group to compare with
    with pytest.raises(UserError, match=r"rl.group=1: a sample is compared .* at least 2"):
        RLConfig(group=1, algorithm=PPO(drop_equal_groups=True))
    for name in ("gamma", "gae_lambda"):
        with pytest.raises(UserError, match=rf"{name.replace('_', '-')}=1\.5 must be at most 1"):
            PPO(**{name: 1.5})


def test_a_ratio_per_sequence_changes_the_gradient_with_importance_weights():
    """The gradient has the mean weight of the tokens instead of sum w_t d log pi_t, also with one update a rollout."""
    old, sampled = jnp.zeros((1, 2)), jnp.log(jnp.array([[1.0, 2.0]]))
    mask, advantages = jnp.ones((1, 2), bool), jnp.ones((1, 2))

    def loss(logp, ratio):
        ratios = log_ratio(logp, old, mask, ratio)
        values = clipped_surrogate(ratios, advantages, 0.2, 0.2)[0]
        return (values * truncated_importance(old, sampled, 2.0)).sum()

    np.testing.assert_allclose(jax.grad(loss)(old, "token"), [[-1, -0.5]], rtol=1e-6)
    np.testing.assert_allclose(jax.grad(loss)(old, "sequence"), [[-0.75, -0.75]], rtol=1e-6)
    assert without_effect(rl_config(ratio="sequence", importance_cap=2.0)) == []
    assert without_effect(rl_config(ratio="sequence", eps_low=0.1, importance_cap=2.0))[0].startswith("rl.eps-low=0.1:")
