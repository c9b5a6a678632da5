"""Trainings of a grid with a loop of formulas: tables, groups, memory, and folders to resume from."""

import dataclasses
import itertools
import os
import signal

import numpy as np
import pytest

from r1jax.ablation import parts, train
from r1jax.ablation.config import ChunkConfig
from r1jax.ablation.grid import parse_axes
from r1jax.ablation.train import divide, train_grid
from r1jax.algorithms.grpo import GRPO
from r1jax.checkpoints.native import Checkpoints
from r1jax.errors import UserError
from r1jax.rl.config import RLConfig
from r1jax.stopping import Stopped
from tests.helpers.ablation import CONFIG, FakeLoop, draws

STEPS, SEEDS = 5, (3, 0, 5)
AXES = parse_axes(["rl.beta=0.5,2", "rl.group=2,4"])
CONFIGS = [
    dataclasses.replace(CONFIG, rl=RLConfig(steps=STEPS, prompts=2, group=group, algorithm=GRPO(beta=beta)))
    for beta, group in itertools.product((0.5, 2.0), (2, 4))
]


def train_all(folder=None, steps=STEPS, at=lambda step: None, **chunks):
    """The result, and the steps that ran."""
    calls = []
    configs = [
        dataclasses.replace(
            config, rl=dataclasses.replace(config.rl, steps=steps), chunks=dataclasses.replace(config.chunks, **chunks)
        )
        for config in CONFIGS
    ]
    return train_grid(AXES, configs, SEEDS, lambda spec: FakeLoop(spec, calls, at), folder), calls


def rewards_of(beta, group, seed):
    """The same walk, one training and one step at a time."""
    place, rows = np.float32(0), []
    for step in range(STEPS):
        place = place + draws([seed], step)[0] * np.float32(beta) + np.float32(group)
        rows.append(place)
    return rows


def figures(result):
    return {
        (part, name): values
        for part in ("metrics", "before", "after")
        for name, values in getattr(result, part).items()
    }


def same(a, b):
    assert figures(a).keys() == figures(b).keys()
    for key, values in figures(a).items():
        np.testing.assert_array_equal(values, figures(b)[key])


@pytest.fixture(scope="module")
def whole():
    return train_all()


def test_each_training_is_in_its_place(whole):
    result, calls = whole
    assert result.metrics["reward"].shape == (4, 3, 5) and result.after["accuracy"].shape == (4, 3)
    assert result.axes == {"rl.beta": (0.5, 2), "rl.group": (2, 4)} and result.seeds == SEEDS
    assert not result.before["accuracy"].any()
    np.testing.assert_allclose(result.after["pass_at_2"], 1 / 3, rtol=1e-6)
    for i, arm in enumerate(result.arms):
        for j, seed in enumerate(SEEDS):
            expected = rewards_of(arm["rl.beta"], arm["rl.group"], seed)
            np.testing.assert_allclose(result.metrics["reward"][i, j], expected, rtol=1e-6)
            np.testing.assert_allclose(result.after["accuracy"][i, j], expected[-1] / 100, rtol=1e-6)
    # Two groups of two arms with three seeds: in chunks of two steps, all six trainings in each.
    assert calls == [(0, 2, 6), (2, 2, 6), (4, 1, 6)] * 2


def test_the_figures_do_not_depend_on_the_division(whole):
    result, calls = train_all(at_once=4, every=5)
    same(result, whole[0])
    assert calls == [(0, 5, 3)] * 4
    assert [part.tolist() for part in divide(7, 3)] == [[0, 1, 2], [3, 4, 5], [6, 6, 6]]


def test_another_division_does_not_read_the_last_part_of_the_first(tmp_path):
    """Seven trainings in parts of 3 and of 1: the last part starts and ends with training 6 in both."""
    results = []
    for at_once in (3, 1):
        config = dataclasses.replace(CONFIGS[0], chunks=ChunkConfig(at_once=at_once))
        axes = parse_axes(["rl.beta=0.5"])
        results.append(train_grid(axes, [config], range(7), lambda spec: FakeLoop(spec, []), tmp_path))
    first, second = (result.after["accuracy"] for result in results)
    np.testing.assert_allclose(first, second, rtol=1e-6)


class Killed(Exception):
    pass


@pytest.mark.parametrize(("moment", "first"), [("loop", 2), ("checkpoint", 2), ("checkpoint", 0)])
def test_a_killed_ablation_resumes_to_the_same_figures(tmp_path, whole, monkeypatch, moment, first):
    """The process dies in the second group, in the loop or between the two files that it writes after a call."""
    steps = []

    def die(step):
        steps.append(step)
        if steps.count(first) == 2:
            raise Killed

    def save(self, step, *rest):
        if step == first + 2:
            die(first)
        Checkpoints.save(self, step, *rest)

    if moment == "checkpoint":
        monkeypatch.setattr(parts, "Checkpoints", type("Dying", (Checkpoints,), {"save": save}))
    with pytest.raises(Killed):
        train_all(tmp_path, at=die if moment == "loop" else lambda step: None)
    monkeypatch.undo()
    result, calls = train_all(tmp_path)
    same(result, whole[0])
    assert calls == [call for call in [(0, 2, 6), (2, 2, 6), (4, 1, 6)] if call[0] >= first]


def test_a_signal_ends_the_ablation_after_a_chunk_that_is_saved(tmp_path, whole):
    def stop(step):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped, match="ablation 1/2: stopped after step 4 of 5"):
        train_all(tmp_path, at=stop)
    result, calls = train_all(tmp_path)
    same(result, whole[0])
    assert calls[0] == (4, 1, 6)


def test_a_finished_ablation_is_read_and_continues_with_more_steps(tmp_path, whole):
    train_all(tmp_path, steps=4)
    result, calls = train_all(tmp_path)
    same(result, whole[0])
    assert calls == [(4, 1, 6)] * 2
    again, calls = train_all(tmp_path)
    same(again, whole[0])
    assert calls == []


def test_another_division_leaves_no_folders_of_the_first(tmp_path, whole):
    train_all(tmp_path, steps=2)
    assert len(list(tmp_path.iterdir())) == 2
    train_all(tmp_path, steps=2, at_once=3)
    assert len(list(tmp_path.iterdir())) == 4


def test_trainings_that_do_not_fit_are_refused_with_the_number_that_does(monkeypatch):
    """A program needs 1,000 bytes, 100 for each training, and one for each step of a call."""
    monkeypatch.setattr(train, "free_bytes", lambda: 1450)
    with pytest.raises(UserError, match=r"6 trainings at once need .* 4 fit, give --chunks.at-once=4$"):
        train_all()
    assert train_all(at_once=4)[0].after["accuracy"].shape == (4, 3)
    monkeypatch.setattr(train, "free_bytes", lambda: 1050)
    with pytest.raises(UserError, match="too few for one"):
        train_all(at_once=1)
