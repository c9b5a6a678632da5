"""The sandbox of candidate programs, checked before a stage that judges programs."""

from __future__ import annotations

import dataclasses
from typing import Any

from r1jax.data.problems.dataset import ProblemsConfig, load_problems
from r1jax.rewards.code.isolation import choose_level
from r1jax.rewards.config import parse_rewards
from r1jax.rewards.routing import parse_routes


def check_sandbox(settings: Any) -> None:
    """Raises UserError if the settings of a stage need a level of isolation that this system cannot give.

    A stage judges programs if the reward ``code`` is among its rewards, or if tests judge one of its problems. Warns as
    choose_level.
    """
    verifier = getattr(settings, "verifier", None) or getattr(getattr(settings, "samples", None), "verifier", None)
    if verifier is not None and _judges_programs(settings):
        choose_level(verifier.code)


def _judges_programs(settings: Any) -> bool:
    rewards, routes = getattr(settings, "rewards", ()), getattr(settings, "routes", ())
    names = {spec.name for spec in parse_rewards(rewards) if not spec.file} if rewards else set()
    names |= {name for weights in parse_routes(routes).values() for name in weights}
    if "code" in names:
        return True
    parts = [getattr(settings, field.name) for field in dataclasses.fields(settings)]
    sets = [load_problems(part) for part in parts if isinstance(part, ProblemsConfig)]
    return any(problem.checker == "code" for one in sets for problem in (*one.train, *one.held_out))
