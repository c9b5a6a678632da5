"""Settings of the code reward."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from r1jax.errors import UserError
from r1jax.settings import may_change

Level = Literal["bwrap", "unshare", "rlimits"]
LEVELS: tuple[Level, ...] = ("bwrap", "unshare", "rlimits")  # the strongest first
MEGABYTE = 2**20


@dataclasses.dataclass(frozen=True)
class CodeConfig:
    """How candidate programs are run and what they earn."""

    isolation: Literal["auto", "bwrap", "unshare", "rlimits"] = may_change("auto")
    """Run programs in bubblewrap, in namespaces of our own, or under limits alone; auto takes the first that works."""
    seconds: float = 4.0
    """Allow this many seconds for all tests of a program; tests that have not passed by then have failed."""
    memory: int = 512
    """Allow a program this many megabytes of memory."""
    credit: Literal["all", "share"] = "all"
    """Reward a program with 1 if it passes all tests and else 0, or with the share of the tests that it passes."""

    def __post_init__(self) -> None:
        if not self.seconds > 0 or math.isinf(self.seconds):
            raise UserError(f"code.seconds {self.seconds}: must be a finite number of seconds above 0")
        if self.memory < 64:
            raise UserError(f"code.memory {self.memory}: an interpreter needs at least 64 megabytes")


DEFAULT = CodeConfig()
