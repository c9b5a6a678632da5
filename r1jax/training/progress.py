"""Where a run stands: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_SECONDS = 10.0  # between lines where there is no terminal


class ProgressBar:
    """Steps done of all, tokens/s, time left and a figure of the step; a context manager."""

    def __init__(self, name: str, total: int, start: int = 0):
        self.name, self.total = name, total
        self._began, self._start, self._printed = time.monotonic(), start, -LINE_SECONDS
        console = Console(stderr=True)
        self._bar = None
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
                       TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())  # fmt: skip
            self._bar = Progress(*columns, console=console)
            self._task = self._bar.add_task(name, total=total, completed=start, note="")

    def __enter__(self) -> ProgressBar:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, done: int, row: Mapping[str, float]) -> None:
        """Shows that ``done`` steps are done, with tokens_per_second and reward or loss of the last one's row."""
        figure = "reward" if "reward" in row else "loss"
        note = f"{row.get('tokens_per_second', 0):,.0f} tokens/s  {figure} {row.get(figure, float('nan')):.3f}"
        if self._bar:
            self._bar.update(self._task, completed=done, note=note)
            return
        now = time.monotonic()
        if now - self._printed >= LINE_SECONDS or done == self.total:
            self._printed = now
            left = (now - self._began) / max(done - self._start, 1) * (self.total - done)
            print(f"{self.name} {done}/{self.total}  {note}  {left:.0f} s left", file=sys.stderr, flush=True)
