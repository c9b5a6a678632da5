"""Summarises the results of gpus8.sh in summary.json, and draws R1-Zero on one device and on all in learning.png.

    python launch/summary.py OUT N MESH

Compares N devices of MESH (8x1) with one device. Parts without files are skipped.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The metrics of each step; empty if there is no file."""
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def curve(rows: list[dict[str, Any]], factor: int) -> list[dict[str, float]]:
    """Mean accuracy and elapsed seconds after each ``factor`` steps.

    The seconds include the compilation of the first step.
    """
    seconds = np.cumsum([row["seconds"] for row in rows])
    accuracy = [row["reward_accuracy"] for row in rows]
    ends = range(factor, len(rows) + 1, factor)
    return [{"seconds": float(seconds[n - 1]), "accuracy": float(np.mean(accuracy[n - factor : n]))} for n in ends]


def learning(one: list[dict[str, Any]], wide: list[dict[str, Any]], n: int) -> dict[str, Any]:
    """Curves at equal samples, and seconds until 90% of the accuracy gain of the run on one device."""
    curves = {"one": curve(one, n), "wide": curve(wide, 1)}
    start, end = (curves["one"][i]["accuracy"] for i in (0, -1))
    aim = start + 0.9 * (end - start)
    reached = {
        name: next((point["seconds"] for point in points if point["accuracy"] >= aim), None)
        for name, points in curves.items()
    }
    rate = {
        name: sum(row["seconds"] for row in rows[1:]) / max(len(rows) - 1, 1)
        for name, rows in (("one", one), ("wide", wide))
    }
    return {"accuracy_aimed_at": aim, "seconds_to_it": reached, "seconds_a_step": rate, "at_equal_samples": curves}


def draw(curves: dict[str, list[dict[str, float]]], n: int, file: Path) -> None:
    """Accuracy of R1-Zero on one device and on ``n`` with n times the batch, over equal samples and over seconds."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for ax, unit in zip(figure.subplots(1, 2, sharey=True), ("steps of the large batch", "seconds"), strict=True):
        for name, points in curves.items():
            x = [point["seconds"] for point in points] if unit == "seconds" else range(1, len(points) + 1)
            label = "1 device" if name == "one" else f"{n} devices, {n} times the batch"
            ax.plot(x, [point["accuracy"] for point in points], label=label)
        ax.set_xlabel(unit)
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        ax.grid(alpha=0.3)
    figure.axes[0].set_ylabel("accuracy of the samples")
    figure.axes[0].legend()
    figure.savefig(file, dpi=120)


def differences(folder: Path, other: Path, killed: int) -> dict[str, float]:
    """Largest differences between the steps that two runs made after the kill."""
    pairs = list(zip(*(rows_of(run / "r1-zero")[killed:] for run in (folder, other)), strict=True))
    return {name: max(abs(a[name] - b[name]) for a, b in pairs) for name in ("loss", "reward", "entropy")}


def stages(folder: Path) -> dict[str, dict[str, Any]]:
    """The finished stages of R1 by name: function, seconds, and seconds per step.

    Seconds per step are the median without the first step, which includes compilation; None if there are no metrics.
    """
    summary = {}
    for path in sorted(folder.glob("[!.]*/manifest.json")):
        manifest, later = json.loads(path.read_text()), [row["seconds"] for row in rows_of(path.parent)[1:]]
        summary[path.parent.name] = {
            "made_by": manifest["made_by"],
            "seconds": manifest["figures"]["seconds"],
            "seconds_a_step": float(np.median(later)) if later else None,
        }
    return summary


def main() -> None:
    """Writes OUT/summary.json."""
    out, n, mesh = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    found: dict[str, Any] = {"devices": n, "mesh": mesh}
    if (out / "parts.tsv").exists():
        found["parts"] = [line.split("\t") for line in (out / "parts.tsv").read_text().splitlines()]
    for path in sorted(out.glob("*/summary.json")):
        run = json.loads(path.read_text())
        if "device" in run:  # not in the stages of R1
            found.setdefault("runs", {})[path.parent.name] = {name: run[name] for name in ("device", "versions")}
    one, wide = (rows_of(out / name / "r1-zero") for name in ("zero-1x1", f"zero-{mesh}"))
    if len(one) >= n and wide:
        found["zero"] = learning(one, wide, n)
        draw(found["zero"]["at_equal_samples"], n, out / "learning.png")
    if (out / "killed").exists() and (out / "resume" / "summary.json").exists():
        killed = int((out / "killed").read_text())
        others = [path for path in sorted(out.glob("resume-*")) if (path / "summary.json").exists()]
        found["resume"] = {path.name: differences(out / "resume", path, killed) for path in others}
        found["resume"]["killed_after_step"] = killed
    recipes = {name: stages(out / f"r1-{name}") for name in ("1x1", mesh)}
    if both := [stage for stage in recipes["1x1"] if stage in recipes[mesh]]:  # a run may have ended early
        found["r1"] = {name: {stage: recipes[name][stage] for stage in both} for name in recipes}
    for path in sorted((out / "scaling").glob("*.json")):
        result = json.loads(path.read_text())
        found.setdefault("scaling", {})[result["model"]] = {"device": result["device"]} | {
            f"{run['scaling']} {run['mesh']}": run.get("efficiency", run.get("error")) for run in result["runs"]
        }
    (out / "summary.json").write_text(json.dumps(found, indent=2) + "\n")
    print(out / "summary.json")


if __name__ == "__main__":
    main()
