"""The first half of a step: prompts, samples, rewards, and the batch that they become."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from r1jax.algorithms.advantages import group_advantages, groups_with_spread, overlong_penalty
from r1jax.checkpoints.model import Model
from r1jax.data.problems.problem import Problem
from r1jax.data.problems.schedule import problem_batch
from r1jax.data.text.template import Template
from r1jax.rewards import Completion
from r1jax.rewards.completions import completions_from_samples
from r1jax.rewards.scores import Scorer
from r1jax.rl.batch import Rollout, build_rollout
from r1jax.rl.config import RLConfig
from r1jax.sampling.processors import Sampling
from r1jax.sampling.sampler import LENGTH, sample
from r1jax.seeds import stage_key, stage_seed
from r1jax.sharding import Params


@dataclasses.dataclass(frozen=True)
class Group:
    """A question and what was sampled, on the host."""

    problem: Problem
    prompt: list[int]
    completions: list[Completion]  # G
    tokens: np.ndarray  # [G, M]
    lengths: np.ndarray  # [G]
    truncated: np.ndarray  # [G] bool
    logprobs: np.ndarray  # [G, M]
    sampling_logprobs: np.ndarray  # [G, M]
    rewards: np.ndarray  # [G, R], a column a rule
    total: np.ndarray  # [G], weighted, penalties included
    spread: bool
    resolution: float = 0.0  # of the totals: what differs by less is not told apart


@dataclasses.dataclass
class Collected:
    """What one step sampled, and what it took."""

    groups: list[Group]
    sampled: int = 0  # groups before any was dropped
    equal: int = 0  # of them, without spread
    timeouts: int = 0
    crashes: int = 0
    tokens: int = 0
    attempts: int = 0
    seconds_sampling: float = 0.0
    seconds_rewards: float = 0.0


@dataclasses.dataclass(frozen=True)
class Environment:
    """Where prompts come from and how completions are judged."""

    problems: Sequence[Problem]
    template: Template
    pool: Scorer
    sampling: Sampling
    seed: int
    prompt_width: int  # tokens of the longest prompt; all are padded to it, so that one program samples them
    late_problems: Sequence[Problem] = ()  # join the others from step ``late_from`` on
    late_from: int = 0
    late_share: float = 0.5  # of a step's prompts, once there are some
    stage: str = "rl"  # tells the random numbers from those of other stages with the same seed

    def batch(self, step: int, size: int, attempt: int, attempts: int) -> list[Problem]:
        """The ``size`` problems of one attempt of a step: the late ones last, where it has some.

        Each kind goes on in its own order (problem_batch): the others where the step before the late ones left it.
        """
        seed, late = stage_seed(self.seed, self.stage, "problems"), self.late_prompts(size)
        if not late or step < self.late_from:
            return problem_batch(self.problems, step, size, seed, attempt, attempts)
        own: list[Problem] = []
        if late < size:
            own = problem_batch(self.problems, step, size - late, seed, attempt, attempts, [size] * self.late_from)
        return own + problem_batch(self.late_problems, step - self.late_from, late, seed, attempt, attempts)

    def late_prompts(self, size: int) -> int:
        """Of the ``size`` problems of a step those that are late ones, once they have joined."""
        return max(round(size * self.late_share), 1) if self.late_problems and self.late_share else 0


def collect(params: Params, model: Model, environment: Environment, config: RLConfig, step: int) -> Collected:
    """Groups of one step: config.prompts of them, those with spread first where equal ones are to be dropped.

    Depends on the parameters, the seed, the stage's name and the step alone.
    """
    key = jax.random.fold_in(stage_key(environment.seed, environment.stage, "samples"), step)
    attempts = 1 + (config.max_resamples if config.drop_equal_groups else 0)
    found = Collected([])
    spare: list[Group] = []
    for attempt in range(attempts):
        problems = environment.batch(step, config.prompts, attempt, attempts)
        groups = _sample_groups(params, model, environment, config, problems, key, attempt, found)
        for group in groups:
            wanted = group.spread or not config.drop_equal_groups
            (found.groups if wanted and len(found.groups) < config.prompts else spare).append(group)
        found.attempts += 1
        if len(found.groups) == config.prompts:
            break
    # The batch keeps its shape: groups without spread fill it up and count for nothing.
    found.groups += [g for g in spare if not g.spread][: config.prompts - len(found.groups)]
    return found


def _sample_groups(
    params: Params,
    model: Model,
    environment: Environment,
    config: RLConfig,
    problems: list[Problem],
    key: jax.Array,
    attempt: int,
    found: Collected,
) -> list[Group]:
    sampling, G = environment.sampling, config.group
    prompts = [environment.template.prompt_ids(problem, model.tokenizer) for problem in problems]
    began = time.perf_counter()
    samples = jax.device_get(
        sample(
            params,
            prompts,
            model.config,
            key,
            sampling=sampling,
            end_tokens=model.tokenizer.eos_ids,
            samples_per_prompt=G,
            sequence_ids=np.arange(config.sequences) + attempt * config.sequences,
            prompt_width=environment.prompt_width,
        )
    )
    sampled = time.perf_counter()
    completions = completions_from_samples(samples, model.tokenizer, environment.template, sampling)
    scores = environment.pool.score([p for p in problems for _ in range(G)], completions)
    total = np.array(scores.total)
    if config.overlong_buffer:
        total += overlong_penalty(samples.lengths, sampling.max_tokens, config.overlong_buffer)
    resolution = np.broadcast_to(scores.resolution, total.shape).reshape(-1, G).max(axis=1)
    spread = groups_with_spread(total.reshape(-1, G), resolution)
    found.seconds_sampling += sampled - began
    found.seconds_rewards += time.perf_counter() - sampled
    found.tokens += int(samples.lengths.sum())
    found.timeouts += scores.timeouts
    found.crashes += scores.crashes
    found.sampled += len(problems)
    found.equal += int((~spread).sum())
    rows = [slice(i * G, (i + 1) * G) for i in range(len(problems))]
    return [
        Group(
            problem=problem,
            prompt=prompt,
            completions=completions[at],
            tokens=samples.tokens[at],
            lengths=samples.lengths[at],
            truncated=samples.finish[at] == LENGTH,
            logprobs=samples.logprobs[at],
            sampling_logprobs=samples.sampling_logprobs[at],
            rewards=scores.values[at],
            total=total[at],
            spread=bool(has_spread),
            resolution=float(finest),
        )
        for problem, prompt, at, has_spread, finest in zip(problems, prompts, rows, spread, resolution, strict=True)
    ]


def _advantages(groups: list[Group], config: RLConfig) -> tuple[np.ndarray, np.ndarray]:
    """Advantages [P, G] of the groups, and which groups count [P]."""
    counts = np.array([g.spread or not config.drop_equal_groups for g in groups])
    advantages = group_advantages(
        np.stack([g.total for g in groups]),
        config.baseline,
        config.normalise_std,
        resolution=np.array([g.resolution for g in groups]),
        counts=counts,
    )
    return advantages, counts


def lay_out(groups: list[Group], config: RLConfig, longest: int) -> Rollout:
    """The groups with their advantages, as the batch of the updates."""
    advantages, counts = _advantages(groups, config)
    return build_rollout(
        prompts=[g.prompt for g in groups for _ in range(config.group)],
        tokens=np.concatenate([g.tokens for g in groups]),
        lengths=np.concatenate([g.lengths for g in groups]),
        logprobs=np.concatenate([g.logprobs for g in groups]),
        sampling_logprobs=np.concatenate([g.sampling_logprobs for g in groups]),
        advantages=advantages.reshape(-1),
        counts=np.repeat(counts, config.group),
        longest=longest,
    )


def describe(found: Collected, config: RLConfig, names: Sequence[str]) -> dict[str, float]:
    """What the samples of one step look like."""
    rewards = np.concatenate([g.rewards for g in found.groups])
    totals = np.stack([g.total for g in found.groups])
    lengths = np.concatenate([g.lengths for g in found.groups])
    advantages, counts = _advantages(found.groups, config)
    judged = [not np.isnan(column).all() for column in rewards.T]
    by_kind = {}
    if "accuracy" in names:
        kinds = np.repeat([g.problem.kind for g in found.groups], config.group)
        accuracy = rewards[:, list(names).index("accuracy")]
        by_kind = {str(kind): float(accuracy[kinds == kind].mean()) for kind in np.unique(kinds)}
    return {
        "reward": float(totals.mean()),
        **{f"reward_{name}": float(np.nanmean(rewards[:, i])) for i, name in enumerate(names) if judged[i]},
        **({f"accuracy_{kind}": value for kind, value in by_kind.items()} if len(by_kind) > 1 else {}),
        "reward_spread": float(totals.std(axis=1).mean()),
        "advantage_spread": float(advantages[counts].std()) if counts.any() else 0.0,
        "equal_groups": found.equal / found.sampled,
        "rollout_attempts": float(found.attempts),
        "length_mean": float(lengths.mean()),
        "length_min": float(lengths.min()),
        "length_max": float(lengths.max()),
        "truncated_share": float(np.concatenate([g.truncated for g in found.groups]).mean()),
        "verifier_timeouts": float(found.timeouts),
        "verifier_crashes": float(found.crashes),
    }


def excerpt(groups: list[Group], count: int, names: Sequence[str]) -> list[dict[str, Any]]:
    """The first completion of the first groups, for people to read."""
    return [
        {
            "question": g.problem.question,
            "answer": g.problem.answer,
            "completion": g.completions[0].text,
            "reward": float(g.total[0]),
            **{f"reward_{n}": float(g.rewards[0, i]) for i, n in enumerate(names) if not np.isnan(g.rewards[0, i])},
            "tokens": int(g.lengths[0]),
            "truncated": bool(g.truncated[0]),
        }
        for g in groups[:count]
    ]
