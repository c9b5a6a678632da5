"""What all arms of a program share, and the settings that are numbers, which may differ between arms."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from r1jax.data.text.template import Template
from r1jax.errors import UserError
from r1jax.names import lookup
from r1jax.rewards.config import RewardSpec
from r1jax.rl.config import RLConfig, check_rules
from r1jax.sampling.processors import Sampling
from r1jax.traced import replace

_WHAT = "number that may differ between arms"
# Settings of other types that act by arithmetic, too: as 0 or 1, or as a number that 0 turns off.
_SWITCHES = ("normalise_std", "normalise_process", "whiten", "overlong_buffer", "reference_every")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How held-out problems are evaluated."""

    samples: int = 8  # of each problem
    temperature: float = 1.0
    name: str = "evaluation_after"  # separates the random numbers from those of other evaluations


@dataclasses.dataclass(frozen=True)
class LoopSpec:
    """The settings of a run of reinforcement learning that all arms share; static under jit."""

    rl: RLConfig
    sampling: Sampling
    template: Template
    rewards: tuple[RewardSpec, ...]
    varied: tuple[str, ...] = ()  # names from number_names(spec) whose values differ between arms
    stage: str = "r1-zero"  # separates the random numbers from those of other stages with the same seed
    evaluation: Evaluation = Evaluation()


def number_names(spec: LoopSpec) -> tuple[str, ...]:
    """The dotted names of all settings that may differ between the arms of a program."""
    return tuple(_places(spec))


def _places(spec: LoopSpec) -> dict[str, tuple[str, str]]:
    """Name of a number -> its config and its field there."""
    places = {}
    for config, values in (("rl", spec.rl), ("algorithm", spec.rl.algorithm)):
        for field in dataclasses.fields(values):
            if type(getattr(values, field.name)) is float or field.name in _SWITCHES:
                places[f"rl.{field.name.replace('_', '-')}"] = (config, field.name)
    places["sampling.temperature"] = ("sampling", "temperature")
    return places | {f"rewards.{reward.name}": ("rewards", reward.name) for reward in spec.rewards}


def with_numbers(spec: LoopSpec, values: Mapping[str, Any]) -> LoopSpec:
    """The spec with other numbers, by their dotted names: Python numbers, which are checked, or arrays.

    Raises UserError for a name that is no number, and for values that the settings refuse.
    """
    changes: dict[str, dict[str, Any]] = {"rl": {}, "algorithm": {}, "sampling": {}, "rewards": {}}
    places = _places(spec)
    for name, value in values.items():
        config, field = lookup(_WHAT, name, places)
        changes[config][field] = value
    algorithm = replace(spec.rl.algorithm, **changes["algorithm"])
    rewards = tuple(replace(r, weight=changes["rewards"].get(r.name, r.weight)) for r in spec.rewards)
    return dataclasses.replace(
        spec,
        rl=replace(spec.rl, **changes["rl"], algorithm=algorithm),
        sampling=replace(spec.sampling, **changes["sampling"]),
        rewards=rewards,
    )


def check_values(spec: LoopSpec, values: Mapping[str, Any], arms: int) -> dict[str, np.ndarray]:
    """The values as arrays [N] float32, by name.

    Raises UserError unless there are ``arms`` values of each number in spec.varied, each accepted by its setting.
    """
    if set(values) != set(spec.varied):
        raise UserError(f"values of {sorted(values)} given, but the arms differ in {sorted(spec.varied)}: give these")
    places = _places(spec)
    arrays = {name: np.asarray(values[name], np.float32) for name in spec.varied}
    for name, array in arrays.items():
        lookup(_WHAT, name, places)
        if array.shape != (arms,):
            raise UserError(f"{name} has {array.size} values for {arms} arms: give one for each")
        if not np.isfinite(array).all():
            raise UserError(f"{name}: the values of all arms must be finite numbers")
        if _kind(spec, name) is bool and not np.isin(array, (0, 1)).all():
            raise UserError(f"{name}: the values must be 0 or 1")
        if name == "sampling.temperature" and not (array > 0).all():
            raise UserError(f"{name}: 0 gives groups of equal samples, so the values must be above 0")
    for arm in range(arms):
        one = with_numbers(spec, {name: _kind(spec, name)(array[arm]) for name, array in arrays.items()})
        one.rl.algorithm.check(one.sampling.max_tokens)
    return arrays


def _kind(spec: LoopSpec, name: str) -> type[Any]:
    """The type of a number as a setting: float, int or bool."""
    config, field = _places(spec)[name]
    return type(getattr({"rl": spec.rl, "algorithm": spec.rl.algorithm}.get(config), field, 0.0))


def check_algorithm(spec: LoopSpec) -> None:
    """Raises UserError for settings of reinforcement learning that an ablation cannot have.

    These are an algorithm that reads a reward that is not given, a learned model that starts from a checkpoint, the
    replay of routing, packed sequences, and the loss of multi-token prediction.
    """
    for name in ("replay_routing", "pack", "mtp_weight"):
        if getattr(spec.rl, name):
            flag = f"rl.{name.replace('_', '-')}"
            raise UserError(f"{flag}: not in an ablation: leave it out, or train with the ordinary loop")
    check_rules(spec.rl.algorithm, [reward.name for reward in spec.rewards])
    for name, model in spec.rl.algorithm.learned.items():
        if model.start:
            raise UserError(
                f"rl.{name}={model.start}: in an ablation all models start from the base model: leave rl.{name} out, "
                "or train with the ordinary loop"
            )
