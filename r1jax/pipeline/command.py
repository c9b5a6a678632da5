"""An experiment as a command: prints its plan or executes its stages, and reports a lack of device memory."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from r1jax import cli
from r1jax.disk import cache_folder
from r1jax.errors import UserError
from r1jax.kernels.platform import WantedKernels, described, missing_kernels
from r1jax.models.config import ComputeOptions
from r1jax.pipeline.execute import execute_pipeline
from r1jax.pipeline.manifest import machine
from r1jax.pipeline.plan import make_plan, plan_table
from r1jax.pipeline.stage import Figures, Stage
from r1jax.sharding import entered_mesh, make_mesh
from r1jax.training.tracking import TrackerName, check_trackers, track


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
    """The stages of an experiment to run, and the devices."""

    mesh: str = "1x1"
    """The devices as DATAxMODEL or, for a model with experts, DATAxMODELxEXPERT: the sizes of the axes of the mesh.
    Named axes may have any order, as in data:2,expert:4, and those left out have size 1."""
    until: str | None = None
    """The last stage to run, with its evaluation. None runs all stages."""
    only: str | None = None
    """The only stage to run, with its evaluation. The stages that it reads must be finished."""
    force: bool = False
    """Remove and run again the stages that were run with other settings, and the stages that read them."""
    track: tuple[TrackerName, ...] = ("tensorboard",)
    """Send the metrics of each step to these trackers, beside metrics.jsonl: tensorboard, wandb or trackio. Without a
    login, wandb writes offline."""
    dry_run: bool = False
    """Print the plan and stop. Its memory is per device, without activations."""


def run_experiment(
    stages: Sequence[Stage],
    out: Path,
    config: PipelineConfig,
    script: str,
    *,
    weights: str,
    model: str,
    opening: str = "",
    report: Callable[[Console], None],
    on_finish: Callable[[str, Figures], object] = lambda name, figures: None,
) -> None:
    """Executes the stages in ``out`` on the mesh and calls ``report``; with config.dry_run, prints the plan instead.

    Args:
      script: the file of the experiment, for the command in the manifests.
      weights: description of the weights that the experiment starts from, for the first line.
      model: their short name, for the manifests.
      opening: printed after the first line.
      report: writes and prints the report.
      on_finish: called with the name and figures of each stage that has run.

    Raises UserError as execute_pipeline.
    """
    only = () if config.only is None else (config.only,)
    console = Console()
    check_trackers(config.track)
    plan = make_plan(stages, out, config.until, only)  # reports wrong flags and files before any device work
    if config.dry_run:
        console.print(plan_table(plan))
        return
    kernels = config.kernels if isinstance(config, ComputeOptions) else "auto"
    keep_compiled()
    with jax.set_mesh(make_mesh(config.mesh)), track(config.track, json.loads(cli.to_json(config))):
        print_opening(console, weights, out, opening, kernels)
        execute_pipeline(
            stages,
            out,
            until=config.until,
            only=only,
            force=config.force,
            config=config,
            made_by={"command": shlex.join(["python", script, *sys.argv[1:]]), "model": model, **machine(kernels)},
            report=lambda line: console.print(line, style="bold", markup=False, highlight=False, soft_wrap=True),
            on_finish=on_finish,
        )
        report(console)


def print_opening(console: Console, weights: str, out: Path, more: str = "", kernels: WantedKernels = "auto") -> None:
    """Prints devices, initial weights and folder of a run, its decoding kernels on a GPU, and ``more``."""
    devices = entered_mesh().devices.flatten()
    line = f"device: {len(devices)} x {devices[0].device_kind}, weights: {weights}, folder: {out}"
    console.print(line, highlight=False, markup=False, soft_wrap=True)
    if jax.default_backend() == "gpu":
        console.print(f"kernels: {described(kernels)}", highlight=False)
    if warning := missing_kernels(kernels):
        console.print(warning, highlight=False, markup=False, soft_wrap=True)
    if more:
        console.print(more, highlight=False, markup=False, soft_wrap=True)


def keep_compiled() -> None:
    """Saves compiled programs in r1jax.disk.cache_folder for later processes, unless jax has another folder set.

    Small programs are saved, too, unless the environment sets another limit: each takes longer to compile than to load.
    """
    if not jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
        folder = cache_folder()
        if folder.parent == Path(tempfile.gettempdir()):
            print(f"the home folder cannot be written: compiled programs are saved in {folder}", file=sys.stderr)
        jax.config.update("jax_compilation_cache_dir", str(folder / "xla"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def call_and_exit(main: Callable[[], None], memory_advice: str, **options: Any) -> None:
    """Calls cli.call_and_exit(main); the error line of a device that is out of memory contains ``memory_advice``.

    options: ``farewell`` and ``call`` of cli.call_and_exit.
    """

    def advised() -> None:
        try:
            main()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            reason = str(error).splitlines()[0][:200]
            raise UserError(f"the device is out of memory: {memory_advice} ({reason})") from error

    cli.call_and_exit(advised, **{"farewell": "stopped; the same command resumes", **options})
