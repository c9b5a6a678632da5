"""The environment of reinforcement learning: the problems of a step, and how completions are sampled and scored."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

from r1jax.checkpoints.model import Model
from r1jax.data.problems.problem import Problem
from r1jax.data.problems.schedule import problem_batch
from r1jax.data.text.template import Template
from r1jax.rewards import Completion
from r1jax.rewards.completions import completions_from_samples
from r1jax.rewards.scores import Scorer, Scores
from r1jax.rl.config import RLConfig
from r1jax.sampling.processors import Sampling
from r1jax.sampling.sampler import sample
from r1jax.sampling.slots import Samples
from r1jax.seeds import stage_seed
from r1jax.sharding import Params


@dataclasses.dataclass(frozen=True)
class Environment:
    """Where prompts come from, and how completions are sampled and scored."""

    problems: Sequence[Problem]
    template: Template
    pool: Scorer
    sampling: Sampling
    seed: int
    prompt_width: int  # tokens that prompts are padded to, those of the longest one: one program samples them all
    late_problems: Sequence[Problem] = ()  # mixed with the others from step ``late_from`` on
    late_from: int = 0
    late_share: float = 0.5  # share of the late problems in a step from then on
    stage: str = "rl"  # name that separates the random numbers from those of other stages with the same seed

    def batch(self, step: int, size: int, attempt: int, attempts: int) -> list[Problem]:
        """The ``size`` problems of one attempt of a step, late ones last.

        Late problems and the others have an order each (problem_batch), in which the next step continues.
        """
        seed, late = stage_seed(self.seed, self.stage, "problems"), self.late_prompts(size)
        if not late or step < self.late_from:
            return problem_batch(self.problems, step, size, seed, attempt, attempts)
        own: list[Problem] = []
        if late < size:
            own = problem_batch(self.problems, step, size - late, seed, attempt, attempts, [size] * self.late_from)
        return own + problem_batch(self.late_problems, step - self.late_from, late, seed, attempt, attempts)

    def late_prompts(self, size: int) -> int:
        """Number of late problems among the ``size`` problems of a step from ``late_from`` on."""
        return max(round(size * self.late_share), 1) if self.late_problems and self.late_share else 0


# (params, problems, key, attempt) -> the prompt of each problem, and its samples, problem by problem, on the host.
# Only the log-probabilities remain on the devices, where r1jax.rl.batch moves them to their places
SampleGroups = Callable[[Params, Sequence[Problem], jax.Array, int], tuple[list[list[int]], Samples]]
ON_HOST = ("tokens", "lengths", "finish", "steps", "experts", "proposed", "accepted")  # fields of samples

# (problems, samples) -> completions and scores of the samples
ScoreGroups = Callable[[Sequence[Problem], Samples], tuple[list[Completion], Scores]]


def sample_groups(model: Model, environment: Environment, config: RLConfig) -> SampleGroups:
    """The function that samples config.group completions of each problem with the environment's settings."""

    def groups_of(
        params: Params, problems: Sequence[Problem], key: jax.Array, attempt: int
    ) -> tuple[list[list[int]], Samples]:
        prompts = [environment.template.prompt_ids(problem, model.tokenizer) for problem in problems]
        samples = sample(
            params,
            prompts,
            model.config,
            key,
            sampling=environment.sampling,
            end_tokens=model.tokenizer.eos_ids,
            samples_per_prompt=config.group,
            sequence_ids=np.arange(config.sequences) + attempt * config.sequences,
            prompt_width=environment.prompt_width,
            keep_routing=config.replay_routing,
        )
        host = {name: getattr(samples, name) for name in ON_HOST}
        return prompts, dataclasses.replace(samples, **jax.device_get(host))

    return groups_of


def score_groups(model: Model, environment: Environment, config: RLConfig) -> ScoreGroups:
    """The function that decodes the samples of each problem and computes the environment's rewards."""

    def scores_of(problems: Sequence[Problem], samples: Samples) -> tuple[list[Completion], Scores]:
        completions = completions_from_samples(samples, model.tokenizer, environment.template, environment.sampling)
        return completions, environment.pool.score([p for p in problems for _ in range(config.group)], completions)

    return scores_of
