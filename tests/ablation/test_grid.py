"""Grids: their texts, their arms, and the arms that compile alike."""

import dataclasses

import numpy as np
import pytest

from r1jax import cli
from r1jax.ablation.grid import arms_of, configs_of, group_arms, make_axes, parse_axes, typed
from r1jax.errors import UserError
from tests.ablation.helpers import NUMBERS, Spec

FIXED = {"rl.steps": "all arms have the same number of steps"}


def read(flags):
    return cli.parse({"given": ("", Spec())}, "given", flags)


def specs_of(*texts):
    return configs_of(parse_axes(texts), read, ("rl", "sampling"), FIXED)


def test_the_arms_are_all_combinations_with_the_last_axis_fastest():
    axes = parse_axes(["rl.beta=0,0.5", "--rl.inner_epochs=1,2,3"])
    pairs = [(arm["rl.beta"], arm["rl.inner-epochs"]) for arm in arms_of(axes)]
    assert pairs == [(b, e) for b in ("0", "0.5") for e in ("1", "2", "3")]


def test_an_arm_is_the_config_of_the_command_with_its_flags():
    specs = specs_of("rl.algorithm=grpo,dapo", "rl.beta=0,0.25", "sampling.temperature=0.7")
    assert [(s.rl.algorithm.eps_high, s.rl.algorithm.beta, s.sampling.temperature) for s in specs] == [
        (0.2, 0.0, 0.7),
        (0.2, 0.25, 0.7),
        (0.28, 0.0, 0.7),
        (0.28, 0.25, 0.7),
    ]


def test_values_may_fit_together_alone():
    """Two prompts of two samples, as in the other settings, do not split into 6 minibatches; 3 prompts do."""
    specs = specs_of("rl.prompts=3,6", "rl.minibatches=6")
    assert [(spec.rl.prompts, spec.rl.minibatches) for spec in specs] == [(3, 6), (6, 6)]


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
        (["rl.beta=0,0.0"], ["--grid rl.beta: the value 0.0 is given twice"]),
        (["rl.btea=0,1"], ["--grid rl.btea=0,1", "did you mean --rl.beta?"]),
        (["rl.lr=1e-3", "rl.beta=0,1"], ["--grid rl.lr=1e-3", "the learning rate is --rl.learning-rate"]),
        (["rl.beta=0,x"], ["--grid rl.beta=0,x", "--rl.beta=x: expected a number"]),
        (["rl.group=2.5", "rl.beta=0"], ["--grid rl.group=2.5", "expected a whole number"]),
        (["rl.algorithm=grpo,dpao"], ["--grid rl.algorithm=grpo,dpao", "expected one of grpo"]),
        (["rl.eps-low=0.1,-1"], ["--grid rl.eps-low=0.1,-1", "eps-low=-1.0 must be at least 0"]),
        (["rl.eps-low=-1", "rl.beta=0"], ["the arm --rl.eps-low=-1 --rl.beta=0", "must be at least 0"]),
        (["rl.group=2", "rl.minibatches=1,3"], ["the arm --rl.group=2 --rl.minibatches=3", "do not split into 3"]),
        (["seed=0,1"], ["--grid seed", "may differ in rl.*, sampling.* only", "--seed"]),
        (["rl.steps=5,10"], ["--grid rl.steps: all arms have the same number of steps"]),
    ],
)
def test_a_wrong_grid_is_one_line_that_names_the_axis(texts, parts):
    with pytest.raises(UserError) as error:
        specs_of(*texts)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


def test_axes_from_python_values():
    (axis,) = make_axes([("rl.normalise_std", [True, np.bool_(False)])])
    assert (axis.name, axis.values) == ("rl.normalise-std", ("true", "false"))
    assert [typed(text) for text in ("true", "3", "0.5", "1e-6", "grpo")] == [True, 3, 0.5, 1e-6, "grpo"]


def test_arms_that_differ_in_numbers_alone_are_one_group():
    specs = specs_of("rl.beta=0.1,0.2", "rl.group=2,4", "rl.learning-rate=1e-3,2e-3")
    first, second = group_arms(specs, NUMBERS)
    assert first.arms == (0, 1, 4, 5) and second.arms == (2, 3, 6, 7)
    assert {spec.rl.group for spec in (first.spec, second.spec)} == {2, 4}
    for group in (first, second):
        np.testing.assert_allclose(group.values["rl.algorithm.beta"], [0.1, 0.1, 0.2, 0.2])
        np.testing.assert_allclose(group.values["rl.learning_rate"], [1e-3, 2e-3, 1e-3, 2e-3])
        assert set(group.values) == set(NUMBERS)


def test_algorithms_that_differ_in_numbers_alone_are_one_group():
    """The groups follow from what a name stands for: dapo with another clip is grpo with the same settings."""
    specs = specs_of("rl.algorithm=dapo,grpo,rloo", "rl.beta=0.03")
    numbers = (*NUMBERS, *(f"rl.algorithm.{name}" for name in ("eps_low", "eps_high")))
    assert [group.arms for group in group_arms(specs, numbers)] == [(0,), (1,), (2,)]
    clipped = dataclasses.replace(specs[1].rl.algorithm, eps_high=0.3)
    other = dataclasses.replace(specs[1], rl=dataclasses.replace(specs[1].rl, algorithm=clipped))
    (group,) = group_arms([specs[1], other], numbers)
    assert set(group.values) == {"rl.algorithm.eps_high"}
