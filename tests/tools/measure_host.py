"""Measures the seconds that the host takes for its parts of an RL step, with made-up samples and no model.

    python tests/tools/measure_host.py --sizes 512 2048 8192 --out docs/results/host-seconds.json

Each size is a number of samples, in groups of 16, of about 200 tokens of text that works out a word problem. The parts
are those of r1jax.rl.train in its order; each has its wall time and the processor seconds of the main process and of
the worker processes, medians over the repeats. On few cores, the wall time of the rewards is about the sum of both
divided by the cores; on many, it cannot fall below the processor seconds of the main process.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil
import tokenizers

from r1jax.checkpoints.model import Model
from r1jax.data.problems.dataset import ProblemsConfig, load_problems
from r1jax.data.problems.problem import Problem
from r1jax.data.text.solutions import response
from r1jax.data.text.template import find_template
from r1jax.models.config import ModelConfig
from r1jax.rewards.config import VerifierConfig, parse_rewards
from r1jax.rewards.pool import RewardPool
from r1jax.rl.batch import minibatches
from r1jax.rl.config import RLConfig
from r1jax.rl.environment import ON_HOST, Environment
from r1jax.rl.metrics import describe, excerpt
from r1jax.rl.rollouts import collect
from r1jax.rl.setup import StepSetup, make_setup
from r1jax.rl.step import batch_of
from r1jax.sampling.processors import Sampling
from r1jax.sampling.slots import END, LENGTH, Samples
from r1jax.sharding import make_mesh
from r1jax.tokenizer.byte_pieces import byte_characters
from r1jax.tokenizer.json_tokenizer import JsonTokenizer
from r1jax.training.loop import frozen_objects
from r1jax.training.metrics import MetricsWriter

GROUP = 16
MAX_TOKENS = 512


def trained_tokenizer(texts: list[str]) -> JsonTokenizer:
    """Byte-level BPE as the models of the recipe have, trained on the texts."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=2000, special_tokens=["<eos>"], initial_alphabet=byte_characters(), show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    return JsonTokenizer(backend=backend, bos_id=None, eos_ids=(0,), pad_id=0)


def texts_of(problems: list[Problem], rng: random.Random) -> list[str]:
    """Completions of about 600 characters on average that work out other problems first; a third answer wrongly."""
    worked = [text.removeprefix("<think>").partition("</think>")[0] for p in problems if (text := response(p))]
    found = []
    for problem in problems:
        steps = " ".join(rng.choice(worked) for _ in range(rng.choice((1, 2, 3, 4, 6, 9))))
        answer = problem.answer if rng.random() < 0.67 else "17"
        found.append(f"{steps}</think> <answer>{answer}</answer>")
    return found


def samples_of(texts: list[str], tokenizer: JsonTokenizer) -> Samples:
    """The texts as samples on the device, cut at MAX_TOKENS."""
    N = len(texts)
    tokens, lengths = np.zeros((N, MAX_TOKENS), np.int32), np.zeros(N, np.int32)
    for row, text in enumerate(texts):
        ids = [*tokenizer.encode(text), 0][:MAX_TOKENS]
        tokens[row, : len(ids)], lengths[row] = ids, len(ids)
    finish = np.where(tokens[np.arange(N), lengths - 1] == 0, END, LENGTH).astype(np.int32)
    logprobs = -np.random.default_rng(0).random((N, MAX_TOKENS), np.float32)
    arrays = tokens, lengths, finish, logprobs, logprobs, np.int32(MAX_TOKENS)
    return Samples(*map(jnp.asarray, arrays))


class Clock:
    """Wall and processor seconds of parts, by name."""

    def __init__(self) -> None:
        self.rows: list[dict[str, np.ndarray]] = [{}]

    def timed(self, name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        """The result of a call, whose seconds enter the newest row."""
        began = _spent()
        found = call(*arguments)
        self.rows[-1][name] = _spent() - began
        return found

    def medians(self) -> dict[str, dict[str, float]]:
        """The medians of all rows but the first, in which programs are compiled and workers load libraries."""
        table = {name: np.median([row[name] for row in self.rows[1:]], axis=0) for name in self.rows[-1]}
        return {name: dict(zip(KINDS, spent.round(4).tolist(), strict=True)) for name, spent in table.items()}


KINDS = ("seconds", "main_thread", "main_process", "workers")


def _spent() -> np.ndarray:
    """Wall seconds, and processor seconds of the main thread, the main process and the worker processes."""
    times = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    workers = sum(one.user + one.system for one in times)
    return np.array([time.perf_counter(), time.thread_time(), time.process_time(), workers])


def measure(size: int, workers: int, repeats: int) -> dict[str, dict[str, float]]:
    """The medians of each part of a step with ``size`` samples."""
    problems = load_problems(ProblemsConfig(source="word-problems", digits=4)).train
    asked = list(problems[: size // GROUP])
    texts = texts_of([p for p in asked for _ in range(GROUP)], random.Random(0))
    tokenizer = trained_tokenizer(texts[:512] + [p.question for p in asked])
    samples, template = samples_of(texts, tokenizer), find_template("think")
    model = Model(ModelConfig(vocab_size=tokenizer.vocab_size), {}, tokenizer)
    config = RLConfig(prompts=size // GROUP, group=GROUP, pack=True, microbatch=min(size, 512))
    width = max(len(template.prompt_ids(problem, tokenizer)) for problem in asked)
    specs = parse_rewards(["accuracy", "format", "language"])
    clock = Clock()
    with RewardPool(specs, workers, VerifierConfig().deadline) as pool, tempfile.TemporaryDirectory() as folder:
        environment = Environment(problems, template, pool, Sampling(max_tokens=MAX_TOKENS), 0, width)
        setup = make_setup(model, environment, config)
        score = setup.score

        def sample(*_: Any) -> tuple[list[list[int]], Samples]:
            drawn = jax.tree.map(lambda x: x + 0, samples)
            prompts = clock.timed("prompts", lambda: [template.prompt_ids(p, tokenizer) for p in asked])
            read = clock.timed("samples to the host", jax.device_get, {name: getattr(drawn, name) for name in ON_HOST})
            return prompts, dataclasses.replace(drawn, **read)

        def scored(*given: Any) -> Any:
            return clock.timed("decoding and rewards", score, *given)

        setup = dataclasses.replace(setup, sample=sample, score=scored)
        with MetricsWriter(Path(folder), 0) as writer, frozen_objects():
            for _ in range(repeats + 1):
                step(setup, asked, clock, writer, tokenizer)
                row = clock.rows[-1]
                inside = ("prompts", "samples to the host", "decoding and rewards")
                row["groups"] = row.pop("rollout") - sum(row[name] for name in inside)
                clock.rows.append({})
    clock.rows.pop()
    return clock.medians() | {"tokens": {"mean": round(float(samples.lengths.mean()), 1)}}


def step(setup: StepSetup, asked: list[Problem], clock: Clock, writer: MetricsWriter, tokenizer: JsonTokenizer) -> None:
    """The parts of a step on the host."""
    algorithm = setup.config.algorithm
    rollout = clock.timed("rollout", collect, {}, [asked], jax.random.key(0), setup)
    found = rollout.totals, rollout.groups.resolution, rollout.counts
    advantages = clock.timed("advantages", algorithm.advantages, *found)
    batch = clock.timed("batch", lambda: jax.block_until_ready(batch_of(rollout, advantages, setup)))
    clock.timed("packing", minibatches, batch, jax.random.key(1), 1, setup.config.microbatch_size)
    row = clock.timed("metrics", describe, rollout, advantages, rollout.names)
    shown = [rollout.groups.group(i) for i in range(4)]
    lines = clock.timed("transcripts", excerpt, shown, rollout.names, tokenizer, {}, [])
    clock.timed("files", lambda: (writer.write_completions(0, lines), writer.write(0, row)))


def main() -> None:
    """Measures all sizes and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 2048, 8192])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    figures: dict[str, Any] = {"cores": os.cpu_count(), "workers": options.workers, "jax": jax.__version__}
    figures["load"] = round(os.getloadavg()[0], 2)
    with jax.set_mesh(make_mesh("1x1")):
        for size in options.sizes:
            figures[str(size)] = measure(size, options.workers, options.repeats)
            print(json.dumps(figures[str(size)], indent=1), flush=True)
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
