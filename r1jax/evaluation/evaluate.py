"""Evaluation of a model: held-out problems, several samples of each, judged by the reward rules."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence

import numpy as np

from r1jax.checkpoints.model import Model
from r1jax.data.problems.problem import Problem
from r1jax.data.text.readability import ReadabilityConfig, fault
from r1jax.data.text.template import Template
from r1jax.errors import UserError
from r1jax.evaluation.estimators import MOST_SAMPLES
from r1jax.evaluation.summary import Evaluation, Outcomes, summarise
from r1jax.evaluation.voting import vote_classes
from r1jax.rewards import Completion
from r1jax.rewards.completions import completions_from_samples
from r1jax.rewards.scores import Scorer, Scores
from r1jax.sampling.processors import Sampling
from r1jax.sampling.sampler import sample
from r1jax.sampling.slots import Samples
from r1jax.seeds import stage_key
from r1jax.sharding import data_devices
from r1jax.training.progress import ProgressBar

_PART_SEQUENCES = 512  # minimum number of sequences that are sampled together


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """The evaluation of a model."""

    problems: int = 128
    """Evaluate on this many held-out problems, or on all of them if there are fewer."""
    samples: int = 8
    """Draw this many samples per problem; pass@k is reported for every k from 1 to this number, and maj@k from 2
    unless tests judge the problems."""
    temperature: float = 1.0
    """Sample at this temperature; the other sampling settings are those of training."""

    def __post_init__(self) -> None:
        if self.problems < 1 or self.samples < 2:
            raise UserError("evaluation: problems must be at least 1 and samples at least 2")
        if self.samples > MOST_SAMPLES:
            raise UserError(f"evaluation: samples must be at most {MOST_SAMPLES}")
        if self.temperature <= 0:
            raise UserError(
                f"evaluation: temperature {self.temperature} must be above 0: at 0 all samples of a problem are equal"
            )


@dataclasses.dataclass(frozen=True)
class Example:
    """A problem with its first completion, for the report."""

    question: str
    answer: str
    completion: str
    correct: bool


def evaluate(
    model: Model,
    problems: Sequence[Problem],
    template: Template,
    scorer: Scorer,
    sampling: Sampling,
    config: EvaluationConfig,
    seed: int,
    name: str = "evaluation",
) -> tuple[Evaluation, list[Example]]:
    """Evaluates a model on the first ``config.problems`` problems; also returns the first completion of each.

    sampling: the settings of training, with config.temperature in place of its temperature. The scorer's rewards must
    include "accuracy". The random stream depends on the seed and on ``name``, so evaluations of one run need different
    names. Progress is shown under the name, counted in samples.
    """
    problems, n = problems[: config.problems], config.samples
    repeated = [problem for problem in problems for _ in range(n)]
    completions, scores, surprisals = _judged_completions(
        model, problems, template, scorer, sampling, config, seed, name
    )
    values = np.concatenate([part.values for part in scores])
    correct = np.concatenate([part.correct for part in scores])

    def table(values: Sequence[object] | np.ndarray) -> np.ndarray:
        return np.asarray(values).reshape(len(problems), n)

    answers = [[c.answer for c in completions[i * n : (i + 1) * n]] for i in range(len(problems))]
    well_formed = [template.well_formed(c.text) for c in completions]
    # Programs are judged by what they do, so no two are known to be the same answer.
    voting = not any(problem.checker == "code" for problem in problems)
    outcomes = Outcomes(
        votes=vote_classes(problems, answers, table(correct), scorer) if voting else None,
        correct=table(correct),
        well_formed=table(well_formed),
        readable=table(
            [
                # Some templates ask for no reasoning that could be read.
                formed
                and (
                    not (template.tags or template.conclusion)
                    or fault(problem, template.reasoning(c.text), ReadabilityConfig()) is None
                )
                for problem, c, formed in zip(repeated, completions, well_formed, strict=True)
            ]
        ),
        lengths=table([c.tokens for c in completions]),
        truncated=table([not c.finished for c in completions]),
        rewards={reward: table(column) for reward, column in zip(scorer.names, values.T, strict=True)},
        surprisals=table(surprisals),
    )
    by_kind = accuracy_by_kind(problems, table(correct))
    evaluation = summarise([problem_hash(problem) for problem in problems], outcomes, by_kind, range(1, n + 1), seed)
    examples = [
        Example(p.question, p.answer, completions[i * n].text, bool(correct[i * n])) for i, p in enumerate(problems)
    ]
    return evaluation, examples


def _judged_completions(
    model: Model,
    problems: Sequence[Problem],
    template: Template,
    scorer: Scorer,
    sampling: Sampling,
    config: EvaluationConfig,
    seed: int,
    name: str,
) -> tuple[list[Completion], list[Scores], np.ndarray]:
    """config.samples completions of each problem, those of one problem in a row, scores in parts, and surprisals_of."""
    n, tokenizer = config.samples, model.tokenizer
    sampling = dataclasses.replace(sampling, temperature=config.temperature)
    key = stage_key(seed, name, "samples")
    prompts = [template.prompt_ids(problem, tokenizer) for problem in problems]
    part = len(problems) // equal_parts(len(problems), n)
    completions: list[Completion] = []
    scores: list[Scores] = []
    surprisals: list[np.ndarray] = []
    began = time.perf_counter()
    with ProgressBar(name, n * len(problems)) as progress:
        progress.update(0, {})
        for start in range(0, len(problems), part):
            samples = sample(
                model.params,
                prompts[start : start + part],
                model.config,
                key,
                sampling=sampling,
                end_tokens=tokenizer.eos_ids,
                samples_per_prompt=n,
                sequence_ids=np.arange(start * n, (start + part) * n),
                prompt_width=max(map(len, prompts)),
            )
            sampled = completions_from_samples(samples, tokenizer, template, sampling)
            scores.append(scorer.score([p for p in problems[start : start + part] for _ in range(n)], sampled))
            completions += sampled
            surprisals.append(surprisals_of(samples))
            tokens = sum(c.tokens for c in completions)
            progress.update(len(completions), {"tokens_per_second": tokens / (time.perf_counter() - began)})
    return completions, scores, np.concatenate(surprisals)


def equal_parts(problems: int, samples: int) -> int:
    """Number of equal parts, up to 4, to sample one after another so that progress is shown between them.

    Equal parts share one compiled program. Each has at least _PART_SEQUENCES sequences, since fewer would leave a
    device idle, and the same number of problems on every device of the data axis.
    """
    data = data_devices()

    def fits(parts: int) -> bool:
        part, rest = divmod(problems, parts)
        # Problems that do not split over the devices are sampled from one queue, whatever the number of parts.
        return not rest and part * samples >= _PART_SEQUENCES and (problems % data > 0 or part % data == 0)

    return max(parts for parts in (1, 2, 3, 4) if parts == 1 or fits(parts))


def surprisals_of(samples: Samples) -> np.ndarray:
    """[N] float64: -log q of each sample, summed over its tokens; q is the distribution that they were drawn from."""
    logprobs = np.asarray(samples.sampling_logprobs, np.float64)
    drawn = np.arange(logprobs.shape[1]) < np.asarray(samples.lengths)[:, None]
    return np.where(drawn, -logprobs, 0.0).sum(axis=1)


def accuracy_by_kind(problems: Sequence[Problem], correct: np.ndarray) -> dict[str, float]:
    """Kind -> share of right samples; correct: [P, n] bool."""
    kinds = np.array([problem.kind for problem in problems])
    return {str(kind): float(correct[kinds == kind].mean()) for kind in np.unique(kinds)}


def problem_hash(problem: Problem) -> str:
    """Identifies a problem by its content, in every run."""
    parts = (problem.question, problem.answer, problem.checker, problem.metadata)
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).hexdigest()
