"""A small R1-Zero, as a command and as RL alone."""

import dataclasses
import json
import os
import subprocess
import sys
import time

import jax
import numpy as np

from experiments.r1_zero import PRESETS, Config, stages
from r1jax import cli, load
from r1jax.algorithms.grpo import GRPO
from r1jax.checkpoints.load import read_config
from r1jax.data.problems.dataset import load_problems
from r1jax.data.text.template import find_template
from r1jax.models.shapes import SHAPES
from r1jax.models.transformer import param_specs
from r1jax.pipeline.plan import make_plan
from r1jax.rewards.pool import RewardPool
from r1jax.rl.config import RLConfig
from r1jax.rl.environment import Environment
from r1jax.rl.train import train_policy
from r1jax.sharding import make_mesh, param_shardings
from r1jax.training.loop import SaveConfig
from tests.helpers.commands import call
from tests.helpers.paths import ROOT

SMALL = [
    "--pretrain.steps=6",
    "--pretrain.batch=8",
    "--pretrain.hidden-size=64",
    "--pretrain.num-layers=1",
    "--pretrain.corpus.documents=300",
    "--problems.train-size=40",
    "--sampling.max-tokens=16",
    "--rl.steps=6",
    "--rl.prompts=4",
    "--rl.group=4",
    "--rl.minibatches=2",
    "--rl.beta=0.01",
    "--rl.reference-every=2",
    "--rl.learning-rate=1e-3",
    "--evaluation.problems=4",
    "--save.every=2",
    "--save.keep-last=2",
    "--verifier.workers=1",  # each takes a second to start
    "--verifier.deadline=60",  # a stall of a busy machine must not change a reward
    *("--rewards", "length", "accuracy", "format"),  # so small a model is never right, but its lengths differ
]


def start(out, *flags):
    """Starts the command in a new process."""
    command = [sys.executable, "experiments/r1_zero.py", f"--out={out}", *SMALL, *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(out, *flags):
    """Status, stdout and stderr of the command, called in this process."""
    return call("r1_zero.py", f"--out={out}", *SMALL, *flags)


def steps_of(out):
    path = out / "r1-zero" / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("}")]


def wait_for_step(out, process, step):
    """Returns once the metrics of ``step`` are on disk."""
    deadline = time.monotonic() + 240
    while step not in steps_of(out):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def params_of(out, stage="r1-zero"):
    return jax.device_get(load(out / stage).params)


def rows_of(out):
    return [json.loads(line) for line in (out / "r1-zero" / "metrics.jsonl").read_text().splitlines()]


def unfinish(out, *stages):
    """Removes the manifests of stages, as if a kill had come before their last write."""
    for stage in stages:
        (out / stage / "manifest.json").unlink()


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def status_of(out, *flags):
    config = cli.parse(PRESETS, "tiny", [*SMALL, *flags])
    return {one.stage.name: one.status for one in make_plan(stages(config), out)}


def shrink_benchmark(patch):
    """Gives the benchmarks' small model one layer and their pools one worker: the tests depend on neither."""
    patch.setitem(SHAPES, "tiny", dataclasses.replace(SHAPES["tiny"], num_layers=1))
    patch.setattr("r1jax.rewards.pool.RewardPool", lambda specs, _, deadline: RewardPool(specs, 1, deadline))


def environment_of(model, pool):
    """Forty problems and 16 tokens per completion, as in the finished run."""
    problems = load_problems(dataclasses.replace(Config().problems, train_size=40)).train
    template, sampling = find_template("think"), dataclasses.replace(Config().sampling, max_tokens=16)
    width = max(len(template.prompt_ids(p, model.tokenizer)) for p in problems)
    return Environment(problems, template, pool, sampling, 0, width)


def short_run(mesh, finished, pool, folder, **settings):
    """Metrics, completions and parameters of two steps on a mesh, from the finished run's export."""
    own = {name: settings.pop(name) for name in list(settings) if name in vars(GRPO())}
    algorithm = GRPO(**({"beta": 0.05} | own))
    config = RLConfig(**({"steps": 2, "prompts": 4, "group": 8, "learning_rate": 1e-3} | settings), algorithm=algorithm)
    mesh = make_mesh(mesh)
    with jax.set_mesh(mesh):
        model = load(finished / "model", shardings=param_shardings(param_specs(read_config(finished / "model")), mesh))
        environment = environment_of(model, pool)
        trained = train_policy(model, environment, config, SaveConfig(), folder)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return rows, (folder / "completions.jsonl").read_text(), jax.device_get(trained.params)
