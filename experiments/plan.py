"""Estimates memory and collectives of training and sampling on a mesh whose devices need not be present.

    python experiments/plan.py --model deepseek-v3 --mesh 8x32 --remat block --microbatch 1 --slots 8
    python experiments/plan.py --model qwen2.5-7b --mesh 8x1 --compile
    JAX_PLATFORMS=cpu JAX_SKIP_CUDA_CONSTRAINTS_CHECK=1 python experiments/plan.py --mesh 8x1 --target h100_sxm.txtpb

The first command computes the bytes of a device from shapes and shardings, for fine-tuning, RL and sampling, and the
smallest mesh on which each of them fits. --compile also compiles the programs of a GRPO step for CPU devices: arrays
are split as on GPUs, but attention, fusions and bfloat16 products are those of a CPU. With --target, the programs are
those of a GPU, which need not be present (see docs/performance.md). No weights are created.
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
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh
from rich.console import Console
from rich.table import Table

from r1jax import cli
from r1jax.benchmark.mesh_estimate import estimate, target_mesh
from r1jax.benchmark.mesh_memory import HOST, KINDS, MOST, abstract_mesh, batch_devices, needs, smallest_mesh
from r1jax.benchmark.scaling import Scaling, scaled_workload
from r1jax.benchmark.workload import Workload
from r1jax.disk import write_whole
from r1jax.errors import UserError
from r1jax.models.cost import active_count, cache_entry_bytes
from r1jax.models.experts import check_mesh
from r1jax.models.transformer import param_specs
from r1jax.pipeline.manifest import versions
from r1jax.rl.config import check_run
from r1jax.sharding import make_mesh, param_count, parse_mesh
from r1jax.training.by_device import check_gather


@dataclasses.dataclass(frozen=True)
class Config(Workload):
    """The workload of one device (prompts, microbatch and slots are per device) and the mesh to estimate."""

    mesh: str = "8x1"
    """Estimate for this mesh of devices, written DATAxMODEL or DATAxMODELxEXPERT."""
    scaling: Scaling = "weak"
    """Scale the work: weak multiplies the number of prompts by the size of the data axis, strong keeps it constant."""
    memory: float = 80.0
    """The memory of a device is this many GB, of 10^9 bytes; it decides what fits."""
    compile: bool = False
    """Also compile the programs of a GRPO step, and list their memory and collectives."""
    target: Path | None = None
    """Compile for the GPU that this file of XLA describes; None compiles for the devices of this machine."""
    out: Path = Path("runs/plan")
    """Write the result file MODEL-SCALING-MESH.json into this folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.memory < math.inf:
            raise UserError(f"memory={self.memory} must be above 0")


# What must fit together: the update and the rollout of RL use the same devices.
JOBS = {"SFT": ("SFT",), "RL": ("RL, update", "RL, rollout"), "sampling": ("sampling",)}


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


def show_programs(figures: dict[str, Any], console: Console) -> None:
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


def memory_of(config: Config, work: Workload, mesh: AbstractMesh) -> dict[str, Any]:
    """Bytes of a device by stage and kind, and the smallest mesh for each of JOBS, for the result file."""
    limit = config.memory * 1e9
    smallest = {job: smallest_mesh(config, stages, limit) for job, stages in JOBS.items()}
    return {"bytes_by_kind": needs(work, mesh, limit), "smallest_mesh": smallest}


def show_memory(figures: dict[str, Any], limit: float, console: Console) -> None:
    """Prints the bytes of a device by stage and kind, and the smallest meshes."""
    stages = figures["bytes_by_kind"]
    table = Table(title=f"{figures['model']}, {figures['scaling']} scaling on {figures['mesh']}: GB of a device")
    for name in ("", *stages):
        table.add_column(name, justify="right" if name else "left")
    for kind in KINDS:
        table.add_row(kind, *(f"{kinds[kind] / 1e9:.2f}" for kinds in stages.values()))
    totals = [sum(kinds.values()) / 1e9 for kinds in stages.values()]
    table.add_row("sum", *(f"{total:.2f}" for total in totals))
    table.add_row(f"fits {limit:g} GB", *("yes" if total <= limit else "no" for total in totals))
    console.print(table)
    console.print(
        f"smallest meshes of devices with {limit:g} GB, with one sequence in a backward pass of a device, 8 slots a "
        "device, --remat=block, --gather=layer and the same rollout on all meshes:"
    )
    for job, mesh in figures["smallest_mesh"].items():
        devices = math.prod(parse_mesh(mesh)) if mesh else 0
        count = f"{devices} device{'s' * (devices > 1)}" + (f" of {devices // HOST} hosts" if devices > HOST else "")
        console.print(f"  {job}: {mesh}, {count}" if mesh else f"  {job}: none of up to {MOST} devices")


def compiled(config: Config, work: Workload, console: Console) -> dict[str, Any]:
    """The estimate of the compiled programs, for the result file."""
    mesh = target_mesh(config.mesh, config.target) if config.target else mesh_of_devices(config.mesh)
    device = mesh.devices.flatten()[0].device_kind
    console.print(f"compiling a step of {config.name} for {mesh.size} x {device}")
    began = time.perf_counter()
    try:
        estimated = estimate(work, mesh)
    except jax.errors.JaxRuntimeError as error:  # without a chip, the compiler cannot run its autotuner
        if not config.target:
            raise
        reason = str(error).splitlines()[0][:120]
        raise UserError(f"{reason}: try XLA_FLAGS=--xla_gpu_enable_triton_gemm=false") from error
    return {"device": device, **estimated, "seconds": time.perf_counter() - began}


def main() -> None:
    """Estimates the step for the mesh of the command line."""
    presets = {"peers": ("The workload on which other libraries were measured.", Config())}
    config = cli.parse(presets, "peers", prog="plan.py", description=(__doc__ or "").splitlines()[0])
    mesh = abstract_mesh(config.mesh)
    parts = batch_devices(mesh)
    work = scaled_workload(config, parts, config.scaling)
    check_run(work.rl, work.sampling, parts)
    console = Console()
    model = config.model_config()
    check_mesh(config.mesh, model)
    check_gather(config.gather, config.mesh, model)
    figures: dict[str, Any] = {
        "model": config.name,
        "mesh": config.mesh,
        "scaling": config.scaling,
        "parameters": param_count(param_specs(model)),
        "active_parameters": active_count(model),
        "cache_bytes_per_token": cache_entry_bytes(model, jnp.dtype(config.dtype).itemsize),
        **(compiled(config, work, console) if config.compile or config.target else {}),
        **memory_of(config, work, mesh),
        "settings": json.loads(cli.to_json(config)),
        "versions": versions("jax", "jaxlib", "optax"),
    }
    path = config.out / f"{config.name}-{config.scaling}-{config.mesh}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(figures, indent=2) + "\n")
    if "update" in figures:
        show_programs(figures, console)
    show_memory(figures, config.memory, console)
    console.print(
        f"{figures['parameters']:,} parameters, of which a token uses {figures['active_parameters']:,}; "
        f"{figures['cache_bytes_per_token']:,} bytes a token in the cache"
    )
    console.print(f"{path}", highlight=False)


if __name__ == "__main__":
    cli.call_and_exit(main)
