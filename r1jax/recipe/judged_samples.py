"""Many samples of many problems, judged and kept on disk as they come."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from r1jax.checkpoints.model import Model
from r1jax.data.formats.rows import read_rows
from r1jax.data.problems.problem import Problem
from r1jax.data.text.template import Template
from r1jax.disk import write_whole
from r1jax.rewards import Completion
from r1jax.rewards.completions import completions_from_samples
from r1jax.rewards.scores import Scorer
from r1jax.sampling.processors import Sampling
from r1jax.sampling.sampler import sample
from r1jax.seeds import stage_key
from r1jax.stopping import Stopped, StopRequest

CHUNK = 256  # problems that are sampled together; what a kill can cost


@dataclasses.dataclass(frozen=True)
class Drawn:
    """One sample, whether its answer is right, and its part of the time that sampling and judging took."""

    problem: Problem
    completion: Completion
    correct: bool
    seconds: float = 0.0


def draw(
    model: Model,
    problems: Sequence[Problem],
    template: Template,
    scorer: Scorer,
    sampling: Sampling,
    samples: int,
    seed: int,
    folder: Path,
    name: str = "draw",
) -> Iterator[Drawn]:
    """``samples`` completions of each problem in their order, judged by the scorer's "accuracy".

    Each chunk of problems is a file in ``folder`` once it is judged; where the file is there, it is read and not
    sampled again. A sample depends on the seed, ``name`` and its place alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    prompts = [template.prompt_ids(problem, model.tokenizer) for problem in problems]
    width = max(map(len, prompts))
    key = stage_key(seed, name, "samples")

    def judged(part: Sequence[Problem], start: int) -> list[dict[str, Any]]:
        began = time.perf_counter()
        result = jax.device_get(
            sample(
                model.params,
                prompts[start : start + CHUNK],
                model.config,
                key,
                sampling=sampling,
                end_tokens=model.tokenizer.eos_ids,
                samples_per_prompt=samples,
                sequence_ids=np.arange(len(part) * samples) + start * samples,
                prompt_width=width,
            )
        )
        completions = completions_from_samples(result, model.tokenizer, template, sampling)
        scores = scorer.score([p for p in part for _ in range(samples)], completions)
        seconds = (time.perf_counter() - began) / len(completions)
        return [
            {"text": c.text, "tokens": c.tokens, "finished": c.finished, "correct": bool(right), "seconds": seconds}
            for c, right in zip(completions, scores.correct, strict=True)
        ]

    with StopRequest() as stop:
        for start in range(0, len(problems), CHUNK):
            part = problems[start : start + CHUNK]
            lines = kept_lines(folder / f"{start:07d}.jsonl", lambda part=part, start=start: judged(part, start))
            for i, line in enumerate(lines):
                found = {name: line.pop(name) for name in ("correct", "seconds")}
                completion = Completion(limit=sampling.max_tokens, template=template, **line)
                yield Drawn(part[i // samples], completion, **found)
            if stop.requested:
                raise Stopped(f"stopped after {start + len(part)} of {len(problems)} problems", stop.number)


def kept_lines(file: Path, make: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The objects in a JSONL file, which ``make`` gives where it is not there yet."""
    if not file.exists():
        write_whole(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in make()))
    return [row for _, row in read_rows(file, ())]
