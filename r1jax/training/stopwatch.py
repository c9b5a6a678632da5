"""Seconds spent in functions."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Stopwatch:
    """Seconds spent in the functions that it times, by name, since they were last taken."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def timed(self, name: str, function: Callable[P, T]) -> Callable[P, T]:
        """The function, whose seconds are added up under ``name``."""

        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - began

        return call

    def take(self) -> dict[str, float]:
        """The seconds so far; counting starts again from 0."""
        taken, self._seconds = self._seconds, {}
        return taken
