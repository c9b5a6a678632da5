"""Compares algorithms: a table and curves of finished runs of r1_zero.py in folders named ALGORITHM-seedN.

    launch/algorithms.sh                                                   makes the runs
    python experiments/compare.py runs/algorithms/grpo-seed0 runs/algorithms/dapo-seed0 --out docs/results/algorithms

Runs with the same seed must start from the same base (--base FOLDER). The command writes summary.json, curves.png,
report.md and report.html. The first algorithm is the one that the others are compared with.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from r1jax import cli
from r1jax.errors import UserError
from r1jax.report.algorithms import algorithms_table, write_comparison
from r1jax.report.finished_runs import read_run


@dataclasses.dataclass(frozen=True)
class Config:
    """The runs to compare, and the folder of the result."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """The output folders of finished runs of r1_zero.py, named ALGORITHM-seedN."""
    out: Path = Path("runs/compare")
    """Write the result into this folder."""
    title: str = "Algorithms"
    """Write this title above the table and the curves."""


def main() -> None:
    """Writes the comparison of the runs of the command line."""
    presets = {"compare": ("The runs of the command line.", Config())}
    config = cli.parse(presets, "compare", prog="compare.py", description=(__doc__ or "").splitlines()[0])
    if not config.runs:
        raise UserError("no runs: give the output folders of finished runs of experiments/r1_zero.py")
    entries = write_comparison([read_run(run) for run in config.runs], config.out, config.title)
    console = Console()
    console.print(algorithms_table(entries), highlight=False, markup=False, soft_wrap=True)
    console.print(f"{config.out}: report.html, summary.json, curves.png", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    cli.call_and_exit(main)
