"""Samples of many problems, judged, and written to disk in chunks."""

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
from r1jax.data.text.readability import ReadabilityConfig
from r1jax.data.text.template import Template, find_template
from r1jax.disk import write_whole
from r1jax.errors import UserError
from r1jax.models.config import ComputeOptions
from r1jax.recipe.judge import routed_rewards
from r1jax.recipe.loading import inference_dtype, load_model
from r1jax.rewards import Completion
from r1jax.rewards.completions import completions_from_samples
from r1jax.rewards.config import VerifierConfig
from r1jax.rewards.scores import Scorer
from r1jax.sampling.processors import Sampling
from r1jax.sampling.sampler import sample
from r1jax.seeds import stage_key
from r1jax.stopping import Stopped, StopRequest

CHUNK = 256  # problems that are sampled together; a kill loses at most one chunk


@dataclasses.dataclass(frozen=True)
class SelectConfig:
    """What is sampled for a data set, and what of it is kept."""

    problems: int = 512
    """Training problems that are sampled, at most."""
    samples: int = 4
    """Samples per problem."""
    per_problem: int = 2
    """Samples per problem that are kept, at most."""
    temperature: float = 1.0
    """Sampling temperature."""
    readability: ReadabilityConfig = ReadabilityConfig()

    def __post_init__(self) -> None:
        if min(self.problems, self.samples, self.per_problem) < 1 or self.temperature <= 0:
            raise UserError("selection: problems, samples and per-problem must be at least 1, temperature above 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplesSettings(ComputeOptions):
    """How a policy is sampled for a data set; the temperature of ``sampling`` is that of ``select``."""

    select: SelectConfig
    template: str  # of the prompts
    sampling: Sampling
    verifier: VerifierConfig


@dataclasses.dataclass(frozen=True)
class JudgedSample:
    """One sample, whether its answer is right, and its share of the seconds that sampling and judging took."""

    problem: Problem
    completion: Completion
    correct: bool
    seconds: float = 0.0


def sample_policy(
    settings: SamplesSettings, policy: Path, problems: Sequence[Problem], seed: int, folder: Path
) -> list[JudgedSample]:
    """Samples of a checkpoint for the stage whose folder is given, judged by accuracy; the weights are freed."""
    model = load_model(policy, settings, inference_dtype(settings))
    routes = tuple(f"{kind}: accuracy" for kind in sorted({p.kind for p in problems}))
    with routed_rewards(routes, settings.verifier) as scorer:
        return list(
            judged_samples(
                model,
                problems[: settings.select.problems],
                find_template(settings.template),
                scorer,
                settings.sampling,
                settings.select.samples,
                seed,
                folder / "samples",
                folder.name,
            )
        )


def judged_samples(
    model: Model,
    problems: Sequence[Problem],
    template: Template,
    scorer: Scorer,
    sampling: Sampling,
    samples: int,
    seed: int,
    folder: Path,
    name: str = "samples",
) -> Iterator[JudgedSample]:
    """``samples`` completions of each problem in their order, judged by the scorer's "accuracy".

    Each chunk of problems is written to a file in ``folder`` once it is judged; if the file exists, it is read instead.
    A sample depends only on the seed, ``name`` and its index.
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
            lines = cached_lines(folder / f"{start:07d}.jsonl", lambda part=part, start=start: judged(part, start))
            for i, line in enumerate(lines):
                judgement = {name: line.pop(name) for name in ("correct", "seconds")}
                completion = Completion(limit=sampling.max_tokens, template=template, **line)
                yield JudgedSample(part[i // samples], completion, **judgement)
            if stop.requested:
                raise Stopped(f"stopped after {start + len(part)} of {len(problems)} problems", stop.number)


def cached_lines(file: Path, make: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The objects in a JSONL file; if it does not exist, ``make`` is called and its result written there."""
    if not file.exists():
        write_whole(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in make()))
    return [row for _, row in read_rows(file, ())]
