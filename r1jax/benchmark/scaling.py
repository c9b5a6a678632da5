"""Weak and strong scaling of a GRPO step: work per mesh, measurements, and the result file."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from filelock import FileLock

from r1jax import cli
from r1jax.benchmark.collectives import read_trace
from r1jax.benchmark.workload import Bench, Workload, timed
from r1jax.disk import write_whole
from r1jax.errors import UserError
from r1jax.rewards.scores import Scorer

Scaling = Literal["weak", "strong"]
PARTS = ("rollout", "update", "step")
TRACED_TOKENS = 16  # decoding steps in a trace; they are alike, and a trace is limited to a million events


def scaled_workload(work: Workload, data: int, scaling: Scaling) -> Workload:
    """The work for a mesh with ``data`` devices on its data axis, from the work of one device.

    weak: the number of prompts grows with the data axis; strong: it is constant. Microbatch and slots per device are
    constant in both, unless there are fewer sequences.
    """
    prompts = work.prompts * data if scaling == "weak" else work.prompts
    return dataclasses.replace(
        work, prompts=prompts, slots=work.slots * data, microbatch=min(work.microbatch * data, prompts * work.group)
    )


def measure(work: Workload, pool: Scorer, repeats: int) -> dict[str, Any]:
    """Seconds and tokens/s of rollout, update and whole step on the current mesh, and their time in collectives.

    For rollout and step, new tokens are counted; for the update, all tokens.
    """
    bench = Bench(work, pool)
    try:
        sequences = work.prompts * work.group
        figures: dict[str, Any] = {}
        rows: list[dict[str, float]] = []

        def rollout(limit: int = work.tokens) -> Any:
            return bench.rollout(work.prompts, work.group, bench.sampling, np.full(sequences, limit))

        def add(name: str, run: Callable[[], Any], tokens: int) -> None:
            seconds = timed(run, repeats)
            figures[name] = {"seconds": seconds, "tokens": tokens, "tokens_per_second": tokens / seconds}

        add("rollout", rollout, sequences * work.tokens)
        batch = bench.batch(0)
        add("update", lambda: bench.update(batch), sequences * work.width)
        add("step", lambda: rows.append(bench.step(len(rows))), sequences * work.tokens)
        figures["collectives"] = {
            "rollout": time_in_collectives(lambda: rollout(min(TRACED_TOKENS, work.tokens))),
            "update": time_in_collectives(lambda: bench.update(batch)),
        }
        return figures
    finally:
        bench.free()


def time_in_collectives(run: Callable[[], Any]) -> dict[str, Any]:
    """Time that one call of ``run``, already compiled, spends in collectives: means over devices.

    ``exposed_seconds`` is the time without other work on the device. Waiting for another device counts as collective.
    """
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            began = time.perf_counter()
            jax.block_until_ready(run())
            seconds = time.perf_counter() - began
        kind = f"/device:{jax.default_backend().upper()}"  # if a GPU was not traced, its host must not count
        times = [time for device, time in read_trace(Path(folder)).items() if device.startswith(kind)]
    if not times:
        return {"traced_seconds": seconds, "devices": 0}
    kinds = sorted({kind for one in times for kind in one.by_kind})
    collectives = float(np.mean([one.collectives for one in times]))
    return {
        "traced_seconds": seconds,
        "devices": len(times),
        "seconds": collectives,
        "exposed_seconds": float(np.mean([one.exposed for one in times])),
        "share": collectives / seconds,
        "seconds_by_kind": {kind: float(np.mean([one.by_kind.get(kind, 0.0) for one in times])) for kind in kinds},
    }


def with_efficiency(runs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The runs with their efficiency: tokens/s per device relative to the smallest mesh of the same scaling.

    ``baseline`` is that mesh: 1x1, unless the work does not fit on one device.
    """
    done = []
    runs = list(runs)
    for run in runs:
        peers = [r for r in runs if r["scaling"] == run["scaling"] and "error" not in r]
        run = {name: value for name, value in run.items() if name not in ("baseline", "efficiency")}
        if "error" not in run:
            base = min(peers, key=lambda r: r["devices"])
            run["baseline"] = base["mesh"]
            run["efficiency"] = {
                part: run[part]["tokens_per_second"]
                / run["devices"]
                / (base[part]["tokens_per_second"] / base["devices"])
                for part in PARTS
            }
        done.append(run)
    return done


class Results:
    """A JSON file of runs that is complete at any time; several processes may add runs.

    header: model, device, settings and versions of all runs; a file with another header is refused.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]):
        self.path, self.header = path, json.loads(json.dumps(header))
        self.runs()

    def runs(self) -> list[dict[str, Any]]:
        """The runs in the file; raises UserError if the file has another header."""
        try:
            stored = json.loads(self.path.read_text()) if self.path.exists() else self.header | {"runs": []}
            runs = stored.pop("runs")
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{self.path}: not a result file of this experiment ({error})") from error
        if differences := cli.diff(stored, self.header):
            listed = ", ".join(f"{key} was {old!r}, now {new!r}" for key, (old, new) in list(differences.items())[:5])
            raise UserError(
                f"{self.path} was measured with other settings ({listed}): use another --out or remove the file"
            )
        return runs

    def find(self, scaling: Scaling, mesh: str) -> dict[str, Any] | None:
        """The run of a scaling on a mesh; None if there is none."""
        return next((run for run in self.runs() if (run["scaling"], run["mesh"]) == (scaling, mesh)), None)

    def add(self, run: Mapping[str, Any]) -> None:
        """Adds a run to the file and recomputes all efficiencies."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_suffix(".lock")):
            whole = self.header | {"runs": with_efficiency([*self.runs(), run])}
            write_whole(self.path, json.dumps(whole, indent=2) + "\n")
