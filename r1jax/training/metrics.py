"""Metrics: (sum, weight) pairs on the device, floats on the host, lines and events on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import tensorboardX

from r1jax.errors import UserError

Metrics = dict[str, tuple[jax.Array, jax.Array]]  # name -> (sum, weight), float32 scalars


def merge(parts: Iterable[Metrics]) -> Metrics:
    """The metrics of several batches as those of one: sums and weights are added by name."""
    total: Metrics = {}
    for part in parts:
        for name, (value, weight) in part.items():
            old = total.get(name, (0.0, 0.0))
            total[name] = (old[0] + value, old[1] + weight)
    return total


def reduce_metrics(metrics: Metrics) -> dict[str, float]:
    """sum / weight of each, as floats; nan where the weight is 0."""
    host = jax.device_get(metrics)
    return {name: float(value) / float(weight) if weight else math.nan for name, (value, weight) in host.items()}


class MetricsWriter:
    """metrics.jsonl, completions.jsonl and TensorBoard events of one folder, a step at a time.

    Begun at ``step`` it drops what the files hold of that step and later ones, which are about to be made again, so a
    run that was killed and went on has each step once.
    """

    def __init__(self, folder: Path, step: int = 0):
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._files = {name: _reopen(folder / f"{name}.jsonl", step) for name in ("metrics", "completions")}
            self._events = tensorboardX.SummaryWriter(str(folder / "tensorboard"), purge_step=step)
        except OSError as error:
            raise UserError(f"cannot write metrics in {folder}: {error.strerror or error}") from error

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *_: Any) -> None:
        self._events.close()
        for file in self._files.values():
            file.close()

    def write(self, step: int, row: Mapping[str, float]) -> None:
        """A line of metrics.jsonl and a TensorBoard event for each number; what is not finite is null and no event."""
        finite = {name: value if math.isfinite(value) else None for name, value in row.items()}
        self._line("metrics", {"step": step, **finite})
        for name, value in finite.items():
            if value is not None:
                self._events.add_scalar(name, value, step)
        self._events.flush()

    def write_completions(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """A line of completions.jsonl for each row."""
        for row in rows:
            self._line("completions", {"step": step, **row})

    def _line(self, name: str, row: Mapping[str, Any]) -> None:
        try:
            self._files[name].write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            self._files[name].flush()
        except OSError as error:
            raise UserError(f"cannot write {name}.jsonl in {self.folder}: {error.strerror or error}") from error


def _reopen(path: Path, step: int) -> Any:
    """The file for appending, holding the steps before ``step`` alone."""
    kept = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # half of a line is what a kill leaves
                continue
            if row["step"] < step:
                kept.append(line + "\n")
        part = path.with_name(path.name + ".part")
        part.write_text("".join(kept))
        part.replace(path)
    return path.open("a")
