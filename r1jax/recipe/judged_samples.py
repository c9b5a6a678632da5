"""Samples of many problems, judged by accuracy and saved in chunks."""

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
from r1jax.recipe.loading import load_model
from r1jax.rewards import Completion
from r1jax.rewards.completions import completions_from_samples
from r1jax.rewards.config import VerifierConfig
from r1jax.rewards.scores import Scorer
from r1jax.sampling.processors import Sampling
from r1jax.sampling.sampler import sample
from r1jax.seeds import stage_key
from r1jax.stopping import Stopped, StopRequest

CHUNK = 256  # problems that are sampled together; a kill loses at most the samples of one chunk


@dataclasses.dataclass(frozen=True)
class SelectConfig:
    """Sampling for a data set, and the selection of the samples that are kept."""

    problems: int = 512
    """The largest number of training problems to sample."""
    samples: int = 4
    """The number of samples per problem."""
    per_problem: int = 2
    """The largest number of samples per problem to keep."""
    temperature: float = 1.0
    """The sampling temperature."""
    readability: ReadabilityConfig = ReadabilityConfig()

    def __post_init__(self) -> None:
        if min(self.problems, self.samples, self.per_problem) < 1 or self.temperature <= 0:
            raise UserError("selection: problems, samples and per-problem must be at least 1, temperature above 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplesSettings(ComputeOptions):
    """Settings of sampling for a data set; the temperature of ``sampling`` is that of ``select``."""

    select: SelectConfig
    template: str  # of the prompts
    sampling: Sampling
    verifier: VerifierConfig


@dataclasses.dataclass(frozen=True)
class JudgedSample:
    """A sample, whether its answer is correct, and its share of the seconds of sampling and judging."""

    problem: Problem
    completion: Completion
    correct: bool
    seconds: float = 0.0


def sample_policy(
    settings: SamplesSettings, policy: Path, problems: Sequence[Problem], seed: int, folder: Path
) -> list[JudgedSample]:
    """Samples of a checkpoint, judged by accuracy. folder: that of the stage, whose name selects the random stream."""
    model = load_model(policy, settings, settings.dtype)
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

    Each chunk of problems is saved in ``folder`` after it is judged; a chunk that is saved is read and not sampled
    again. A sample depends only on the policy, the seed, ``name`` and its index.

    Raises Stopped on Ctrl-C and SIGTERM, after the chunk is saved.
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
    """The objects in a JSONL file, which is written with the result of ``make`` if it does not exist."""
    if not file.exists():
        write_whole(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in make()))
    return [row for _, row in read_rows(file, ())]
