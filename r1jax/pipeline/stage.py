"""A stage of a pipeline: a function that reads folders and files and writes one folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from r1jax.errors import UserError

Inputs = Mapping[str, Path]  # role -> the folder of a stage, or a file
Figures = dict[str, Any]  # what a stage reports of itself; must be JSON
Function = Callable[[Any, Inputs, Path], Figures]


@dataclasses.dataclass(frozen=True)
class Stage:
    """A function with its settings and inputs.

    name: name of the stage and of its folder.
    function: (settings, inputs by role, own folder) -> figures. After a kill it is called again with the folder as it
      was left.
    settings: a frozen dataclass that holds exactly what the function reads. Fields that are marked with
      r1jax.settings.may_change may change on resume.
    reads: role -> the name of a stage before this one, or the Path of a file or folder, whose contents are hashed.
    costs: what a plan shows of the stage, such as its steps and tokens.
    accompanies: the stage whose result this one measures or exports. --until and --only of that stage include this one,
      and it is made again without --force when a stage that it reads has changed.
    extended: printed when the stage continues because a setting that may rise (r1jax.settings.may_rise) was raised.
    """

    name: str
    function: Function
    settings: Any
    reads: Mapping[str, str | Path] = dataclasses.field(default_factory=dict)
    costs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    accompanies: str | None = None
    extended: str = ""

    @property
    def inputs(self) -> dict[str, str]:
        """Role -> the stage that is read."""
        return {role: source for role, source in self.reads.items() if isinstance(source, str)}

    @property
    def files(self) -> dict[str, Path]:
        """Role -> the file or folder that is read and that no stage makes."""
        return {role: source for role, source in self.reads.items() if isinstance(source, Path)}


def check_stages(stages: Sequence[Stage]) -> list[str]:
    """Names of the stages; raises UserError if two are equal, or if a stage reads one that does not precede it."""
    names: list[str] = []
    for stage in stages:
        missing = [name for name in stage.inputs.values() if name not in names]
        if missing:
            raise UserError(f"stage {stage.name} reads {missing[0]}, which is no stage before it")
        if stage.name in names:
            raise UserError(f"two stages are called {stage.name}")
        names.append(stage.name)
    return names
