"""Measures weak and strong scaling of a GRPO step: rollout, update and whole step on several meshes.

    python experiments/scaling.py --model qwen2.5-1.5b                   all meshes that fit on this machine
    python experiments/scaling.py --meshes 1x1 8x1 --scalings weak       two meshes, weak scaling
    XLA_FLAGS=--xla_force_host_platform_device_count=8 python experiments/scaling.py       a small model on a CPU

Weights are random with real shapes. weak: the number of prompts grows with the data axis; strong: it is constant.
Efficiency is tokens/s per device relative to one device. The time in collectives comes from profiles of one update and
of a short rollout. The result file is written after each mesh; after a kill, the same command measures the missing
ones.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from r1jax import cli
from r1jax.benchmark.scaling import PARTS, Results, Scaling, measure, scaled_workload
from r1jax.benchmark.workload import Workload, small_workload
from r1jax.errors import UserError
from r1jax.models.attention import check_attention
from r1jax.models.experts import check_mesh
from r1jax.pipeline.command import keep_compiled
from r1jax.pipeline.manifest import versions
from r1jax.rewards.config import parse_rewards
from r1jax.rewards.pool import RewardPool
from r1jax.rl.config import check_run
from r1jax.sharding import make_mesh, parse_mesh
from r1jax.training.by_device import check_gather

MESHES = ("1x1", "2x1", "4x1", "8x1", "4x2", "2x4", "1x8")


@dataclasses.dataclass(frozen=True)
class Config(Workload):
    """The workload of one device (prompts, microbatch and slots are per device) and the meshes to measure."""

    meshes: tuple[str, ...] = MESHES
    """Measure these meshes, written DATAxMODEL or DATAxMODELxEXPERT. Default meshes with more devices than this machine
    has are skipped."""
    scalings: tuple[Scaling, ...] = ("weak", "strong")
    """Scale the work: weak multiplies the number of prompts by the size of the data axis, strong keeps it constant."""
    repeats: int = 3
    """Time this many calls of each part, after one that is not timed, and report the median in seconds."""
    out: Path = Path("runs/scaling")
    """Write the result file MODEL.json into this folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.repeats < 1 or not self.meshes or not self.scalings:
            raise UserError("repeats must be at least 1, and meshes and scalings must not be empty")


def check(config: Config) -> None:
    """Raises UserError for invalid work before any device is used."""
    for mesh in config.meshes:
        check_mesh(mesh, config.model_config())
        data = parse_mesh(mesh).rows
        for scaling in config.scalings:
            try:
                work = scaled_workload(config, data, scaling)
                check_run(work.rl, work.sampling, data)
                check_gather(config.gather, mesh, config.model_config())
            except UserError as error:
                raise UserError(f"{scaling} scaling on {mesh}: {error}") from error


def meshes_here(config: Config, console: Console) -> list[str]:
    """The meshes that fit on this machine; raises UserError for others, unless they are default meshes."""
    available = len(jax.devices())
    skipped = [mesh for mesh in config.meshes if math.prod(parse_mesh(mesh)) > available]
    if skipped and config.meshes != MESHES:
        make_mesh(skipped[0])  # raises UserError
    if skipped:
        console.print(f"{available} device{'s' * (available > 1)} found: {', '.join(skipped)} skipped", highlight=False)
    return [mesh for mesh in config.meshes if mesh not in skipped]


def results_of(config: Config) -> Results:
    """The result file for this workload and kind of device."""
    settings = json.loads(cli.to_json(config))
    for name in ("meshes", "scalings", "out"):  # these may differ between commands with the same result file
        del settings[name]
    device = jax.devices()[0].device_kind
    header = {"model": config.name, "device": device, "settings": settings}
    return Results(config.out / f"{config.name}.json", header | {"versions": versions("jax", "jaxlib", "optax")})


def show(runs: list[dict[str, Any]], title: str, console: Console) -> None:
    """Prints the table of runs."""
    table = Table(title=title, caption="efficiency and time in collectives in percent")
    columns = ("run", "rollout, tokens/s", "update, tokens/s", "step, s", "efficiency of each", "collectives")
    for name in columns:
        table.add_column(name, justify="left" if name == "run" else "right")
    for run in runs:
        name = f"{run['scaling']} {run['mesh']}"
        if "error" in run:
            table.add_row(name, *["-"] * (len(columns) - 1))
            continue
        shares = (run["collectives"][part].get("share") for part in ("rollout", "update"))
        table.add_row(
            name,
            f"{run['rollout']['tokens_per_second']:,.0f}",
            f"{run['update']['tokens_per_second']:,.0f}",
            f"{run['step']['seconds']:.3f}",
            " ".join(f"{100 * run['efficiency'][part]:.0f}" for part in PARTS),
            " ".join("-" if share is None else f"{100 * share:.0f}" for share in shares),
        )
    console.print(table)


def attempt(work: Workload, mesh: str, pool: RewardPool, repeats: int) -> dict[str, Any]:
    """Measures a run; returns an error if it does not fit into memory."""
    try:
        with jax.set_mesh(make_mesh(mesh)):
            return measure(work, pool, repeats)
    except UserError as error:  # from the sampler, if memory does not suffice
        return {"error": str(error)}
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"error": f"out of memory: {str(error).splitlines()[0][:200]}"}


def main() -> None:
    """Measures the runs of the command line that are not in the result file."""
    presets = {"peers": ("The workload on which other libraries were measured.", Config())}
    config = cli.parse(presets, "peers", prog="scaling.py", description=(__doc__ or "").splitlines()[0])
    check(config)
    console = Console()
    meshes = meshes_here(config, console)
    check_attention(config)
    if jax.default_backend() == "cpu":
        config = small_workload(config)
        console.print("no GPU or TPU found: a small model is used, and the results do not describe a chip")
    keep_compiled()
    results = results_of(config)
    with RewardPool(parse_rewards(["accuracy", "format"]), 8, 60.0) as pool:
        for mesh, scaling in itertools.product(meshes, config.scalings):
            if results.find(scaling, mesh):
                continue
            size = parse_mesh(mesh)
            work = scaled_workload(config, size.rows, scaling)
            same = [r for r in results.runs() if (r["mesh"], r["prompts"]) == (mesh, work.prompts)]
            # With a data axis of size one, both scalings have the same work.
            figures = same[0] if same else attempt(work, mesh, pool, config.repeats)
            what = {
                "scaling": scaling,
                "mesh": mesh,
                "devices": math.prod(size),
                "prompts": work.prompts,
                "microbatch": work.microbatch,
            }
            results.add({**what, **figures, **what})
            outcome = figures.get("error") or f"step {figures['step']['seconds']:.3f} s"
            console.print(f"{scaling} {mesh}: {outcome}", style="dim", highlight=False)
            jax.clear_caches()  # programs of one mesh are not reused for another, and occupy device memory
    show(results.runs(), f"{config.name} on {results.header['device']}", console)
    console.print(f"{results.path}", highlight=False)


if __name__ == "__main__":
    cli.call_and_exit(main)
