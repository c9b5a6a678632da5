"""The grid of an ablation: axes of settings with their values, and the configs of its arms."""

from __future__ import annotations

import dataclasses
import itertools
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from r1jax import cli
from r1jax.ablation.config import AblationConfig
from r1jax.ablation.result import Value
from r1jax.algorithms.table import ALGORITHMS
from r1jax.errors import UserError
from r1jax.names import lookup
from r1jax.rewards.config import parse_rewards

_EXAMPLE = "--grid rl.beta=0,0.01"
_REWARD = "rewards."
_TIE = "+"  # between settings that change together, and between their values
_BUFFER = "rl.overlong-buffer"
_SECTIONS = ("rl", "sampling", "rewards")  # of the settings that arms may differ in


@dataclasses.dataclass(frozen=True)
class Axis:
    """A setting, named as its flag without dashes at the front, and the values that the arms have.

    Settings that change together are one axis: rl.group+rl.prompts with the values 4+64 and 8+32.
    """

    name: str
    values: tuple[str, ...]  # as on the command line

    @property
    def settings(self) -> tuple[str, ...]:
        """The names of its settings."""
        return tuple(self.name.split(_TIE))


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
        given = [*(setting for other in axes for setting in other.settings), *axis.settings]
        if repeated := [setting for setting in axis.settings if given.count(setting) > 1]:
            raise UserError(f"--grid {repeated[0]} is given twice: write all of its values in one --grid")
        if wrong := [value for value in axis.values if len(_split(axis.name, value)) != len(axis.settings)]:
            raise UserError(
                f"--grid {axis.name}: the value {wrong[0]} must have {len(axis.settings)} parts with {_TIE} between "
                "them, one for each setting"
            )
        read = [typed(value) for value in axis.values]
        if repeated := [value for at, value in enumerate(read) if value in read[:at]]:
            raise UserError(f"--grid {axis.name}: the value {repeated[0]} is given twice")
        axes.append(axis)
    if not axes:
        raise UserError(f"the grid is empty: give at least one axis, for example {_EXAMPLE}")
    return tuple(axes)


def _split(name: str, value: str) -> list[str]:
    """The values of the settings of an axis; a value may end with the tie, as that of reinforce++ does."""
    return re.split(r"\+(?!\+|$)", value) if _TIE in name else [value]


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


def configs_of(axes: Sequence[Axis], config: AblationConfig) -> list[AblationConfig]:
    """The config of each arm, in the order of arms_of: the given one with the arm's values as further flags.

    The axis rewards.NAME is the weight of a reward. If an algorithm of an axis with rl.algorithm brings an overlong
    buffer that is longer than a completion, as DAPO its 4096 tokens, a fifth of sampling.max-tokens replaces it.

    Raises:
      UserError: naming the axis, for a name that is no setting, with the nearest one; a value of another type; a
        setting that the arms of an ablation may not differ in; an axis rl.algorithm that would replace settings of
        ``config``; and an arm that the config refuses.
    """
    for axis in axes:
        _check_axis(axis, config)
        alone = [_with_value(axis, value, config, axes) for value in axis.values]
        if len(axes) == 1:
            return [arm for arm in alone if arm is not None]
    return [_read_arm(config, arm) for arm in arms_of(axes)]


def _with_value(axis: Axis, value: str, config: AblationConfig, axes: Sequence[Axis]) -> AblationConfig | None:
    """The config with a value of one axis; None for a value that it refuses, which other axes may make possible.

    Raises UserError if the parser refuses the value with all algorithms of the grid, since those differ in their flags.
    """
    algorithms = [other for other in axes if "rl.algorithm" in other.settings and other is not axis]
    choices = [{other.name: values} for other in algorithms for values in other.values] or [{}]
    for choice in choices:
        try:
            return _with(config, {axis.name: value, **choice})
        except UserError as error:
            # The parser's errors begin with the flag; those of a config's checks do not.
            refused = len(axes) == 1 or str(error).startswith(tuple(f"--{name}" for name in axis.settings))
            if refused and choice == choices[-1]:
                raise UserError(f"--grid {axis.name}={','.join(axis.values)}: {error}") from error
    return None


def _check_axis(axis: Axis, config: AblationConfig) -> None:
    if refused := [name for name in axis.settings if name.partition(".")[0] not in _SECTIONS]:
        listed = ", ".join(f"{section}.*" for section in _SECTIONS)
        raise UserError(
            f"--grid {refused[0]}: the arms of an ablation may differ in {listed} only; give --{refused[0]} as a flag "
            "of the command, for all arms"
        )
    if "rl.steps" in axis.settings:
        raise UserError("--grid rl.steps: all arms have the same number of steps: give --rl.steps for all of them")
    algorithm = config.rl.algorithm
    if "rl.algorithm" in axis.settings and algorithm not in ALGORITHMS.values():
        name, (_, value) = next(iter(cli.diff(type(algorithm)(), algorithm).items()))
        flag = f"rl.{name.replace('_', '-')}={value}"
        raise UserError(
            f"--grid rl.algorithm replaces all settings of the algorithm, and --{flag} is given: give it as an axis of "
            f"one value, --grid {flag}"
        )


def _read_arm(config: AblationConfig, arm: Mapping[str, str]) -> AblationConfig:
    try:
        return _with(config, arm)
    except UserError as error:
        flags = " ".join(f"--{name}={value}" for name, value in arm.items())
        raise UserError(f"the arm {flags} of the grid: {error}") from error


def _with(config: AblationConfig, arm: Mapping[str, str]) -> AblationConfig:
    """The config with the values of an arm."""
    settings = {
        setting: part
        for name, value in arm.items()
        for setting, part in zip(name.split(_TIE), _split(name, value), strict=True)
    }
    weights = {name.removeprefix(_REWARD): value for name, value in settings.items() if name.startswith(_REWARD)}
    flags = [f"--{name}={value}" for name, value in settings.items() if not name.startswith(_REWARD)]
    given = [text.partition("=")[0] for text in config.rewards]
    for name in weights:
        lookup("reward of all arms (--rewards)", name, dict.fromkeys(given))
    texts = (
        f"{name}={weights[name]}" if name in weights else text for name, text in zip(given, config.rewards, strict=True)
    )
    changed = dataclasses.replace(config, rewards=tuple(texts))
    parse_rewards(changed.rewards)
    read = cli.parse({"given": ("", changed)}, "given", flags)
    return _with_short_buffer(read) if "rl.algorithm" in settings and _BUFFER not in settings else read


def _with_short_buffer(config: AblationConfig) -> AblationConfig:
    """The config with an overlong buffer of at most max-tokens; a longer one becomes a fifth of it, DAPO's share."""
    algorithm, limit = config.rl.algorithm, config.sampling.max_tokens
    if algorithm.overlong_buffer <= limit:
        return config
    buffer = max(limit // 5, 1)
    warnings.warn(
        f"{_BUFFER}={algorithm.overlong_buffer} is longer than sampling.max-tokens={limit}: its arms have {buffer}, a "
        f"fifth of it, as in DAPO (--grid {_BUFFER}=N sets it for all arms)",
        stacklevel=2,
    )
    algorithm = dataclasses.replace(algorithm, overlong_buffer=buffer)
    return dataclasses.replace(config, rl=dataclasses.replace(config.rl, algorithm=algorithm))


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool | np.bool_) else str(value).strip()
