"""Measures how far sampler and trainer disagree with and without replay of the routing. Not part of the suite.

The model is one with experts, such as the base model of the preset tiny-moe:

    python experiments/r1_zero.py --preset tiny-moe --only pretrain --out runs/tiny-moe
    python tests/tools/routing_replay.py runs/tiny-moe/pretrain docs/results/routing-replay-tiny-moe-cpu.json

For each type of computation and each seed it samples completions of training problems, and computes the
log-probabilities of their tokens again as the trainer does, first with the choice of the trainer's routers, then with
the sampler's choice. The file holds the share of choices of routers (one per token and layer with experts) that differ,
the mean and the largest |log p(trainer) - log p(sampler)|, and the standard deviation and the largest distance from 1
of the ratio of the two probabilities.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from r1jax.checkpoints.load import load
from r1jax.checkpoints.model import Model
from r1jax.data.problems.dataset import ProblemsConfig, load_problems
from r1jax.data.text.template import find_template
from r1jax.models.config import ModelConfig
from r1jax.models.transformer import prepare
from r1jax.rl.batch import Batch, build_batch
from r1jax.rl.logprobs import completion_logprobs, router_disagreement
from r1jax.sampling.processors import Sampling
from r1jax.sampling.sampler import sample

PROMPTS, GROUP, SEEDS, TOKENS = 64, 8, (0, 1, 2), 48


def rollout(model: Model, seed: int) -> Batch:
    """Completions of training problems with the experts of their tokens."""
    template, problems = find_template("think"), load_problems(ProblemsConfig(seed=seed)).train[:PROMPTS]
    prompts = [template.prompt_ids(problem, model.tokenizer) for problem in problems]
    samples = sample(
        model.params,
        prompts,
        model.config,
        jax.random.key(seed),
        sampling=Sampling(max_tokens=TOKENS),
        end_tokens=model.tokenizer.eos_ids,
        samples_per_prompt=GROUP,
        keep_routing=True,
    )
    repeated = [prompt for prompt in prompts for _ in range(GROUP)]
    return build_batch(repeated, jax.device_get(samples), max(map(len, prompts)) + TOKENS)


def compare(params: Any, batch: Batch, config: ModelConfig, replay: bool) -> dict[str, float]:
    """The figures of one rollout."""

    @jax.jit
    def trainer(params: Any, batch: Batch) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        assert batch.experts is not None
        experts = batch.experts if replay else None
        logp, _, _, extras = completion_logprobs(
            prepare(params, config), batch.tokens, config, 1.0, 8192, batch.first, experts
        )
        return logp, router_disagreement(extras, batch.experts, batch.mask)

    logp, (differing, choices) = trainer(params, batch)
    difference = np.asarray(logp - batch.sampler_logprobs, np.float64)[np.asarray(batch.mask)]
    ratio = np.exp(difference)
    return {
        "router_disagreement": float(differing / choices),
        "gap_mean": float(np.abs(difference).mean()),
        "gap_max": float(np.abs(difference).max()),
        "ratio_std": float(ratio.std()),
        "ratio_max_distance": float(np.abs(ratio - 1).max()),
    }


def main(folder: Path, out: Path) -> None:
    """Writes the figures of all types, seeds and both ways to ``out``."""
    model = load(folder)
    rows = []
    for dtype in ("float32", "bfloat16"):
        config = dataclasses.replace(model.config, dtype=dtype)
        for seed in SEEDS:
            batch = rollout(dataclasses.replace(model, config=config), seed)
            for replay in (False, True):
                figures = compare(model.params, batch, config, replay)
                rows.append({"dtype": dtype, "seed": seed, "replay": replay, **figures})
                print(json.dumps(rows[-1]))
    about = {
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "layers_with_experts": config.num_layers - config.experts.dense_layers if config.experts else 0,
        "sequences": PROMPTS * GROUP,
        "max_tokens": TOKENS,
    }
    out.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
