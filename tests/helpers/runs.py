"""Folders of finished runs of R1-Zero as the reports read them, without models."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from r1jax.data.problems.dataset import ProblemsConfig, load_problems
from r1jax.evaluation.evaluate import EvaluationConfig, problem_hash
from r1jax.evaluation.summary import Outcomes, summarise
from r1jax.rl.config import RLConfig

PROBLEMS = ProblemsConfig(digits=1, operations="+", held_out_size=6)
MADE_BY = {"device": "1 x test", "model": "test", "command": "python experiments/r1_zero.py --seed S", "python": "3"}
MADE_BY |= {"r1jax": "0", "jax": "0", "flax": "0", "optax": "0"}


def evaluated(right: Sequence[int], samples: int, problems: ProblemsConfig = PROBLEMS) -> dict[str, Any]:
    """The figures of an evaluation in which the first ``right[i]`` samples of problem i are right."""
    correct = np.arange(samples) < np.array(right)[:, None]
    ones = np.ones(correct.shape, bool)
    outcomes = Outcomes(
        np.where(correct, 0, 1), correct, ones, ones, ones * 10, ~ones, {"accuracy": correct * 1.0}, ones * 5.0
    )
    hashes = [problem_hash(problem) for problem in load_problems(problems).held_out]
    return dataclasses.asdict(summarise(hashes, outcomes, {}, range(1, samples + 1), 0))


def write_run(
    folder: Path,
    seed: int,
    before: Sequence[int],
    after: Sequence[int],
    samples: int = 8,
    problems: ProblemsConfig = PROBLEMS,
    rl: RLConfig | None = None,
    rows: Sequence[Mapping[str, Any]] = (),
    temperature: float = 1.0,
    **figures: Any,
) -> Path:
    """Writes the manifests of a run's evaluations and training, and the rows of its metrics.

    before, after: right samples of each held-out problem. figures: of training.
    """
    evaluation = {"problems": dataclasses.asdict(problems), "seed": seed}
    evaluation["evaluation"] = dataclasses.asdict(EvaluationConfig(samples=samples, temperature=temperature))
    training = {
        "rl": dataclasses.asdict(rl or RLConfig(steps=max(1, len(rows)))),
        "rewards": ["accuracy"],
        "seed": seed,
    }
    training["sampling"] = {"max_tokens": 16}
    stages = {
        "evaluation_before": (evaluation, {"reasoning": evaluated(before, samples, problems)}, {"policy": "base"}),
        "r1-zero": (training, {"steps": len(rows), **figures}, {"policy": "base"}),
        "evaluation_after": (evaluation, {"reasoning": evaluated(after, samples, problems)}, {}),
    }
    for name, (settings, result, files) in stages.items():
        manifest = {"settings": settings, "may_change": [], "files": files, "fingerprints": {}, "figures": result}
        (folder / name).mkdir(parents=True)
        (folder / name / "manifest.json").write_text(json.dumps(manifest | {"made_by": MADE_BY}))
    (folder / "r1-zero" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
