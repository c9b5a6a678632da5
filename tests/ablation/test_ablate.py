"""Ablations as one call: tidy tables, and folders that belong to one ablation."""

import dataclasses
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.ablation import train
from r1jax.ablation.ablate import ablate
from r1jax.ablation.config import AblationConfig, ChunkConfig
from r1jax.ablation.in_graph import make_loop
from r1jax.ablation.result import Ablation
from r1jax.algorithms.grpo import GRPO
from r1jax.checkpoints.model import Model
from r1jax.data.problems.dataset import ProblemsConfig, load_problems
from r1jax.errors import UserError
from r1jax.evaluation.evaluate import EvaluationConfig
from r1jax.models.config import ModelConfig
from r1jax.rl.config import RLConfig
from r1jax.sampling.processors import Sampling
from tests.ablation.helpers import tiny_model
from tests.helpers.ablation import CONFIG, FakeLoop

GRID = {"rl.beta": (0, 0.5), "rl.algorithm": ("grpo", "dapo"), "rl.overlong_buffer": (2,)}
# One update a rollout would make dapo's clip a setting without effect, which is a warning.
CONFIG = dataclasses.replace(CONFIG, rl=dataclasses.replace(CONFIG.rl, minibatches=2))
PROBLEMS = load_problems(ProblemsConfig(train_size=20, held_out_size=5))


def call(folder=None, grid=GRID, seeds=(4, 1, 2), config=CONFIG, weight=1.0, problems=PROBLEMS, calls=None):
    model = Model(ModelConfig(), {"w": jnp.full(3, weight)}, None)

    def make(own, train, spec, held_out):
        assert own is model and train == problems.train and held_out == problems.held_out[:3]
        return FakeLoop(spec, calls)

    return ablate(config, grid, seeds, model, problems, folder, make)


@pytest.fixture(scope="module")
def result():
    return call()


def test_frames_have_a_row_for_each_training_and_step(result):
    frame, evaluations = result.frame(), result.evaluations()
    assert len(frame) == 4 * 3 * 5 and len(evaluations) == 4 * 3
    assert list(frame.columns) == ["rl.beta", "rl.algorithm", "rl.overlong-buffer", "seed", "step", "reward", "tokens"]
    assert frame["rl.beta"].dtype == float and set(frame["rl.algorithm"]) == {"grpo", "dapo"}
    for i, arm in enumerate(result.arms):
        for j, seed in enumerate(result.seeds):
            same = (frame["rl.beta"] == arm["rl.beta"]) & (frame["rl.algorithm"] == arm["rl.algorithm"])
            own = frame[same & (frame["seed"] == seed)].sort_values("step")
            np.testing.assert_array_equal(own["reward"], result.metrics["reward"][i, j])
    last = frame[frame["step"] == 4]["reward"].to_numpy()
    np.testing.assert_allclose(evaluations["accuracy_after"], last / 100, rtol=1e-6)
    assert (evaluations["accuracy_before"] == 0).all()


def test_a_frame_without_pandas_is_one_line(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="frames need pandas: pip install pandas"):
        result.frame()


def test_a_result_is_read_as_it_was_written(result, tmp_path):
    result.save(tmp_path / "results.npz")
    read = Ablation.load(tmp_path / "results.npz")
    assert (read.axes, read.arms, read.seeds, read.about) == (result.axes, result.arms, result.seeds, result.about)
    for part in ("metrics", "before", "after"):
        own, other = getattr(result, part), getattr(read, part)
        assert own.keys() == other.keys()
        assert all((own[name] == other[name]).all() for name in own)
    result.save_table(tmp_path / "results.csv")
    lines = (tmp_path / "results.csv").read_text().splitlines()
    assert lines[0].startswith("rl.beta,rl.algorithm,rl.overlong-buffer,seed,accuracy_before") and len(lines) == 13
    (tmp_path / "other.npz").write_text("text")
    with pytest.raises(UserError, match=r"other.npz is not the result of an ablation .* give its results.npz"):
        Ablation.load(tmp_path / "other.npz")


@pytest.mark.parametrize("seeds", [(), (1, 1), (-1,), (2**31,)])
def test_wrong_seeds_are_one_line(seeds):
    with pytest.raises(UserError, match="give one or more different numbers"):
        call(seeds=seeds)


def test_a_folder_belongs_to_one_ablation(tmp_path):
    grid = {"rl.beta": (0, 0.5)}
    result = call(tmp_path, grid)
    changed = dataclasses.replace(CONFIG, sampling=dataclasses.replace(CONFIG.sampling, max_tokens=9))
    others = {
        "config.sampling.max_tokens was 8, now 9": {"config": changed},
        "seeds was": {"seeds": (4, 1)},
        "grid was": {"grid": {"rl.beta": (0, 0.6)}},
        "model was": {"weight": 2.0},
        "problems was": {"problems": load_problems(ProblemsConfig(train_size=21, held_out_size=5))},
    }
    for named, other in others.items():
        with pytest.raises(UserError, match="has an ablation with other settings") as error:
            call(tmp_path, **{"grid": grid, **other})
        assert named in str(error.value) and "\n" not in str(error.value)
    calls = []
    chunks = dataclasses.replace(CONFIG.chunks, every=3)
    again = call(tmp_path, grid, config=dataclasses.replace(CONFIG, chunks=chunks), calls=calls)
    assert calls == [] and (again.metrics["reward"] == result.metrics["reward"]).all()
    longer = dataclasses.replace(CONFIG, rl=dataclasses.replace(CONFIG.rl, steps=6))
    assert call(tmp_path, grid, config=longer, calls=calls).steps == 6 and {step for step, *_ in calls} == {5}


def test_a_refused_ablation_leaves_the_folder_to_a_smaller_one(tmp_path, monkeypatch):
    with monkeypatch.context() as small:
        small.setattr(train, "free_bytes", lambda: 0)
        with pytest.raises(UserError, match="too few for one"):
            call(tmp_path, {"rl.beta": (0, 0.5)})
    call(tmp_path, {"rl.beta": (0, 0.6)})
    with monkeypatch.context() as small:  # a folder with trainings keeps its record
        small.setattr(train, "free_bytes", lambda: 0)
        longer = dataclasses.replace(CONFIG, rl=dataclasses.replace(CONFIG.rl, steps=6))
        with pytest.raises(UserError, match="too few for one"):
            call(tmp_path, {"rl.beta": (0, 0.6)}, config=longer)
    with pytest.raises(UserError, match="has an ablation with other settings"):
        call(tmp_path, {"rl.beta": (0, 0.5)})


def test_the_program_itself_resumes_bit_by_bit(tmp_path):
    """Two arms of a real model for two steps, without a kill and with one after the first step."""
    config = AblationConfig(
        rewards=("length",),
        sampling=Sampling(max_tokens=4),
        rl=RLConfig(steps=2, prompts=2, group=2, algorithm=GRPO(entropy=0.1)),  # no answer is right, but entropy moves
        evaluation=EvaluationConfig(problems=2, samples=2),
        chunks=ChunkConfig(every=1),
    )
    model, made = tiny_model(), []

    def make(*given):
        made.append(made[0] if made else make_loop(*given))  # compiled once
        return made[0]

    def run(folder):
        return ablate(config, {"rl.learning-rate": (1e-2, 1e-4)}, (0,), model, PROBLEMS, folder, make)

    whole, steps = run(None), made[0].run

    def die(states, values, first_step, count):
        if first_step == 1:
            raise InterruptedError
        return steps(states, values, first_step, count)

    made[0].run = die
    with pytest.raises(InterruptedError):
        run(tmp_path)
    made[0].run = steps
    resumed = run(tmp_path)
    for part in ("metrics", "before", "after"):
        for name, values in getattr(whole, part).items():
            np.testing.assert_array_equal(getattr(resumed, part)[name], values)
    assert {"accuracy", "format", "length_mean", "truncated_share", "pass_at_2"} == set(whole.after)
    entropy = whole.metrics["entropy"][:, 0]  # [2, 2]: equal before the first update, then different
    assert entropy[0, 0] == entropy[1, 0] and abs(entropy[0, 1] - entropy[1, 1]) > 1e-4
