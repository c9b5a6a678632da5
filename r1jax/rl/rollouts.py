"""The first half of a step: groups of samples with their rewards, on the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

from r1jax.algorithms.advantages import groups_with_spread
from r1jax.algorithms.interface import Algorithm
from r1jax.data.problems.problem import Problem
from r1jax.rewards import Completion
from r1jax.rewards.scores import Scores
from r1jax.rl.setup import StepSetup
from r1jax.sampling.slots import LENGTH, Samples
from r1jax.sharding import Params


@dataclasses.dataclass(frozen=True)
class Group:
    """A question and its samples."""

    problem: Problem
    prompt: list[int]
    completions: list[Completion]  # G
    samples: Samples  # G rows
    rewards: np.ndarray  # [G, R], a column a rule
    total: np.ndarray  # [G], the weighted sum, with the algorithm's own terms
    spread: bool  # False if the totals are equal
    kept: bool  # True if it is learned from
    resolution: float = 0.0  # differences of the totals below it are noise

    @property
    def truncated(self) -> np.ndarray:
        """Samples that ended at the longest length: [G] bool."""
        return np.asarray(self.samples.finish) == LENGTH


@dataclasses.dataclass(frozen=True)
class Rollout:
    """What one step sampled: P groups, and counts of all attempts."""

    groups: list[Group]
    names: tuple[str, ...]  # of the R rules
    counts: np.ndarray  # [P] bool: groups that are learned from
    attempts: int
    sampled: int  # groups of all attempts
    equal: int  # groups without spread among them
    dropped: int  # groups among them that the algorithm does not keep
    reward: float  # mean total of all of them
    tokens: int  # of all attempts
    timeouts: int
    crashes: int

    @property
    def totals(self) -> np.ndarray:
        """[P, G] float32."""
        return np.stack([g.total for g in self.groups])

    @property
    def rule_rewards(self) -> dict[str, np.ndarray]:
        """The unweighted rewards of each rule: name -> [P, G] float32."""
        return _by_rule(self.names, np.stack([g.rewards for g in self.groups]))

    @property
    def truncated(self) -> np.ndarray:
        """Samples that ended at the longest length: [P * G] bool."""
        return np.concatenate([g.truncated for g in self.groups])

    def counted(self, algorithm: Algorithm) -> np.ndarray:
        """Samples whose tokens count: those of groups that are learned from, unless left out alone: [P * G] bool."""
        return np.repeat(self.counts, len(self.groups[0].completions)) & algorithm.counted(self.truncated)

    @property
    def resolution(self) -> np.ndarray:
        """[P] float64."""
        return np.array([g.resolution for g in self.groups])

    @property
    def prompts(self) -> list[list[int]]:
        """The prompt of each of the P * G samples."""
        return [g.prompt for g in self.groups for _ in g.completions]

    @property
    def samples(self) -> Samples:
        """The P * G samples, group by group."""
        parts = [g.samples for g in self.groups]
        return jax.tree.map(lambda *x: np.concatenate(x) if np.ndim(x[0]) else x[0], *parts)


# (prompt of each problem, samples problem by problem): starts work on the devices, between sampling and scoring
AfterSampling = Callable[[list[list[int]], Samples], None]


def collect(
    params: Params,
    problems: Sequence[Sequence[Problem]],
    key: jax.Array,
    setup: StepSetup,
    after_sampling: AfterSampling | None = None,
) -> Rollout:
    """The groups of a step: P that the algorithm keeps, from as many attempts as needed.

    after_sampling: called in each attempt before its samples are scored.
    problems: P of each attempt. If fewer groups are kept after the last one, others fill the batch, whose shape is
    fixed, and do not count.
    """
    P = setup.config.prompts
    sampled: list[Group] = []
    scores: list[Scores] = []
    for attempt, asked in enumerate(problems):
        groups, judged = _groups(params, asked, key, attempt, setup, after_sampling)
        sampled += groups
        scores.append(judged)
        kept = [g for g in sampled if g.kept]
        if len(kept) >= P:
            break
    groups = [*kept, *(g for g in sampled if not g.kept)][:P]
    return Rollout(
        groups,
        names=scores[0].names,
        counts=np.array([g.kept for g in groups]),
        attempts=len(scores),
        sampled=len(sampled),
        equal=sum(not g.spread for g in sampled),
        dropped=sum(not g.kept for g in sampled),
        reward=float(np.mean([g.total for g in sampled])),
        tokens=sum(int(g.samples.lengths.sum()) for g in sampled),
        timeouts=sum(judged.timeouts for judged in scores),
        crashes=sum(judged.crashes for judged in scores),
    )


def _by_rule(names: Sequence[str], values: np.ndarray) -> dict[str, np.ndarray]:
    return {name: values[..., i] for i, name in enumerate(names)}


def _groups(
    params: Params,
    problems: Sequence[Problem],
    key: jax.Array,
    attempt: int,
    setup: StepSetup,
    after_sampling: AfterSampling | None,
) -> tuple[list[Group], Scores]:
    G, algorithm = setup.config.group, setup.config.algorithm
    prompts, samples = setup.sample(params, problems, key, attempt)
    if after_sampling is not None:
        after_sampling(prompts, samples)
    completions, scores = setup.score(problems, samples)
    total = algorithm.shape_rewards(np.array(scores.total), np.asarray(samples.lengths), setup.context.max_tokens)
    resolution = np.broadcast_to(scores.resolution, total.shape).reshape(-1, G).max(axis=1)
    spread = groups_with_spread(total.reshape(-1, G), resolution)
    values = scores.values.reshape(-1, G, len(scores.names))
    kept = algorithm.keeps(total.reshape(-1, G), spread, _by_rule(scores.names, values))
    rows = [slice(i * G, (i + 1) * G) for i in range(len(problems))]  # of each problem
    groups = [
        Group(
            problem=problem,
            prompt=prompt,
            completions=completions[at],
            samples=jax.tree.map(lambda x, at=at: x[at] if np.ndim(x) else x, samples),
            rewards=scores.values[at],
            total=total[at],
            spread=bool(spread[i]),
            kept=bool(kept[i]),
            resolution=float(resolution[i]),
        )
        for i, (problem, prompt, at) in enumerate(zip(problems, prompts, rows, strict=True))
    ]
    return groups, scores
