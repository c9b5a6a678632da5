"""Estimates memory and collectives of a GRPO step on a mesh, from programs that are compiled and not run.

    python experiments/plan.py --model qwen2.5-7b --mesh 8x1
    JAX_PLATFORMS=cpu JAX_SKIP_CUDA_CONSTRAINTS_CHECK=1 python experiments/plan.py --mesh 8x1 --target h100_sxm.txtpb

No weights are created, so a laptop suffices for large models. The first command compiles for CPU devices: arrays are
split as on GPUs, but attention, fusions and bfloat16 products are those of a CPU. With --target, the programs are those
of a GPU, which need not be present (see docs/performance.md).
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Table

from r1jax import cli
from r1jax.benchmark.mesh_estimate import estimate, target_mesh
from r1jax.benchmark.scaling import Scaling, scaled_workload
from r1jax.benchmark.workload import Workload
from r1jax.disk import write_whole
from r1jax.errors import UserError
from r1jax.pipeline.manifest import versions
from r1jax.rl.config import check_run
from r1jax.sharding import make_mesh, parse_mesh


@dataclasses.dataclass(frozen=True)
class Config(Workload):
    """The workload of one device (prompts, microbatch and slots are per device) and the mesh to estimate."""

    mesh: str = "8x1"
    """Estimate for this mesh of devices, written DATAxMODEL or DATAxMODELxEXPERT."""
    scaling: Scaling = "weak"
    """Scale the work: weak multiplies the number of prompts by the size of the data axis, strong keeps it constant."""
    target: Path | None = None
    """Compile for the GPU that this file of XLA describes; None compiles for the devices of this machine."""
    out: Path = Path("runs/plan")
    """Write the result file MODEL-SCALING-MESH.json into this folder."""


def mesh_of_devices(text: str) -> Mesh:
    """The mesh on the devices of this machine; CPU devices are emulated unless XLA_FLAGS sets their number."""
    needed = math.prod(parse_mesh(text))
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", needed)
    if jax.default_backend() != "cpu" and needed > len(jax.devices()):
        raise UserError(
            f"--mesh={text} needs {needed} devices and this machine has {len(jax.devices())} "
            f"({jax.devices()[0].device_kind}): use --target, or compile for CPU devices with JAX_PLATFORMS=cpu"
        )
    return make_mesh(text)


def show(figures: dict[str, Any], console: Console) -> None:
    """Prints memory and collectives of each program."""
    table = Table(title=f"{figures['model']}, {figures['scaling']} scaling on {figures['mesh']}, {figures['device']}")
    for name in ("program", "GiB per device", "in", "collective", "count", "MB"):
        table.add_column(name, justify="left" if name in ("program", "in", "collective") else "right")
    for name in ("update", "rollout"):
        program = figures[name]
        size = program["argument_bytes"] + program["new_output_bytes"] + program["temporary_bytes"]
        table.add_row(name, f"{size / 2**30:.2f}", "", "", "", "")
        for where, label in (("collectives", "all"), ("collectives_of_a_turn", "per token")):
            for kind, count in program[where]["count"].items():
                table.add_row("", "", label, kind, f"{count:,}", f"{program[where]['bytes'][kind] / 1e6:,.3f}")
    console.print(table)
    resident, peak = figures["resident_bytes"] / 2**30, figures["peak_bytes"] / 2**30
    console.print(f"weights, moments, reference: {resident:.2f} GiB per device; the whole step: {peak:.2f}")


def main() -> None:
    """Estimates the step for the mesh of the command line."""
    presets = {"peers": ("The workload on which other libraries were measured.", Config())}
    config = cli.parse(presets, "peers", prog="plan.py", description=(__doc__ or "").splitlines()[0])
    data = parse_mesh(config.mesh).rows
    work = scaled_workload(config, data, config.scaling)
    check_run(work.rl, work.sampling, data)
    console = Console()
    mesh = target_mesh(config.mesh, config.target) if config.target else mesh_of_devices(config.mesh)
    console.print(f"compiling a step of {config.model} for {mesh.size} x {mesh.devices.flatten()[0].device_kind}")
    began = time.perf_counter()
    try:
        estimated = estimate(work, mesh)
    except jax.errors.JaxRuntimeError as error:  # without a chip, the compiler cannot run its autotuner
        if not config.target:
            raise
        reason = str(error).splitlines()[0][:120]
        raise UserError(f"{reason}: try XLA_FLAGS=--xla_gpu_enable_triton_gemm=false") from error
    figures: dict[str, Any] = {
        "model": config.model,
        "mesh": config.mesh,
        "scaling": config.scaling,
        "device": mesh.devices.flatten()[0].device_kind,
        **estimated,
        "seconds": time.perf_counter() - began,
        "settings": json.loads(cli.to_json(config)),
        "versions": versions("jax", "jaxlib", "optax"),
    }
    path = config.out / f"{config.model}-{config.scaling}-{config.mesh}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(figures, indent=2) + "\n")
    show(figures, console)
    console.print(f"{path}", highlight=False)


if __name__ == "__main__":
    cli.call_and_exit(main)
