"""Grids: their texts, their arms, and the arms that compile alike."""

import dataclasses

import numpy as np
import pytest

from r1jax.ablation.config import loop_spec
from r1jax.ablation.grid import arms_of, configs_of, make_axes, parse_axes, typed
from r1jax.ablation.groups import group_arms, numbers_of
from r1jax.algorithms.grpo import GRPO
from r1jax.errors import UserError
from tests.helpers.ablation import CONFIG


def configs(*texts, config=CONFIG):
    return configs_of(parse_axes(texts), config)


def groups(*texts, config=CONFIG):
    return group_arms([loop_spec(one) for one in configs(*texts, config=config)])


def test_the_arms_are_all_combinations_with_the_last_axis_fastest():
    axes = parse_axes(["rl.beta=0,0.5", "--rl.inner_epochs=1,2,3"])
    pairs = [(arm["rl.beta"], arm["rl.inner-epochs"]) for arm in arms_of(axes)]
    assert pairs == [(b, e) for b in ("0", "0.5") for e in ("1", "2", "3")]


def test_an_arm_is_the_config_of_the_command_with_its_flags():
    arms = configs("rl.algorithm=grpo,dapo", "rl.beta=0,0.25", "sampling.temperature=0.7", "rewards.format=0.5")
    assert [(arm.rl.algorithm.eps_high, arm.rl.algorithm.beta, arm.sampling.temperature) for arm in arms] == [
        (0.2, 0.0, 0.7),
        (0.2, 0.25, 0.7),
        (0.28, 0.0, 0.7),
        (0.28, 0.25, 0.7),
    ]
    assert {arm.rewards for arm in arms} == {("accuracy", "format=0.5")}


def test_the_overlong_buffer_of_an_algorithm_fits_the_completions():
    """CONFIG has completions of 8 tokens; DAPO's buffer is a fifth of its longest completion."""
    with pytest.warns(UserWarning, match=r"rl.overlong-buffer=4096 is longer .*: its arms have 1, a fifth"):
        arms = configs("rl.algorithm=grpo,dapo,ppo")
    assert [arm.rl.algorithm.overlong_buffer for arm in arms] == [0, 1, 0]
    with pytest.warns(UserWarning, match="have 4"):
        arms = configs("rl.algorithm=dapo,prime", "sampling.max-tokens=20,4096")
    assert [arm.rl.algorithm.overlong_buffer for arm in arms] == [4, 4096, 0, 0]
    (arm,) = configs("rl.algorithm=dapo", "rl.overlong-buffer=4096")
    assert arm.rl.algorithm.overlong_buffer == 4096  # as given


def test_values_may_fit_together_alone():
    """Two prompts of two samples, as in the other settings, do not split into 6 minibatches; 3 prompts do."""
    arms = configs("rl.prompts=3,6", "rl.minibatches=6")
    assert [(arm.rl.prompts, arm.rl.minibatches) for arm in arms] == [(3, 6), (6, 6)]


def test_settings_that_change_together_are_one_axis():
    arms = configs("rl.group+rl.prompts=2+6,4+3", "rl.algorithm=grpo,reinforce++")
    found = [(arm.rl.group, arm.rl.prompts, arm.rl.algorithm.baseline) for arm in arms]
    assert found == [(2, 6, "group"), (2, 6, "batch"), (4, 3, "group"), (4, 3, "batch")]


def test_an_algorithm_may_change_together_with_another_setting():
    """Its overlong buffer is that of an algorithm alone, and its flags are those of other axes, too."""
    with pytest.warns(UserWarning, match="its arms have 1, a fifth"):
        arms = configs("rl.algorithm+rl.minibatches=dapo+2,reinforce+++4,ppo+1")
    found = [(arm.rl.minibatches, arm.rl.algorithm.overlong_buffer, arm.rl.algorithm.baseline) for arm in arms[:2]]
    assert found == [(2, 1, "group"), (4, 0, "batch")]
    arms = configs("rl.minibatches+rl.algorithm=1+ppo", "rl.gae-lambda=0.9,1")
    assert [arm.rl.algorithm.gae_lambda for arm in arms] == [0.9, 1.0]


@pytest.mark.parametrize(
    ("texts", "parts"),
    [
        ([], ["the grid is empty", "--grid rl.beta=0,0.01"]),
        (["rl.beta"], ["--grid rl.beta: write NAME=VALUE,VALUE"]),
        (["=1"], ["write NAME=VALUE,VALUE"]),
        (["rl.beta="], ["--grid rl.beta=: a value is missing"]),
        (["rl.beta=0,,1"], ["--grid rl.beta=0,,1: a value is missing"]),
        (["rl.beta=0", "rl.beta=1"], ["--grid rl.beta is given twice"]),
        (["rl.inner-epochs=1", "rl.inner_epochs=2"], ["--grid rl.inner-epochs is given twice"]),
        (["rl.group=2", "rl.group+rl.prompts=2+4"], ["--grid rl.group is given twice"]),
        (["rl.group+rl.group=2+2"], ["--grid rl.group is given twice"]),
        (["rl.group+rl.prompts=2+4,4"], ["--grid rl.group+rl.prompts: the value 4 must have 2 parts with +"]),
        (["rl.group+rl.steps=2+4"], ["--grid rl.steps: all arms have the same number of steps"]),
        (["rl.group+template=2+think"], ["--grid template", "--template"]),
        (["rl.beta=0,0.0"], ["--grid rl.beta: the value 0.0 is given twice"]),
        (["rl.btea=0,1"], ["--grid rl.btea=0,1", "did you mean --rl.beta?"]),
        (["rl.lr=1e-3", "rl.beta=0,1"], ["--grid rl.lr=1e-3", "the learning rate is --rl.learning-rate"]),
        (["rl.beta=0,x"], ["--grid rl.beta=0,x", "--rl.beta=x: expected a number"]),
        (["rl.group=2.5", "rl.beta=0"], ["--grid rl.group=2.5", "expected a whole number"]),
        (["rl.algorithm=grpo,dpao"], ["--grid rl.algorithm=grpo,dpao", "expected one of grpo"]),
        (["rl.eps-low=0.1,-1"], ["--grid rl.eps-low=0.1,-1", "eps-low=-1.0 must be at least 0"]),
        (["rl.eps-low=-1", "rl.beta=0"], ["the arm --rl.eps-low=-1 --rl.beta=0", "must be at least 0"]),
        (["rl.group=2", "rl.minibatches=1,3"], ["the arm --rl.group=2 --rl.minibatches=3", "do not split into 3"]),
        (["template=think"], ["--grid template", "may differ in rl.*, sampling.*, rewards.* only", "--template"]),
        (["rewards.fromat=1"], ["--grid rewards.fromat=1", "did you mean format?"]),
        (["rewards.format=1,x"], ["--grid rewards.format=1,x", "the weight x is not a finite number"]),
        (["rl.steps=5,10"], ["--grid rl.steps: all arms have the same number of steps: give --rl.steps"]),
    ],
)
def test_a_wrong_grid_is_one_line_that_names_the_axis(texts, parts):
    with pytest.raises(UserError) as error:
        configs(*texts)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


def test_axes_from_python_values():
    (axis,) = make_axes([("rl.normalise_std", [True, np.bool_(False)])])
    assert (axis.name, axis.values) == ("rl.normalise-std", ("true", "false"))
    assert [typed(text) for text in ("true", "3", "0.5", "1e-6", "grpo")] == [True, 3, 0.5, 1e-6, "grpo"]


def test_an_axis_of_algorithms_does_not_replace_a_given_setting_silently():
    given = dataclasses.replace(CONFIG, rl=dataclasses.replace(CONFIG.rl, algorithm=GRPO(eps_high=0.4)))
    with pytest.raises(UserError, match=r"replaces all settings .* --rl.eps-high=0.4 is given.*--grid rl.eps-high=0.4"):
        configs("rl.algorithm=grpo,dapo", config=given)


def test_arms_that_differ_in_numbers_alone_are_one_group():
    first, second = groups("rl.beta=0,0.2", "rl.group=2,4", "rl.learning-rate=1e-3,2e-3", "rewards.format=1")
    assert first.arms == (0, 1, 4, 5) and second.arms == (2, 3, 6, 7)
    assert (first.spec.rl.group, second.spec.rl.group) == (2, 4)
    for group in (first, second):
        np.testing.assert_allclose(group.values["rl.beta"], [0, 0, 0.2, 0.2])
        np.testing.assert_allclose(group.values["rl.learning-rate"], [1e-3, 2e-3, 1e-3, 2e-3])
        assert set(group.values) == set(group.spec.varied) == {"rl.beta", "rl.learning-rate"}


def test_groups_follow_from_the_settings_of_an_algorithm_and_not_from_its_name():
    """Dr. GRPO differs from GRPO in the reduction of the loss, too; without that, in a switch alone."""
    assert [group.arms for group in groups("rl.algorithm=grpo,dr-grpo", "rl.beta=0.03")] == [(0,), (1,)]
    (group,) = groups("rl.algorithm=grpo,dr-grpo", "rl.aggregate=token")
    assert group.arms == (0, 1) and group.values["rl.normalise-std"].tolist() == [1, 0]


def test_the_numbers_of_a_spec_are_its_settings():
    (arm,) = configs("rl.beta=0.25", "rl.learning-rate=3e-3", "rewards.format=0.5", "sampling.temperature=0.75")
    numbers = numbers_of(loop_spec(arm))
    expected = {"rl.beta": 0.25, "rl.learning-rate": 3e-3, "rewards.format": 0.5, "sampling.temperature": 0.75}
    assert expected.items() <= numbers.items() and numbers["rewards.accuracy"] == 1.0
