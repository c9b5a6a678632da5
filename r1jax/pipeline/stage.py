"""A stage of a pipeline: a function that reads folders and files and writes one folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from r1jax.errors import UserError

Inputs = Mapping[str, Path]  # role -> the folder of a stage, or a file
Figures = dict[str, Any]  # results of a stage, such as counts and seconds; must be JSON
Function = Callable[[Any, Inputs, Path], Figures]


@dataclasses.dataclass(frozen=True)
class Stage:
    """A function with its settings and inputs.

    name: the name of the stage and of its folder.
    function: (settings, inputs by role, own folder) -> figures. After a kill it is called again with the same folder,
      from which it resumes.
    settings: a frozen dataclass with exactly the settings that the function reads. Fields that are marked with
      r1jax.settings.may_change may change on resume.
    reads: role -> the name of an earlier stage, or the Path of a file or folder, whose contents are hashed.
    costs: column -> text of the stage's row in a plan, such as its steps and tokens.
    accompanies: the stage whose result this one measures or exports. --until and --only of that stage include this one,
      and it runs again without --force when a stage that it reads has run again.
    extended: printed when the stage continues because a setting that may rise (r1jax.settings.may_rise) was raised.
    check: raises UserError if this machine cannot run the stage; called for a plan in which it will run.
    """

    name: str
    function: Function
    settings: Any
    reads: Mapping[str, str | Path] = dataclasses.field(default_factory=dict)
    costs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    accompanies: str | None = None
    extended: str = ""
    check: Callable[[], object] = lambda: None

    @property
    def inputs(self) -> dict[str, str]:
        """Role -> name, for the inputs that are stages."""
        return {role: source for role, source in self.reads.items() if isinstance(source, str)}

    @property
    def files(self) -> dict[str, Path]:
        """Role -> path, for the inputs that are not stages."""
        return {role: source for role, source in self.reads.items() if isinstance(source, Path)}


def check_stages(stages: Sequence[Stage]) -> list[str]:
    """The names of the stages; raises UserError if two are equal, or if a stage reads one that is not before it."""
    names: list[str] = []
    for stage in stages:
        missing = [name for name in stage.inputs.values() if name not in names]
        if missing:
            raise UserError(f"stage {stage.name} reads {missing[0]}, which is not a stage before it")
        if stage.name in names:
            raise UserError(f"two stages have the name {stage.name}")
        names.append(stage.name)
    return names
