"""The first step of a process: its seconds with a cold and with a warm compilation cache, and where they are spent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import psutil
from rich.table import Table

from r1jax.benchmark.programs import KINDS, program_times
from r1jax.benchmark.workload import Bench
from r1jax.errors import UserError

_CHILD = "R1JAX_FIRST_STEP"  # set in the environment of the processes of first_steps
_LISTED = 0.05  # seconds from which on a program is listed by name


def is_first_step() -> bool:
    """True in a process of first_steps."""
    return _CHILD in os.environ


def first_step(make_bench: Callable[[], Bench]) -> dict[str, Any]:
    """Seconds of this process until now ("start"), of the initialisation of the weights, and of a first step.

    "seconds" is the first step alone, in which "trace", "lower", "compile" and "load" are those of all programs and
    threads, and "rest" is what the main thread spends otherwise: execution, rewards, and waiting for other threads.
    "sampling" and "rewards" are phases of the step, which contain the time of their programs.
    """
    start = time.time() - psutil.Process().create_time()
    began = time.perf_counter()
    bench = make_bench()
    jax.block_until_ready(bench.state)
    weights = time.perf_counter() - began
    began = time.perf_counter()
    with program_times() as times:
        row = bench.step(0)
    seconds = time.perf_counter() - began
    found = times.figures()
    return {
        "seconds": seconds,
        "start": start,
        "weights": weights,
        "sampling": row["seconds_sampling"],
        "rewards": row["seconds_rewards"],
        **{kind: found[kind] for kind in KINDS},
        "rest": seconds - found["in_main_thread"],
        "number": found["number"],
        "programs": _listed(found["programs"]),
    }


def _listed(programs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The programs with short times joined in one row."""
    long = [row for row in programs if sum(row[kind] for kind in KINDS) >= _LISTED]
    short = [row for row in programs if row not in long]
    sums = {name: sum(row[name] for row in short) for name in ("number", *KINDS, "in_main_thread")}
    rows = [*long, {"name": "others", **sums}] if short else long
    return [{name: round(x, 4) if isinstance(x, float) else x for name, x in row.items()} for row in rows]


def first_steps() -> dict[str, Any]:
    """first_step of this command in a new process with an empty compilation cache, and in one with that cache.

    Raises UserError if a process fails. If that one refuses its settings and says so, this one ends with status 2.
    """
    parts = {}
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache, _CHILD: "1"}
        for name in ("cold", "warm"):
            done = subprocess.run([sys.executable, *sys.argv], env=environment, stdout=subprocess.PIPE, text=True)
            if done.returncode == 2:
                sys.exit(2)
            if done.returncode:
                raise UserError(f"first step, {name} cache: the process ended with status {done.returncode}")
            parts[name] = json.loads(done.stdout.splitlines()[-1])
    return {**{f"first_step_{name}": part["seconds"] for name, part in parts.items()}, "first_parts": parts}


def first_table(parts: dict[str, dict[str, Any]]) -> Table:
    """The seconds of the programs of each first step by kind, of all of them and of the rest."""
    table = Table(title="first step, seconds")
    for name in ("cache", "program", "number", *KINDS):
        table.add_column(name, justify="left" if name in ("cache", "program") else "right")
    for cache, part in parts.items():
        rows = [*part["programs"], {**part, "name": "all"}]
        for row in rows:
            table.add_row(cache, row["name"], str(row["number"]), *(f"{row[kind]:.2f}" for kind in KINDS))
        table.add_row(cache, f"rest {part['rest']:.2f}, whole step {part['seconds']:.2f}")
    return table
