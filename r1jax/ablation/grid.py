"""The grid of an ablation: axes of settings, its arms, and the arms that one compiled program trains together."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from r1jax import cli
from r1jax.errors import UserError

C = TypeVar("C")
Value = bool | int | float | str

_EXAMPLE = "--grid rl.beta=0,0.01"


@dataclasses.dataclass(frozen=True)
class Axis:
    """A setting, named as its flag without dashes at the front, and the values that the arms have."""

    name: str
    values: tuple[str, ...]  # as on the command line


@dataclasses.dataclass(frozen=True)
class Group(Generic[C]):
    """Arms that differ in numbers alone, so that one compiled program trains them.

    spec: the settings of the first of them.
    arms: their indices.
    values: dotted name of each number that is not the same in all of them -> its value in each arm, [len(arms)].
    """

    spec: C
    arms: tuple[int, ...]
    values: Mapping[str, np.ndarray]


def parse_axes(texts: Sequence[str]) -> tuple[Axis, ...]:
    """Reads axes from texts NAME=VALUE,VALUE.

    Raises:
      UserError: for no texts, a text of another form, an axis without values, and a repeated axis or value.
    """
    pairs = []
    for text in texts:
        name, equals, values = text.partition("=")
        if not (name and equals):
            raise UserError(f"--grid {text}: write NAME=VALUE,VALUE, for example {_EXAMPLE}")
        pairs.append((name, values.split(",") if values else []))
    return make_axes(pairs)


def make_axes(pairs: Iterable[tuple[str, Sequence[Any]]]) -> tuple[Axis, ...]:
    """Axes of names with their values, which are numbers, booleans or text; raises UserError as parse_axes."""
    axes = []
    for name, values in pairs:
        axis = Axis(name.strip().removeprefix("--").replace("_", "-"), tuple(_text(value) for value in values))
        if not axis.values or "" in axis.values:
            raise UserError(f"--grid {axis.name}={','.join(axis.values)}: a value is missing, write {axis.name}=1,2")
        if axis.name in (other.name for other in axes):
            raise UserError(f"--grid {axis.name} is given twice: write all of its values in one --grid")
        read = [typed(value) for value in axis.values]
        if repeated := [value for at, value in enumerate(read) if value in read[:at]]:
            raise UserError(f"--grid {axis.name}: the value {repeated[0]} is given twice")
        axes.append(axis)
    if not axes:
        raise UserError(f"the grid is empty: give at least one axis, for example {_EXAMPLE}")
    return tuple(axes)


def typed(text: str) -> Value:
    """The boolean or number that a text is, or the text itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def arms_of(axes: Sequence[Axis]) -> list[dict[str, str]]:
    """Axis -> value of each arm, for all combinations; the values of the last axis change first."""
    return [
        dict(zip((axis.name for axis in axes), values, strict=True))
        for values in itertools.product(*(axis.values for axis in axes))
    ]


def configs_of(
    axes: Sequence[Axis], read: Callable[[list[str]], C], sections: Collection[str], fixed: Mapping[str, str]
) -> list[C]:
    """The config of each arm: that of the command line with the values of the arm as further flags.

    Args:
      axes: of the grid.
      read: reads a config from further flags, each --NAME=VALUE.
      sections: the parts of a config that arms may differ in: the first parts of dotted names.
      fixed: names in these parts that arms may not differ in -> the reason.

    Raises:
      UserError: naming the axis, for a name that is no setting, with the nearest one; a value of another type; a
        setting that the arms of an ablation may not differ in; and an arm that the config refuses.
    """
    for axis in axes:
        for value in axis.values:
            flag = f"--{axis.name}={value}"
            try:
                read([flag])
            except UserError as error:
                if len(axes) == 1 or _is_about(error, axis.name):
                    raise UserError(f"--grid {axis.name}={','.join(axis.values)}: {error}") from error
        if axis.name.partition(".")[0] not in sections:
            listed = ", ".join(f"{section}.*" for section in sections)
            raise UserError(
                f"--grid {axis.name}: the arms of an ablation may differ in {listed} only; give --{axis.name} as a flag "
                "of the command, for all arms"
            )
        if axis.name in fixed:
            raise UserError(f"--grid {axis.name}: {fixed[axis.name]}")
    return [_read_arm(arm, read) for arm in arms_of(axes)]


def _read_arm(arm: Mapping[str, str], read: Callable[[list[str]], C]) -> C:
    flags = [f"--{name}={value}" for name, value in arm.items()]
    try:
        return read(flags)
    except UserError as error:
        raise UserError(f"the arm {' '.join(flags)} of the grid: {error}") from error


def _is_about(error: UserError, name: str) -> bool:
    """True for an error of the parser, which begins with the flag; a check of a config may depend on other axes."""
    return str(error).startswith(f"--{name}")


def group_arms(specs: Sequence[C], numbers: Collection[str]) -> list[Group[C]]:
    """The groups of arms whose specs differ in ``numbers`` alone, in the order of their first arms.

    numbers: dotted names of settings that a compiled program takes as arrays, as in r1jax.cli.to_json.
    """
    groups: dict[str, list[int]] = {}
    leaves = [_leaves(spec) for spec in specs]
    for arm, values in enumerate(leaves):
        others = {path: value for path, value in values.items() if path not in numbers}
        groups.setdefault(json.dumps(others, sort_keys=True), []).append(arm)
    return [Group(specs[arms[0]], tuple(arms), _varying([leaves[i] for i in arms])) for arms in groups.values()]


def _varying(leaves: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    columns = {path: [values[path] for values in leaves] for path in leaves[0]}
    return {path: np.array(column, np.float32) for path, column in columns.items() if len(set(map(str, column))) > 1}


def _leaves(spec: Any) -> dict[str, Any]:
    return {path: value for path, (value, _) in cli.diff(spec, {}).items()}


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool | np.bool_) else str(value).strip()
