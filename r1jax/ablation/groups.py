"""Groups of arms that one compiled program trains: those that differ in numbers alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from r1jax.ablation.spec import LoopSpec, number_names, with_numbers
from r1jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Group:
    """Arms whose specs differ in numbers alone.

    spec: the spec of the first of them, with the names of the numbers that differ.
    arms: their indices.
    values: name of each of these numbers -> its value in each arm, [len(arms)] float32.
    """

    spec: LoopSpec
    arms: tuple[int, ...]
    values: Mapping[str, np.ndarray]


def group_arms(specs: Sequence[LoopSpec]) -> list[Group]:
    """The groups of the arms with these specs, in the order of their first arms."""
    members: list[list[int]] = []
    for arm, spec in enumerate(specs):
        own = next((arms for arms in members if _alike(specs[arms[0]], spec)), None)
        if own is None:
            members.append([arm])
        else:
            own.append(arm)
    return [_group(specs, arms) for arms in members]


def numbers_of(spec: LoopSpec) -> dict[str, float]:
    """The value of each number by the names of number_names."""
    weights = {reward.name: reward.weight for reward in spec.rewards}
    settings = {"rl": vars(spec.rl.algorithm) | vars(spec.rl), "sampling": vars(spec.sampling), "rewards": weights}
    places = {name: name.split(".", 1) for name in number_names(spec)}
    return {
        name: settings[section][part if section == "rewards" else part.replace("-", "_")]
        for name, (section, part) in places.items()
    }


def _alike(first: LoopSpec, second: LoopSpec) -> bool:
    """True if the second spec with the numbers of the first one is the first one."""
    if number_names(first) != number_names(second):
        return False
    try:
        return with_numbers(second, numbers_of(first)) == first
    except UserError:  # the other settings of the second refuse these numbers
        return False


def _group(specs: Sequence[LoopSpec], arms: Sequence[int]) -> Group:
    rows = [numbers_of(specs[arm]) for arm in arms]
    varied = tuple(name for name in rows[0] if len({row[name] for row in rows}) > 1)
    values = {name: np.array([row[name] for row in rows], np.float32) for name in varied}
    return Group(dataclasses.replace(specs[arms[0]], varied=varied), tuple(arms), values)
