"""Measures what it saves that rewards are computed while the device computes log-probabilities.

    python tests/tools/measure_overlap.py --reward-seconds 1

A step of GRPO with a reference and two minibatches is made with a reward that takes a given time, as tests of programs
in a sandbox do, once with the rewards beside the log-probabilities and once before them. Prints a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from unittest import mock

import jax
import numpy as np

from r1jax.algorithms.grpo import GRPO
from r1jax.checkpoints.model import Model
from r1jax.data.problems.dataset import ProblemsConfig, load_problems
from r1jax.data.text.template import find_template
from r1jax.models.config import ModelConfig
from r1jax.models.transformer import param_specs
from r1jax.rewards.scores import Scores
from r1jax.rl.config import RLConfig
from r1jax.rl.environment import Environment
from r1jax.rl.setup import make_setup
from r1jax.rl.state import init_rl_state
from r1jax.rl.step import rl_step
from r1jax.rl.train import step_keys
from r1jax.sampling.processors import Sampling
from r1jax.sharding import init_params, make_mesh
from r1jax.tokenizer.byte_level import ByteTokenizer


class Slow:
    """A scorer that takes a given time and no processor."""

    names = ("slow",)

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def score(self, problems, completions):
        """The position in the batch, modulo 3."""
        time.sleep(self._seconds)
        values = np.arange(len(problems), dtype=np.float32) % 3
        return Scores(values[:, None], values, self.names, 0, 0)

    def check(self, problems, answers):
        """Not used in training."""
        raise NotImplementedError


def main() -> None:
    """Measures the median seconds of a step in both orders, which alternate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reward-seconds", type=float, default=1.0)
    parser.add_argument("--hidden-size", type=int, default=64)
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    tokenizer = ByteTokenizer()
    config = ModelConfig(vocab_size=264, hidden_size=options.hidden_size)
    model = Model(config, init_params(param_specs(config), jax.random.key(0)), tokenizer)
    problems, template = load_problems(ProblemsConfig()).train, find_template("think")
    sampling = Sampling(max_tokens=options.tokens)
    environment = Environment(problems, template, Slow(options.reward_seconds), sampling, 0, 32)
    rl = RLConfig(prompts=options.sequences // 8, group=8, minibatches=2, algorithm=GRPO(beta=0.01))
    setup = make_setup(model, environment, rl)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    with jax.set_mesh(make_mesh("1x1")):
        state = init_rl_state(model.params, setup)
        for i in range(2 * options.repeats + 2):
            overlapped = i % 2 == 0
            began = time.perf_counter()
            with mock.patch.object(GRPO, "keeps_all", overlapped):
                batch = [environment.batch(i, rl.prompts, 0, 1)]
                state, _ = rl_step(state, batch, step_keys(environment, i), setup)
                jax.block_until_ready(state)
            if i >= 2:  # the first of each compile
                seconds[overlapped].append(time.perf_counter() - began)
    beside, before = (statistics.median(seconds[order]) for order in (True, False))
    figures = {"device": jax.devices()[0].device_kind, "jax": jax.__version__, **vars(options)}
    print(json.dumps(figures | {"seconds_beside": round(beside, 3), "seconds_before": round(before, 3)}))


if __name__ == "__main__":
    main()
