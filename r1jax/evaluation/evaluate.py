"""The one evaluation: held-out problems, sampled several times, judged by the rewards' own rules."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from r1jax.data.number import parse_number
from r1jax.data.problem import Problem
from r1jax.data.readability import ReadabilityConfig, fault
from r1jax.data.template import ANY, Template, completion_text
from r1jax.errors import UserError
from r1jax.evaluation.report import Evaluation, summarise
from r1jax.models.config import ModelConfig
from r1jax.rewards import Completion
from r1jax.rewards.pool import Scorer
from r1jax.sampling.processors import Sampling
from r1jax.sampling.sampler import LENGTH, Samples, sample
from r1jax.sharding import Params
from r1jax.tokenizer import Tokenizer


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
) -> tuple[Evaluation, list[Judged]]:
    """Figures of ``samples_per_problem`` samples to each problem, and the first completion of each.

    The pool's rewards must hold "accuracy". The same seed gives every checkpoint the same random numbers.
    """
    key = jax.random.key(seed)
    prompts = [template.prompt_ids(problem, tokenizer) for problem in problems]
    samples = sample(
        params, prompts, model, key,
        sampling=sampling, end_tokens=tokenizer.eos_ids, samples_per_prompt=samples_per_problem,
    )  # fmt: skip
    completions = read_completions(samples, tokenizer, template, sampling)
    repeated = [problem for problem in problems for _ in range(samples_per_problem)]
    scores = pool.score(repeated, completions)
    correct = scores.values[:, scores.names.index("accuracy")] > 0.5

    def table(values: Sequence[object] | np.ndarray) -> np.ndarray:
        return np.asarray(values).reshape(len(problems), samples_per_problem)

    readable = [
        template.well_formed(c.text) and fault(p, template.reasoning(c.text), ReadabilityConfig()) is None
        for p, c in zip(repeated, completions, strict=True)
    ]
    judged = {name: column[~np.isnan(column)] for name, column in zip(scores.names, scores.values.T, strict=True)}
    kinds = np.array([problem.kind for problem in repeated])
    answers = [_normal_form(c.answer) for c in completions]
    n = samples_per_problem
    evaluation = summarise(
        [answers[i * n : (i + 1) * n] for i in range(len(problems))],
        table(correct),
        table([template.well_formed(c.text) for c in completions]),
        table(np.asarray(samples.lengths)),
        table(np.asarray(samples.finish) == LENGTH),
        ks=range(1, n + 1),
        seed=seed,
        readable=table(readable),
        rewards={name: float(column.mean()) for name, column in judged.items() if len(column)},
        accuracy_by_kind={str(kind): float(correct[kinds == kind].mean()) for kind in np.unique(kinds)},
    )
    firsts = [
        Judged(p.question, p.answer, completions[i * n].text, bool(correct[i * n])) for i, p in enumerate(problems)
    ]
    return evaluation, firsts


def _normal_form(answer: str | None) -> str | None:
    """One text for all ways to write a number, so that a vote counts them together."""
    number = None if answer is None else parse_number(answer)
    return answer if number is None else str(number)


def evaluation_from(fields: Mapping[str, Any]) -> Evaluation:
    """The Evaluation whose dataclasses.asdict went through JSON, where keys become text and tuples lists."""
    by_k = {name: {int(k): v for k, v in fields[name].items()} for name in ("pass_at", "maj_at")}
    intervals = {name: (low, high) for name, (low, high) in fields["intervals"].items()}
    return Evaluation(**{**fields, **by_k, "intervals": intervals})
