"""Routes: the rewards and weights for each kind of problem."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from r1jax.data.problems.problem import Problem
from r1jax.errors import UserError
from r1jax.names import lookup
from r1jax.rewards.base import Completion
from r1jax.rewards.config import RewardSpec, parse_rewards
from r1jax.rewards.pool import RewardPool
from r1jax.rewards.scores import BatchReward, Scores

RewardWeights = Mapping[str, float]  # name of a reward -> weight


def parse_routes(texts: Sequence[str]) -> dict[str, RewardWeights]:
    """Reads routes, kind -> reward weights, from texts such as "sum,story: accuracy format language=0.5".

    Rewards are NAME or FILE.py:NAME, with an optional =WEIGHT (default 1).

    Raises:
      UserError: for a text of another form, or a kind with two routes.
    """
    routes: dict[str, RewardWeights] = {}
    for text in texts:
        kinds, colon, rewards = text.partition(":")
        names = [kind.strip() for kind in kinds.split(",")]
        if not colon or not all(names) or not rewards.split():
            raise UserError(f"route {text!r}: write KIND,KIND: REWARD REWARD=WEIGHT")
        weights: dict[str, float] = {}
        for word in rewards.split():
            name, equals, weight = word.partition("=")
            try:
                weights[name] = float(weight) if equals else 1.0
            except ValueError:
                weights[name] = math.nan
            if not math.isfinite(weights[name]):
                raise UserError(f"route {text!r}: the weight {weight!r} of {name} is not a finite number")
        for kind in names:
            if kind in routes:
                raise UserError(f"kind {kind!r} has two routes: name it only once")
            routes[kind] = weights
    return routes


def rule_specs(routes: Mapping[str, RewardWeights], models: Iterable[str]) -> tuple[RewardSpec, ...]:
    """The rewards that a RewardPool computes for these routes: all except ``models``, and those that metrics report.

    Raises:
      UserError: for a reward that is neither known to parse_rewards nor in ``models``.
    """
    known = set(models)
    named = dict.fromkeys(["accuracy", "format", "language"])  # metrics always report these
    named |= dict.fromkeys(name for weights in routes.values() for name in weights if name not in known)
    return parse_rewards(tuple(named))


def check_kinds(problems: Iterable[Problem], routes: Mapping[str, Any]) -> None:
    """Raises UserError if a problem has a kind without a route."""
    for kind in sorted({problem.kind for problem in problems}):
        lookup("kind of problem in the routes", kind, routes)


class RoutedRewards:
    """A Scorer whose rewards are weighted by the kind of the problem.

    Built-in rules are computed for all completions, because metrics report them. Reward models and functions from files
    are only reported for the kinds whose routes name them; for other kinds their values are NaN.

    routes: from parse_routes.
    pool: computes the rules and the functions from files (rule_specs).
    models: rewards that are computed for many completions at once, such as ModelReward.
    """

    def __init__(
        self, routes: Mapping[str, RewardWeights], pool: RewardPool, models: Sequence[BatchReward] = ()
    ) -> None:
        self._pool = pool
        self._models = tuple(models)
        self.names: tuple[str, ...] = (*pool.names, *(model.name for model in models))
        index = {name: i for i, name in enumerate(self.names)}
        named = {name.rpartition(":")[2] for weights in routes.values() for name in weights if ":" in name}
        self._from_files = [i for name, i in index.items() if name in named]
        self._weights: dict[str, np.ndarray] = {}
        for kind, weights in routes.items():
            row = np.zeros(len(self.names), np.float32)
            for name, weight in weights.items():
                row[lookup("reward", name.rpartition(":")[2], index)] = weight
            self._weights[kind] = row

    def score(self, problems: Sequence[Problem], completions: Sequence[Completion]) -> Scores:
        """The rewards of each problem's completion, and their sum with the weights of the problem's kind.

        Raises:
          UserError: if a problem has a kind without a route, and the errors of the pool and the models.
        """
        check_kinds(problems, self._weights)
        rules = self._pool.score(problems, completions)
        values = np.full((len(problems), len(self.names)), np.nan, np.float32)
        values[:, : rules.values.shape[1]] = rules.values
        weights = np.stack([self._weights[problem.kind] for problem in problems])
        resolution = np.zeros(len(problems), np.float32)
        for column in self._from_files:
            values[weights[:, column] == 0, column] = np.nan
        for column, model in enumerate(self._models, start=rules.values.shape[1]):
            rows = np.flatnonzero(weights[:, column]).tolist()
            if rows:
                values[rows, column] = model.score([problems[i] for i in rows], [completions[i] for i in rows])
                resolution += np.abs(weights[:, column]) * getattr(model, "resolution", 0.0)
        total = (np.nan_to_num(values) * weights).sum(1, dtype=np.float32)
        return Scores(values, total, self.names, rules.timeouts, rules.crashes, resolution)

    def check(self, problems: Sequence[Problem], answers: Sequence[str]) -> np.ndarray:
        """[N] float32: the score of each answer by its problem's checker, as RewardPool.check computes it."""
        return self._pool.check(problems, answers)
