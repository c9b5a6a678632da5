"""A finished run of a recipe, opened from the files that its report wrote."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r1jax.errors import UserError
from r1jax.training.metrics import read_metrics

SUMMARY = "summary.json"


@dataclasses.dataclass(frozen=True)
class StoredRun:
    """The manifests and metrics of a run, by the name of the stage.

    stages: manifests, in an order in which each stage comes after those that it reads.
    findings: the claims of the paper that the report tested, as in r1jax.report.findings.Finding.
    """

    folder: Path
    stages: Mapping[str, Mapping[str, Any]]
    findings: tuple[Mapping[str, Any], ...]

    def reads(self, name: str) -> tuple[str, ...]:
        """The names of the stages that a stage reads."""
        return _reads(self.stages[name])

    def metrics(self, name: str) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl of a stage: of its folder, or of the copy metrics-NAME.jsonl beside the summary."""
        copy = self.folder / f"metrics-{name}.jsonl"
        if copy.exists():
            return [json.loads(line) for line in copy.read_text().splitlines()]
        return read_metrics(self.folder / name)


def open_run(folder: Path | str) -> StoredRun:
    """The run in a folder of experiments/r1.py or of docs/results; raises UserError if it has no summary of stages."""
    path = Path(folder) / SUMMARY
    if not path.exists():
        raise UserError(f"{path} does not exist: a run writes it when a model has been evaluated")
    summary = json.loads(path.read_text())
    if "stages" not in summary:
        raise UserError(f"{path} lists no stages: give the folder of a run of experiments/r1.py")
    return StoredRun(Path(folder), _in_order(summary["stages"]), tuple(summary["findings"]))


def _reads(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    # Manifests of version 0.1.0 have no fingerprints; their inputs are stages with their hashes.
    return tuple(manifest.get("fingerprints", manifest["inputs"]))


def _in_order(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The stages, each after those that it reads."""
    ordered: dict[str, Mapping[str, Any]] = {}

    def add(name: str) -> None:
        if name not in ordered and name in stages:
            for other in _reads(stages[name]):
                add(other)
            ordered[name] = stages[name]

    for name in stages:
        add(name)
    return ordered
