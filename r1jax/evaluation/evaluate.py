"""The one evaluation: held-out problems, sampled several times, judged by the rewards' own rules."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from r1jax.data.problems.problem import Problem
from r1jax.data.text.readability import ReadabilityConfig, fault
from r1jax.data.text.template import ANY, Template, completion_text
from r1jax.errors import UserError
from r1jax.evaluation.estimators import MOST_SAMPLES
from r1jax.evaluation.voting import vote_classes
from r1jax.models.config import ModelConfig
from r1jax.report.comparison import Evaluation, summarise
from r1jax.rewards import Completion
from r1jax.rewards.scores import Scorer, Scores
from r1jax.sampling.processors import Sampling
from r1jax.sampling.sampler import LENGTH, Samples, sample
from r1jax.seeds import stage_key
from r1jax.sharding import Params, data_devices
from r1jax.tokenizer import Tokenizer
from r1jax.training.progress import ProgressBar

_PART = 512  # sequences that are sampled together, at least


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """The evaluation before and after training."""

    problems: int = 128
    """Held-out problems; fewer where there are fewer."""
    samples: int = 8
    """Samples of each: pass@k is given for all k up to this, and maj@k from 2 on."""
    temperature: float = 1.0
    """Of the sampling; the rest is as in training."""

    def __post_init__(self) -> None:
        if self.problems < 1 or self.samples < 2:
            raise UserError("evaluation: problems must be at least 1 and samples at least 2")
        if self.samples > MOST_SAMPLES:
            raise UserError(f"evaluation: samples must be at most {MOST_SAMPLES}")
        if self.temperature <= 0:
            raise UserError(f"evaluation: temperature {self.temperature} must be above 0: equal samples say nothing")


@dataclasses.dataclass(frozen=True)
class Judged:
    """One completion of a problem, for people to read."""

    question: str
    answer: str
    completion: str
    correct: bool


def read_completions(
    samples: Samples, tokenizer: Tokenizer, template: Template, sampling: Sampling
) -> list[Completion]:
    """The samples as the text that rewards look at."""
    tokens, lengths, finish = (np.asarray(x) for x in (samples.tokens, samples.lengths, samples.finish))
    opening, prompt = template.opening(tokenizer), template.prompt_ids(ANY, tokenizer)
    return [
        Completion(
            text=opening + completion_text(row[:n].tolist(), prompt, tokenizer),
            tokens=int(n),
            limit=sampling.max_tokens,
            finished=bool(reason != LENGTH),
            template=template,
        )
        for row, n, reason in zip(tokens, lengths, finish, strict=True)
    ]


def evaluate(
    params: Params,
    model: ModelConfig,
    tokenizer: Tokenizer,
    template: Template,
    problems: Sequence[Problem],
    pool: Scorer,
    sampling: Sampling,
    samples_per_problem: int,
    seed: int,
    name: str = "evaluation",
) -> tuple[Evaluation, list[Judged]]:
    """Figures of ``samples_per_problem`` samples to each problem, and the first completion of each.

    The pool's rewards must hold "accuracy". The samples depend on the seed and on ``name``, by which no two
    evaluations of a run draw the same random numbers; it is shown beside the progress, which is counted in samples.
    """
    key = stage_key(seed, name, "samples")
    prompts = [template.prompt_ids(problem, tokenizer) for problem in problems]
    repeated = [problem for problem in problems for _ in range(samples_per_problem)]
    completions: list[Completion] = []
    scored: list[Scores] = []
    part = len(problems) // equal_parts(len(problems), samples_per_problem)
    began = time.perf_counter()
    with ProgressBar(name, len(repeated)) as progress:
        progress.update(0, {})
        for start in range(0, len(problems), part):
            ids = np.arange(start * samples_per_problem, (start + part) * samples_per_problem)
            samples = sample(
                params,
                prompts[start : start + part],
                model,
                key,
                sampling=sampling,
                end_tokens=tokenizer.eos_ids,
                samples_per_prompt=samples_per_problem,
                sequence_ids=ids,
                prompt_width=max(map(len, prompts)),
            )
            read = read_completions(samples, tokenizer, template, sampling)
            scored.append(pool.score([repeated[i] for i in ids], read))
            completions += read
            tokens = sum(c.tokens for c in completions)
            progress.update(len(completions), {"tokens_per_second": tokens / (time.perf_counter() - began)})
    values = np.concatenate([scores.values for scores in scored])
    correct = np.concatenate([scores.correct for scores in scored])

    def table(values: Sequence[object] | np.ndarray) -> np.ndarray:
        return np.asarray(values).reshape(len(problems), samples_per_problem)

    readable = [
        template.well_formed(c.text) and fault(p, template.reasoning(c.text), ReadabilityConfig()) is None
        for p, c in zip(repeated, completions, strict=True)
    ]
    kinds = np.array([problem.kind for problem in repeated])
    answers = [c.answer for c in completions]
    n = samples_per_problem
    evaluation = summarise(
        [_key(problem) for problem in problems],
        vote_classes(problems, [answers[i * n : (i + 1) * n] for i in range(len(problems))], table(correct), pool),
        table(correct),
        table([template.well_formed(c.text) for c in completions]),
        table([c.tokens for c in completions]),
        table([not c.finished for c in completions]),
        ks=range(1, n + 1),
        seed=seed,
        readable=table(readable),
        rewards={name: table(column) for name, column in zip(pool.names, values.T, strict=True)},
        accuracy_by_kind={str(kind): float(correct[kinds == kind].mean()) for kind in np.unique(kinds)},
    )
    firsts = [
        Judged(p.question, p.answer, completions[i * n].text, bool(correct[i * n])) for i, p in enumerate(problems)
    ]
    return evaluation, firsts


def equal_parts(problems: int, samples: int) -> int:
    """Equal parts to sample one after another, up to 4, so that progress shows: one program serves them all.

    A part has at least _PART sequences, since fewer would leave a device idle, and as many problems on each device of
    the data axis as the others.
    """
    data = data_devices()

    def fits(parts: int) -> bool:
        part, rest = divmod(problems, parts)
        # Where the problems do not split over the devices, these share one queue, in parts or not.
        return not rest and part * samples >= _PART and (problems % data > 0 or part % data == 0)

    return max(parts for parts in (1, 2, 3, 4) if parts == 1 or fits(parts))


def _key(problem: Problem) -> str:
    """What tells a problem from others, in this run and in any other."""
    parts = (problem.question, problem.answer, problem.checker, problem.metadata)
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).hexdigest()


def evaluation_from(fields: Mapping[str, Any]) -> Evaluation:
    """The Evaluation whose dataclasses.asdict went through JSON, where keys become text and tuples lists."""
    by_k = {name: {int(k): v for k, v in fields[name].items()} for name in ("pass_at", "maj_at")}
    intervals = {name: ends and tuple(ends) for name, ends in fields["intervals"].items()}
    problems = tuple(fields.get("problems", ()))
    by_problem = {name: tuple(values) for name, values in fields.get("by_problem", {}).items()}
    return Evaluation(**{**fields, **by_k, "intervals": intervals, "problems": problems, "by_problem": by_problem})
