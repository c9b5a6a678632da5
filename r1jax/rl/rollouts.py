"""The first half of a step: groups of samples with their rewards, on the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
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
    """A question and its samples, as a reader sees them."""

    problem: Problem
    prompt: list[int]
    completions: list[Completion]  # G
    tokens: np.ndarray  # [G, M], as in Samples
    lengths: np.ndarray  # [G]
    truncated: np.ndarray  # [G] bool: samples that ended at the longest length
    rewards: np.ndarray  # [G, R], a column a rule
    total: np.ndarray  # [G], the weighted sum, with the algorithm's own terms
    spread: bool  # False if the totals are equal


@dataclasses.dataclass(frozen=True)
class Groups:
    """Q questions with G samples each; arrays have the samples of a question one after another."""

    problems: Sequence[Problem]  # Q
    asked: Sequence[list[int]]  # Q prompts
    completions: Sequence[Completion]  # Q * G
    samples: Samples  # Q * G rows, of which log-probabilities may be on the devices, and all else is on the host
    rewards: np.ndarray  # [Q * G, R], a column a rule
    totals: np.ndarray  # [Q, G] float32, the weighted sums, with the algorithm's own terms
    resolution: np.ndarray  # [Q]: differences of the totals below it are noise
    spread: np.ndarray  # [Q] bool, False if the totals are equal
    kept: np.ndarray  # [Q] bool: groups that are learned from

    @property
    def size(self) -> int:
        """G."""
        return self.totals.shape[1]

    @property
    def prompts(self) -> list[list[int]]:
        """The prompt of each of the Q * G samples."""
        return [prompt for prompt in self.asked for _ in range(self.size)]

    @property
    def truncated(self) -> np.ndarray:
        """Samples that ended at the longest length: [Q * G] bool."""
        return np.asarray(self.samples.finish) == LENGTH

    def group(self, i: int) -> Group:
        """The i-th question with its samples."""
        at = slice(i * self.size, (i + 1) * self.size)
        return Group(
            problem=self.problems[i],
            prompt=self.asked[i],
            completions=list(self.completions[at]),
            tokens=np.asarray(self.samples.tokens[at]),
            lengths=np.asarray(self.samples.lengths[at]),
            truncated=self.truncated[at],
            rewards=self.rewards[at],
            total=self.totals[i],
            spread=bool(self.spread[i]),
        )

    def rows_of(self, order: np.ndarray) -> np.ndarray:
        """The rows of the samples of these groups [K]: [K * G]."""
        return (order[:, None] * self.size + np.arange(self.size)).reshape(-1)


def chosen(attempts: Sequence[Groups], order: np.ndarray) -> Groups:
    """The groups of these numbers, counted through all attempts."""
    if len(attempts) == 1 and np.array_equal(order, np.arange(len(attempts[0].problems))):
        return attempts[0]
    rows = attempts[0].rows_of(order)

    def picked(name: str, numbers: np.ndarray) -> list[Any]:
        values = [x for one in attempts for x in getattr(one, name)]
        return [values[i] for i in numbers]

    def taken(name: str, numbers: np.ndarray) -> np.ndarray:
        return np.concatenate([getattr(one, name) for one in attempts])[numbers]

    def sampled(*parts: Any) -> Any:
        if not np.ndim(parts[0]):
            return parts[0]
        return _take(parts, rows) if isinstance(parts[0], jax.Array) else np.concatenate(parts)[rows]

    return Groups(
        problems=picked("problems", order),
        asked=picked("asked", order),
        completions=picked("completions", rows),
        samples=jax.tree.map(sampled, *(one.samples for one in attempts)),
        rewards=taken("rewards", rows),
        totals=taken("totals", order),
        resolution=taken("resolution", order),
        spread=taken("spread", order),
        kept=taken("kept", order),
    )


@jax.jit
def _take(parts: Sequence[jax.Array], rows: jax.Array) -> jax.Array:
    return jnp.concatenate(parts)[rows]


@dataclasses.dataclass(frozen=True)
class Rollout:
    """What one step sampled: P groups, and counts of all attempts."""

    groups: Groups  # P
    names: tuple[str, ...]  # of the R rules
    attempts: int
    sampled: int  # groups of all attempts
    equal: int  # groups without spread among them
    dropped: int  # groups among them that the algorithm does not keep
    reward: float  # mean total of all of them
    tokens: int  # of all attempts
    timeouts: int
    crashes: int

    @property
    def counts(self) -> np.ndarray:
        """Groups that are learned from: [P] bool."""
        return self.groups.kept

    @property
    def totals(self) -> np.ndarray:
        """[P, G] float32."""
        return self.groups.totals

    @property
    def rule_rewards(self) -> dict[str, np.ndarray]:
        """The unweighted rewards of each rule: name -> [P, G] float32."""
        return _by_rule(self.names, self.groups.rewards.reshape(*self.totals.shape, -1))

    def without_logprobs(self) -> Rollout:
        """The same rollout without the samples' log-probabilities, whose memory on the devices is thus free."""
        none = np.empty((len(self.groups.completions), 0), np.float32)
        samples = dataclasses.replace(self.groups.samples, logprobs=none, sampling_logprobs=none)
        return dataclasses.replace(self, groups=dataclasses.replace(self.groups, samples=samples))

    def counted(self, algorithm: Algorithm) -> np.ndarray:
        """Samples whose tokens count: those of groups that are learned from, unless left out alone: [P * G] bool."""
        return np.repeat(self.counts, self.groups.size) & algorithm.counted(self.groups.truncated)


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
    found: list[Groups] = []
    scores: list[Scores] = []
    for attempt, asked in enumerate(problems):
        groups, judged = _groups(params, asked, key, attempt, setup, after_sampling)
        found.append(groups)
        scores.append(judged)
        if sum(int(groups.kept.sum()) for groups in found) >= P:
            break
    kept = np.concatenate([groups.kept for groups in found])
    order = np.argsort(~kept, kind="stable")[:P]
    return Rollout(
        chosen(found, order),
        names=scores[0].names,
        attempts=len(scores),
        sampled=len(kept),
        equal=sum(int((~groups.spread).sum()) for groups in found),
        dropped=int((~kept).sum()),
        reward=float(np.mean([groups.totals for groups in found])),
        tokens=sum(int(groups.samples.lengths.sum()) for groups in found),
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
) -> tuple[Groups, Scores]:
    G, algorithm = setup.config.group, setup.config.algorithm
    prompts, samples = setup.timed("sampling", setup.sample)(params, problems, key, attempt)
    if after_sampling is not None:
        after_sampling(prompts, samples)
    completions, scores = setup.timed("rewards", setup.score)(problems, samples)
    total = algorithm.shape_rewards(np.array(scores.total), np.asarray(samples.lengths), setup.context.max_tokens)
    totals = total.reshape(-1, G)
    resolution = np.broadcast_to(scores.resolution, total.shape).reshape(-1, G).max(axis=1)
    spread = groups_with_spread(totals, resolution)
    values = scores.values.reshape(-1, G, len(scores.names))
    kept = algorithm.keeps(totals, spread, _by_rule(scores.names, values))
    groups = Groups(
        problems, prompts, completions, samples, scores.values, totals, resolution, spread, np.asarray(kept)
    )
    return groups, scores
