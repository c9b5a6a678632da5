"""Which rewards judge which kinds of problems: rules, reward models, or a user's own functions, mixed by kind."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from r1jax.data.problems.problem import Problem
from r1jax.errors import UserError
from r1jax.names import lookup
from r1jax.rewards.base import Completion
from r1jax.rewards.config import RewardSpec, parse_rewards
from r1jax.rewards.pool import RewardPool, Scores

Mixture = Mapping[str, float]  # reward -> weight


class BatchReward(Protocol):
    """A reward that is computed for many completions at once, such as a reward model.

    Where it has an attribute ``resolution``, scores that differ by less are not told apart; otherwise they are exact.
    """

    name: str

    def score(self, problems: Sequence[Problem], completions: Sequence[Completion]) -> np.ndarray:
        """[N] float32."""
        ...


def parse_routes(texts: Sequence[str]) -> dict[str, Mixture]:
    """kind -> mixture, from texts such as "sum,story: accuracy format language=0.5".

    Rewards are NAME or FILE.py:NAME, with =WEIGHT for a weight other than 1.

    Raises:
      UserError: for a text of another form, or a kind that is named twice.
    """
    routes: dict[str, Mixture] = {}
    for text in texts:
        kinds, colon, rewards = text.partition(":")
        names = [kind.strip() for kind in kinds.split(",")]
        if not colon or not all(names) or not rewards.split():
            raise UserError(f"route {text!r}: write KIND,KIND: REWARD REWARD=WEIGHT")
        mixture: dict[str, float] = {}
        for word in rewards.split():
            name, equals, weight = word.partition("=")
            try:
                mixture[name] = float(weight) if equals else 1.0
            except ValueError:
                mixture[name] = math.nan
            if not math.isfinite(mixture[name]):
                raise UserError(f"route {text!r}: the weight {weight!r} of {name} is not a finite number")
        for kind in names:
            if kind in routes:
                raise UserError(f"kind {kind!r} has two routes: name it once")
            routes[kind] = mixture
    return routes


def rule_specs(routes: Mapping[str, Mixture], models: Iterable[str]) -> tuple[RewardSpec, ...]:
    """The rules that a pool must compute for these routes: all but the models, and always accuracy and language.

    Raises:
      UserError: for a reward that is neither a rule nor among ``models``.
    """
    known = set(models)
    named = dict.fromkeys(["accuracy", "format", "language"])
    named |= dict.fromkeys(name for mixture in routes.values() for name in mixture if name not in known)
    return parse_rewards(tuple(named))


def check_kinds(problems: Iterable[Problem], routes: Mapping[str, Any]) -> None:
    """Raises UserError for a problem whose kind no route names."""
    for kind in sorted({problem.kind for problem in problems}):
        lookup("kind of problem in the routes", kind, routes)


class RoutedRewards:
    """The rewards of completions, mixed by the kind of their problem.

    Rules are computed for all completions, since metrics report them; a batch reward, or a function of the user's,
    counts for the kinds that name it alone, and is NaN elsewhere.
    """

    def __init__(self, routes: Mapping[str, Mixture], pool: RewardPool, models: Sequence[BatchReward] = ()) -> None:
        self._pool = pool
        self._models = tuple(models)
        self.names: tuple[str, ...] = (*pool.names, *(model.name for model in models))
        index = {name: i for i, name in enumerate(self.names)}
        named = {name.rpartition(":")[2] for mixture in routes.values() for name in mixture if ":" in name}
        self._own = [i for name, i in index.items() if name in named]
        self._weights: dict[str, np.ndarray] = {}
        for kind, mixture in routes.items():
            weights = np.zeros(len(self.names), np.float32)
            for name, weight in mixture.items():
                weights[lookup("reward", name.rpartition(":")[2], index)] = weight
            self._weights[kind] = weights

    def score(self, problems: Sequence[Problem], completions: Sequence[Completion]) -> Scores:
        """The rewards of each problem's completion, and their sum by the weights of its kind.

        Raises:
          UserError: for a problem whose kind no route names, and what the pool raises.
        """
        check_kinds(problems, self._weights)
        rules = self._pool.score(problems, completions)
        values = np.full((len(problems), len(self.names)), np.nan, np.float32)
        values[:, : rules.values.shape[1]] = rules.values
        weights = np.stack([self._weights[problem.kind] for problem in problems])
        resolution = np.zeros(len(problems), np.float32)
        for at in self._own:
            values[weights[:, at] == 0, at] = np.nan
        for at, model in enumerate(self._models, start=rules.values.shape[1]):
            rows = np.flatnonzero(weights[:, at]).tolist()
            if rows:
                values[rows, at] = model.score([problems[i] for i in rows], [completions[i] for i in rows])
                resolution += np.abs(weights[:, at]) * getattr(model, "resolution", 0.0)
        total = (np.nan_to_num(values) * weights).sum(1, dtype=np.float32)
        return Scores(values, total, self.names, rules.timeouts, rules.crashes, resolution)

    def check(self, problems: Sequence[Problem], answers: Sequence[str]) -> np.ndarray:
        """The score of each problem's answer by the problem's checker, as of a RewardPool: [N] float32."""
        return self._pool.check(problems, answers)
