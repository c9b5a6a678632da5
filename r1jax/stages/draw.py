"""Many samples of many problems, judged and kept on disk as they come."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from r1jax.checkpoints.model import Model
from r1jax.data.problem import Problem
from r1jax.data.template import Template
from r1jax.evaluation.evaluate import read_completions
from r1jax.rewards import Completion
from r1jax.rewards.pool import Scorer
from r1jax.sampling.processors import Sampling
from r1jax.sampling.sampler import sample
from r1jax.stages.run import write_whole
from r1jax.training.loop import Stopped, StopRequest

CHUNK = 256  # problems that are sampled together; what a kill can cost


@dataclasses.dataclass(frozen=True)
class Drawn:
    """One sample and whether its answer is right."""

    problem: Problem
    completion: Completion
    correct: bool


def draw(
    model: Model, problems: Sequence[Problem], template: Template, scorer: Scorer, sampling: Sampling, samples: int,
    seed: int, folder: Path,
) -> Iterator[Drawn]:  # fmt: skip
    """``samples`` completions of each problem in their order, judged by the scorer's "accuracy".

    Each chunk of problems is a file in ``folder`` once it is judged; where the file is there, it is read and not
    sampled again. A sample depends on the seed and its place alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    prompts = [template.prompt_ids(problem, model.tokenizer) for problem in problems]
    width = max(map(len, prompts))
    at = scorer.names.index("accuracy")
    with StopRequest() as stop:
        for start in range(0, len(problems), CHUNK):
            file = folder / f"{start:07d}.jsonl"
            part = problems[start : start + CHUNK]
            if not file.exists():
                result = jax.device_get(sample(
                    model.params, prompts[start : start + CHUNK], model.config, jax.random.key(seed),
                    sampling=sampling, end_tokens=model.tokenizer.eos_ids, samples_per_prompt=samples,
                    sequence_ids=np.arange(len(part) * samples) + start * samples, prompt_width=width,
                ))  # fmt: skip
                completions = read_completions(result, model.tokenizer, template, sampling)
                scores = scorer.score([p for p in part for _ in range(samples)], completions)
                rows = [
                    {"text": c.text, "tokens": c.tokens, "finished": c.finished, "correct": bool(right > 0.5)}
                    for c, right in zip(completions, scores.values[:, at], strict=True)
                ]
                write_whole(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            for i, line in enumerate(file.read_text().splitlines()):
                row = json.loads(line)
                correct = row.pop("correct")
                yield Drawn(
                    part[i // samples], Completion(limit=sampling.max_tokens, template=template, **row), correct
                )
            if stop.requested:
                raise Stopped(f"stopped after {start + len(part)} of {len(problems)} problems")
