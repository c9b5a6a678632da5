"""Progress of a training: a bar on a terminal, otherwise a line every ten seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_SECONDS = 10.0  # between two lines if the output is not a terminal


class ProgressBar:
    """Shows steps done, tokens/s, reward or loss, and the time left on stderr; a context manager.

    start: the first step, above 0 in a resumed training. console, clock (in seconds): for tests.
    """

    def __init__(
        self,
        name: str,
        total: int,
        start: int = 0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # In a notebook rich would write HTML of its own; the lines go to stderr there, too.
        self._console, self._clock = console or Console(stderr=True, force_jupyter=False), clock
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self._console,
            disable=not self._console.is_terminal,
            get_time=clock,
            # A step may take minutes: with the default of 30 seconds there would be no estimate for it.
            speed_estimate_period=math.inf,
        )
        self._id = self._bar.add_task(name, total=total, completed=start, note="")

    def __enter__(self) -> ProgressBar:
        self._printed = -LINE_SECONDS
        self._bar.advance(self._id, 0)  # the speed is measured from here
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def update(self, done: int, row: Mapping[str, float]) -> None:
        """Shows that ``done`` steps are done; row: the last step's metrics (tokens_per_second, reward or loss)."""
        figures = [f"{row['tokens_per_second']:,.0f} tokens/s"] if "tokens_per_second" in row else []
        figures += [f"{name} {row[name]:.3f}" for name in ("reward", "loss") if name in row][:1]
        self._bar.update(self._id, completed=done, note="  ".join(figures))
        now, (task,) = self._clock(), self._bar.tasks
        if self._console.is_terminal or not (now - self._printed >= LINE_SECONDS or task.finished):
            return
        self._printed = now
        if task.time_remaining is not None:
            figures.append(f"{timedelta(seconds=task.time_remaining)} left")
        line = f"{task.description} {done}/{task.total}  {'  '.join(figures)}".rstrip()
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
