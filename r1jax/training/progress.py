"""Where a run stands: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

LINE_SECONDS = 10.0  # between lines where there is no terminal


class ProgressBar:
    """Steps done of all, tokens/s, reward or loss, and the time left, on stderr; a context manager.

    ``start`` is the step that a resumed run begins with. ``console`` and ``clock`` (seconds) are for tests.
    """

    def __init__(
        self,
        name: str,
        total: int,
        start: int = 0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._total, self._start, self._clock = name, total, start, clock
        self._console = console or Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(name, total=total, completed=start, note="")

    def __enter__(self) -> ProgressBar:
        self._began, self._printed = self._clock(), -LINE_SECONDS
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def update(self, done: int, row: Mapping[str, float]) -> None:
        """Shows that ``done`` steps are done, with tokens_per_second and reward or loss of the last one's row."""
        now = self._clock()
        figures = [f"{row['tokens_per_second']:,.0f} tokens/s"] if "tokens_per_second" in row else []
        figures += [f"{name} {row[name]:.3f}" for name in ("reward", "loss") if name in row][:1]
        if done > self._start:
            left = timedelta(seconds=round((now - self._began) / (done - self._start) * (self._total - done)))
            figures.append(f"{left} left")
        note = "  ".join(figures)
        self._bar.update(self._task, completed=done, note=note)
        if self._bar.disable and (now - self._printed >= LINE_SECONDS or done == self._total):
            self._printed = now
            self._console.print(
                f"{self._name} {done}/{self._total}  {note}".rstrip(), markup=False, highlight=False, soft_wrap=True
            )
