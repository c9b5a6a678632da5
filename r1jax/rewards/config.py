"""The rewards of a run, read from names and files and checked before training starts."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated

import tyro

from r1jax.errors import UserError
from r1jax.names import lookup
from r1jax.rewards.base import Reward
from r1jax.rewards.code.config import CodeConfig
from r1jax.rewards.rules import RULES
from r1jax.settings import may_change

_SPEC = re.compile(r"(?:(?P<file>.+\.py):)?(?P<name>[^\W\d]\w*)(?:=(?P<weight>.+))?")


@dataclasses.dataclass(frozen=True)
class VerifierConfig:
    """The worker processes that compute rewards."""

    workers: int = may_change(0)
    """Use this many worker processes; 0 uses one for every two cores that this process may use, from 2 to 32."""
    deadline: float = may_change(5.0)
    """Allow this many seconds for all rewards of a completion; a slower one scores 0 and is counted in the metrics."""
    code: Annotated[CodeConfig, tyro.conf.arg(prefix_name=False)] = CodeConfig()
    """Candidate programs and what they earn."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise UserError(f"workers {self.workers}: rewards need at least 1 worker process; 0 chooses the number")
        if not self.deadline > 0 or math.isinf(self.deadline):
            raise UserError(f"deadline {self.deadline}: must be a finite number of seconds above 0")

    @property
    def processes(self) -> int:
        """The number of worker processes."""
        # A scheduler may give this process few cores of many; more workers than cores would pass their deadlines.
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        return self.workers or min(32, max(2, cores // 2))


@dataclasses.dataclass(frozen=True)
class RewardSpec:
    """A reward with its weight: the built-in one of this name, or the function of this name in ``file``."""

    name: str
    file: str | None
    weight: float

    def __str__(self) -> str:
        return f"{self.file}:{self.name}" if self.file else self.name


def parse_rewards(texts: Sequence[str]) -> tuple[RewardSpec, ...]:
    """Reads rewards from texts NAME or FILE.py:NAME, each with an optional =WEIGHT (default 1).

    The files are executed once, so that an error in them is found before training starts.

    Raises:
      UserError: for no texts, a text of another form, an unknown or repeated name, a missing or failing file, a
        function that is missing or not marked with ``@reward``, or a weight that is not finite.
    """
    if not texts:
        raise UserError(f"no rewards: name at least one, for example {next(iter(RULES))}")
    specs = tuple(_parse(text) for text in texts)
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two rewards are named {name!r}: metrics need a different name for each")
    load_rewards(specs)
    return specs


def load_rewards(specs: Sequence[RewardSpec]) -> tuple[Reward, ...]:
    """The reward functions of specs, in the same order; each file is executed once.

    Raises:
      UserError: if a file cannot be executed, or there is no reward with a name.
    """
    modules = {file: _execute(file) for file in dict.fromkeys(spec.file for spec in specs) if file}
    return tuple(_in_module(spec, modules[spec.file]) if spec.file else _built_in(spec.name) for spec in specs)


def _parse(text: str) -> RewardSpec:
    match = _SPEC.fullmatch(text)
    if match is None:
        raise UserError(f"reward {text!r}: write NAME, FILE.py:NAME, or one of them with =WEIGHT")
    try:
        weight = float(match["weight"] or 1)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise UserError(f"reward {text!r}: the weight {match['weight']} is not a finite number")
    file = match["file"]
    return RewardSpec(match["name"], file and str(Path(file).expanduser().resolve()), weight)


def _built_in(name: str) -> Reward:
    return lookup("reward", name, RULES)


def _in_module(spec: RewardSpec, module: ModuleType) -> Reward:
    rewards = {name: value for name, value in vars(module).items() if isinstance(value, Reward)}
    if spec.name in vars(module) and spec.name not in rewards:
        raise UserError(f"reward {spec}: write @reward (from r1jax.rewards) above {spec.name}")
    return lookup(f"reward in {spec.file}", spec.name, rewards)


def _execute(file: str) -> ModuleType:
    if not Path(file).is_file():
        raise UserError(f"rewards file {file} does not exist: check the path")
    # The module's name is the path, so that a file math.py does not replace the module math.
    spec = importlib.util.spec_from_file_location(file, file)
    assert spec is not None and spec.loader is not None  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[file] = module  # dataclasses look up their module there
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        line = next((frame.lineno for frame in reversed(frames) if frame.filename == file), None)
        line = error.lineno if isinstance(error, SyntaxError) else line
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"rewards file {file}, line {line}: {what}") from error
    return module
