"""The result of an ablation as arrays, as a file, and as a table of pandas."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from r1jax.disk import replacing
from r1jax.errors import UserError

Value = bool | int | float | str  # of a setting
_PARTS = ("metrics", "before", "after")


@dataclasses.dataclass(frozen=True)
class Ablation:
    """Metrics and evaluations of all trainings: A arms with S seeds each, for T steps.

    axes: name of a setting -> its values.
    arms: the value of each axis, for each arm; the values of the last axis change first.
    seeds: the random seeds.
    metrics: name -> [A, S, T] float; nan where an arm does not have the metric.
    before, after: figure of the held-out problems -> [A, S] float, before and after training.
    about: how the result was made: device, versions, seconds, and the settings of all arms, as JSON.
    """

    axes: Mapping[str, tuple[Value, ...]]
    arms: tuple[Mapping[str, Value], ...]
    seeds: tuple[int, ...]
    metrics: Mapping[str, np.ndarray]
    before: Mapping[str, np.ndarray]
    after: Mapping[str, np.ndarray]
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def steps(self) -> int:
        """T."""
        return next(iter(self.metrics.values())).shape[2]

    def with_value(self, axis: str, value: Value) -> list[int]:
        """The indices of the arms in which an axis has a value."""
        return [i for i, arm in enumerate(self.arms) if arm[axis] == value]

    def frame(self) -> Any:
        """A pandas frame with a row for each arm, seed and step: the axes, seed, step and the metrics.

        Raises UserError if pandas is not installed.
        """
        shape = (len(self.arms), len(self.seeds), self.steps)
        arm, seed, step = (index.ravel() for index in np.indices(shape))
        columns = {name: np.array([self.arms[i][name] for i in range(len(self.arms))])[arm] for name in self.axes}
        columns |= {"seed": np.array(self.seeds)[seed], "step": step}
        columns |= {name: values.ravel() for name, values in self.metrics.items()}
        return _pandas().DataFrame(columns)

    def evaluations(self) -> Any:
        """A pandas frame with a row for each arm and seed: the axes, seed, and the figures FIGURE_before and _after.

        Raises UserError if pandas is not installed.
        """
        return _pandas().DataFrame(list(self.rows()))

    def rows(self) -> Iterator[dict[str, Any]]:
        """A mapping for each arm and seed: the axes, seed, and the figures FIGURE_before and FIGURE_after."""
        for i, arm in enumerate(self.arms):
            for j, seed in enumerate(self.seeds):
                figures = {f"{name}_before": float(values[i, j]) for name, values in self.before.items()}
                figures |= {f"{name}_after": float(values[i, j]) for name, values in self.after.items()}
                yield {**arm, "seed": seed, **figures}

    def save(self, path: Path) -> None:
        """Writes all of it to an .npz file, which Ablation.load and numpy.load read."""
        arrays = {f"{part}/{name}": values for part in _PARTS for name, values in getattr(self, part).items()}
        texts = {"axes": self.axes, "arms": self.arms, "seeds": self.seeds, "about": self.about}
        arrays |= {name: np.array(json.dumps(value)) for name, value in texts.items()}
        with replacing(path) as part, part.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    def save_table(self, path: Path) -> None:
        """Writes ``rows`` to a CSV file."""
        rows = list(self.rows())
        with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    @classmethod
    def load(cls, path: Path | str) -> Ablation:
        """Reads the file that ``save`` wrote. Raises UserError if it is missing or another file."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            texts = {name: json.loads(str(arrays.pop(name))) for name in ("axes", "arms", "seeds", "about")}
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path} is not the result of an ablation ({error}): give its results.npz") from error
        parts: dict[str, dict[str, np.ndarray]] = {part: {} for part in _PARTS}
        for key, values in arrays.items():
            part, _, name = key.partition("/")
            parts[part][name] = values
        axes = {name: tuple(values) for name, values in texts["axes"].items()}
        return cls(axes, tuple(texts["arms"]), tuple(texts["seeds"]), **parts, about=texts["about"])


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise UserError("frames need pandas: pip install pandas, or r1jax with the extra notebooks") from error
    return pandas
