"""An experiment as a command: its graph planned or run, a stop on request, a full device."""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from rich.console import Console

from r1jax import cli
from r1jax.checkpoints.load import resolve
from r1jax.disk import cache_folder
from r1jax.errors import UserError
from r1jax.pipeline.graph import GraphConfig, Stage, make_plan, plan_table, run_graph
from r1jax.pipeline.manifest import machine
from r1jax.report.recipe_run import with_evaluation, write_report
from r1jax.sharding import entered_mesh, make_mesh


def carry_out(
    graph: Sequence[Stage],
    out: Path,
    config: GraphConfig,
    script: str,
    *,
    weights: str,
    model: str,
    report: Path,
    done: str,
) -> None:
    """Runs a graph in ``out`` and writes the report of the run ``report``; or prints the plan, where that is asked for.

    A stage that ``until`` or ``only`` names takes its evaluation along. script: what was typed, for the manifests.
    weights: those it starts from, printed at the beginning; model: their name, for the manifests; done: printed at the
    end.
    """
    until = with_evaluation(graph, config.until)[-1] if config.until is not None else None
    only = with_evaluation(graph, config.only) if config.only is not None else ()
    console = Console()
    if config.dry_run:
        console.print(plan_table(make_plan(graph, out, until, only)))
        return
    keep_compiled()
    with jax.set_mesh(make_mesh(config.mesh)):
        print_opening(console, weights, out)
        run_graph(
            graph,
            out,
            until=until,
            only=only,
            force=config.force,
            report=lambda line: console.print(line, style="bold", markup=False),
            made_by={"command": shlex.join(["python", script, *sys.argv[1:]]), "model": model, **machine()},
        )
        write_report(report)
    console.print(done, highlight=False)


def print_opening(console: Console, weights: str, out: Path) -> None:
    """The first line of a run: the devices of the entered mesh, the weights it starts from, and its folder."""
    devices = entered_mesh().devices.flatten()
    line = f"device: {len(devices)} x {devices[0].device_kind}, weights: {weights}, folder: {out}"
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def weights_of(base: str, made: Path) -> str:
    """What print_opening says of a base: the file or folder that it names, or ``made`` for one that is made first."""
    return f"made in {made}" if base == "pretrain" else str(resolve(base)[0])


def keep_compiled() -> None:
    """Keeps compiled programs for later processes, in r1jax.disk.cache_folder unless jax was told of another place."""
    if not jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
        folder = cache_folder()
        if folder.parent == Path(tempfile.gettempdir()):
            print(f"no home folder that can be written: compiled programs are kept in {folder}", file=sys.stderr)
        jax.config.update("jax_compilation_cache_dir", str(folder / "xla"))


def run_command(main: Callable[[], None], advice: str) -> None:
    """Calls cli.call_and_exit(main); if ``main`` runs out of device memory, the error line ends with ``advice``."""

    def advised() -> None:
        try:
            main()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            reason = str(error).splitlines()[0][:200]
            raise UserError(f"the device is out of memory: {advice} ({reason})") from error

    cli.call_and_exit(advised, "stopped; the same command goes on from there")
