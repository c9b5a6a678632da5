"""Seconds spent in functions."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Stopwatch:
    """Adds up the seconds spent in functions, by name."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def timed(self, name: str, function: Callable[P, T]) -> Callable[P, T]:
        """The function, with the seconds of its calls added up under ``name``."""

        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - began

        return call

    def take(self) -> dict[str, float]:
        """The seconds since the last call of ``take``, by name."""
        taken, self._seconds = self._seconds, {}
        return taken
