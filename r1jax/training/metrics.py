"""Metrics as sums with weights, and the files of a training, which hold each step exactly once."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from r1jax.disk import replacing
from r1jax.errors import UserError
from r1jax.training.tensorboard import EventFile
from r1jax.training.tracking import BackgroundTracker, Tracking

Metrics = dict[str, tuple[jax.Array, jax.Array]]  # name -> (sum, weight), scalars; divided last, on the host


def merge(parts: Iterable[Metrics]) -> Metrics:
    """Sums and weights added by name over microbatches, updates or devices; a name may be absent from some parts."""
    total: Metrics = {}
    for part in parts:
        for name, (value, weight) in part.items():
            old = total.get(name, (0.0, 0.0))
            total[name] = (old[0] + value, old[1] + weight)
    return total


def reduce_metrics(metrics: Metrics) -> dict[str, float]:
    """Weighted means sum / weight on the host, in one transfer; a weight of zero gives nan."""
    return {
        name: float(value) / float(weight) if weight else math.nan
        for name, (value, weight) in jax.device_get(metrics).items()
    }


class MetricsWriter:
    """metrics.jsonl, completions.jsonl and the trackers of a training, each with every step once.

    On entry it removes the lines of steps from ``resume_step`` on, which a resumed training computes again, and a line
    that was written in part. metrics.jsonl is flushed at each step; the TensorBoard file is written again from it.
    Raises UserError naming the folder if it cannot be written.
    """

    def __init__(self, folder: Path, resume_step: int = 0, tracking: Tracking | None = None) -> None:
        self.folder = folder
        self.resume_step = resume_step
        self._tracking = tracking or Tracking()

    def __enter__(self) -> MetricsWriter:
        metrics, completions = (self.folder / name for name in ("metrics.jsonl", "completions.jsonl"))
        with _refusing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in (metrics, completions):
                _drop_from(path, self.resume_step)
            self._metrics = metrics.open("a", encoding="utf-8")
            self._completions = completions.open("a", encoding="utf-8")
            self._trackers = [self._tracker(name) for name in self._tracking.names]
        return self

    def _tracker(self, name: str) -> EventFile | BackgroundTracker:
        rows = read_metrics(self.folder)
        if name == "tensorboard":
            return EventFile(self.folder / "tensorboard", rows)
        return BackgroundTracker(name, self.folder, rows, self._tracking)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the line of a step: step, time (Unix, seconds) and the values; nan and inf become null."""
        row = {"step": step, "time": round(time.time(), 3)}
        row |= {name: _finite(value) for name, value in values.items()}
        with _refusing(self.folder):
            self._metrics.write(json.dumps(row) + "\n")
            self._metrics.flush()
            for tracker in self._trackers:
                tracker.write(row)

    def write_completions(self, step: int, completions: Sequence[Mapping[str, Any]]) -> None:
        """Adds a line for each completion of a step: step, and the fields of the mapping."""
        with _refusing(self.folder):
            for fields in completions:
                self._completions.write(json.dumps({"step": step, **fields}, ensure_ascii=False) + "\n")
            self._completions.flush()

    def sync(self) -> None:
        """Waits until all lines are on disk, as they must be before a checkpoint of their steps is saved."""
        with _refusing(self.folder):
            for file in (self._metrics, self._completions):
                os.fsync(file.fileno())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            with _refusing(self.folder), contextlib.ExitStack() as all_of:
                for file in (*self._trackers, self._completions, self._metrics):
                    all_of.callback(file.close)
        except UserError:
            if kind is None:  # else the first error is raised
                raise


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of a folder's metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def totals(folder: Path, *names: str) -> dict[str, float]:
    """Sums of some metrics over all steps, those before a restart included."""
    rows = read_metrics(folder)
    return {name: sum(row[name] for row in rows) for name in names}


@contextlib.contextmanager
def _refusing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{folder}: cannot write there ({error.strerror}); free space or permissions, or give another --out"
        ) from error


def _drop_from(path: Path, step: int) -> None:
    """Keeps the whole lines of steps before ``step``; the file is replaced atomically."""
    if not path.exists():
        return
    with (
        replacing(path) as part,
        path.open(encoding="utf-8", errors="replace") as lines,
        part.open("w", encoding="utf-8") as kept,
    ):
        for line in lines:
            with contextlib.suppress(ValueError):  # written in part when the process was killed
                if json.loads(line)["step"] < step:
                    kept.write(line.rstrip("\n") + "\n")


def _finite(value: float) -> float | None:
    number = value if isinstance(value, int) else float(value)  # json does not know NumPy's types
    return number if math.isfinite(number) else None
