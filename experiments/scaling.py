"""A GRPO step on one device and on more: rollout, update and whole step over meshes, weak and strong scaling.

    python experiments/scaling.py --model qwen2.5-1.5b                   every mesh that this machine has devices for
    python experiments/scaling.py --meshes 1x1 8x1 --scalings weak       two of them, with prompts for each device
    XLA_FLAGS=--xla_force_host_platform_device_count=8 python experiments/scaling.py       a small model on a CPU

Random weights at the real shapes. weak: the prompts grow with the data axis; strong: they stay. Efficiency is tokens/s
a device over those of one device. Time in collectives is read from a profile of one update and of a short rollout. The
result file is written after each mesh: killed, the same command goes on with those that are missing.
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
from r1jax.benchmark.scaling import PARTS, Results, Scaling, measure, work_on
from r1jax.benchmark.workload import SMALL, Work
from r1jax.errors import UserError
from r1jax.models.attention import check_attention
from r1jax.pipeline.command import keep_compiled
from r1jax.pipeline.manifest import versions
from r1jax.rewards.config import parse_rewards
from r1jax.rewards.pool import RewardPool
from r1jax.rl.config import check_run
from r1jax.sharding import make_mesh, parse_mesh

MESHES = ("1x1", "2x1", "4x1", "8x1", "4x2", "2x4", "1x8")


@dataclasses.dataclass(frozen=True)
class Config(Work):
    """The work of one device, and where it is measured; prompts, microbatch and slots are those of one device."""

    meshes: tuple[str, ...] = MESHES
    """Each DATAxMODEL; of the default's, those that this machine has devices for."""
    scalings: tuple[Scaling, ...] = ("weak", "strong")
    """weak: prompts for each position of the data axis; strong: the same prompts in all."""
    repeats: int = 3
    """Timed runs of each part, after one that is not; the median is reported."""
    out: Path = Path("runs/scaling")
    """Folder of the result file, MODEL.json."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.repeats < 1 or not self.meshes or not self.scalings:
            raise UserError("repeats must be at least 1, and meshes and scalings name one at least")


def check(config: Config) -> None:
    """Refuses what no number of devices could run, before any is touched."""
    for mesh in config.meshes:
        data, _ = parse_mesh(mesh)
        for scaling in config.scalings:
            try:
                work = work_on(config, data, scaling)
                check_run(work.rl, work.sampling, data)
            except UserError as error:
                raise UserError(f"{scaling} scaling on {mesh}: {error}") from error


def meshes_here(config: Config, console: Console) -> list[str]:
    """The meshes that there are devices for; raises UserError for another, unless it is one of the default's."""
    there = len(jax.devices())
    beyond = [mesh for mesh in config.meshes if math.prod(parse_mesh(mesh)) > there]
    if beyond and config.meshes != MESHES:
        make_mesh(beyond[0])  # says how many devices it needs, and how to get them
    if beyond:
        console.print(f"{there} device{'s' * (there > 1)} here: without {', '.join(beyond)}", highlight=False)
    return [mesh for mesh in config.meshes if mesh not in beyond]


def results_of(config: Config) -> Results:
    """The result file of the work on this machine's kind of device."""
    settings = json.loads(cli.to_json(config))
    for name in ("meshes", "scalings", "out"):  # what may differ between the commands that fill one file
        del settings[name]
    device = jax.devices()[0].device_kind
    header = {"model": config.model, "device": device, "settings": settings}
    return Results(config.out / f"{config.model}.json", header | {"versions": versions("jax", "jaxlib", "optax")})


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


def attempt(work: Work, mesh: str, pool: RewardPool, repeats: int) -> dict[str, Any]:
    """Figures of a run, or why the device could not hold it."""
    try:
        with jax.set_mesh(make_mesh(mesh)):
            return measure(work, pool, repeats)
    except UserError as error:  # of the sampler, where its request is beyond what is free
        return {"error": str(error)}
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"error": f"out of memory: {str(error).splitlines()[0][:200]}"}


def main() -> None:
    """Measures what the command line asks for and is not yet in the result file."""
    presets = {"peers": ("the work that peers were measured on", Config())}
    config = cli.parse(presets, "peers", prog="scaling.py", description=(__doc__ or "").splitlines()[0])
    check(config)
    console = Console()
    meshes = meshes_here(config, console)
    check_attention(config)
    if jax.default_backend() == "cpu":
        config = dataclasses.replace(config, **SMALL)
        console.print("no GPU or TPU here: a small model and little work; the figures say nothing about a chip")
    keep_compiled()
    results = results_of(config)
    with RewardPool(parse_rewards(["accuracy", "format"]), 8, 60.0) as pool:
        for mesh, scaling in itertools.product(meshes, config.scalings):
            if results.find(scaling, mesh):
                continue
            data, model = parse_mesh(mesh)
            work = work_on(config, data, scaling)
            same = [r for r in results.runs() if (r["mesh"], r["prompts"]) == (mesh, work.prompts)]
            # On a data axis of one device both scalings are one piece of work.
            figures = same[0] if same else attempt(work, mesh, pool, config.repeats)
            what = {
                "scaling": scaling,
                "mesh": mesh,
                "devices": data * model,
                "prompts": work.prompts,
                "microbatch": work.microbatch,
            }
            results.add({**what, **figures, **what})
            told = figures.get("error") or f"step {figures['step']['seconds']:.3f} s"
            console.print(f"{scaling} {mesh}: {told}", style="dim", highlight=False)
            jax.clear_caches()  # programs of one mesh serve no other, and hold device memory
    show(results.runs(), f"{config.model} on {results.header['device']}", console)
    console.print(f"{results.path}", highlight=False)


if __name__ == "__main__":
    cli.call_and_exit(main)
