"""Execution of a pipeline: each stage runs once, and again only if something that it reads has changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from r1jax import cli
from r1jax.disk import folder_lock, write_whole
from r1jax.errors import UserError
from r1jax.pipeline.manifest import MANIFEST, REMOVED, STARTED, manifests, write_json
from r1jax.pipeline.plan import PlannedStage, make_plan
from r1jax.pipeline.stage import Figures, Stage

CONFIG = "config.json"


def execute_pipeline(
    stages: Sequence[Stage],
    out: Path,
    *,
    until: str | None = None,
    only: Collection[str] = (),
    force: bool = False,
    config: Any = None,
    made_by: Mapping[str, Any] | None = None,
    report: Callable[[str], object] = print,
    on_finish: Callable[[str, Figures], object] = lambda name, figures: None,
) -> dict[str, Figures]:
    """Executes the stages in order, each in its folder out/NAME; returns the figures of all finished stages by name.

    A stage is skipped if it is finished with the same settings and inputs, and with the same code if its function is
    the user's own (r1jax.pipeline.code_hash); a different version of this package is only reported. A stage that was
    killed resumes. A stage continues if its only changes are larger values of settings that may rise. If any other
    stage has changed, nothing runs, unless ``force``: then the stage and those that read it are removed and run again.
    Stages that accompany others (evaluations, exports) run again without ``force`` after those that they read.

    Args:
      stages, out, until, only: as in make_plan.
      force: removes changed stages.
      config: the config of the run, written to out/config.json.
      made_by: information for the manifests of the stages that run now, such as command and device.
      report: called with each line to print.
      on_finish: called with the name and the figures of each stage that has run.

    Raises:
      UserError: as make_plan; for changed stages without ``force``; if another process uses the folder.
    """
    with folder_lock(out):
        for folder in out.glob(f"{REMOVED}*"):  # left by a process that was killed while it removed them
            shutil.rmtree(folder)
        plan = make_plan(stages, out, until, only)
        _remove_outdated(plan, out, force)
        if config is not None:
            write_whole(out / CONFIG, cli.to_json(config))
        for note in dict.fromkeys(one.note for one in plan if one.note):
            report(f"{note}: {', '.join(one.stage.name for one in plan if one.note == note)}")
        if {one.status for one in plan} <= {"finished", "left out"}:
            left_out = any(one.status == "left out" for one in plan)
            what = f"the stages asked for in {out} are" if left_out else f"{out} is"
            report(f"{what} finished: give another --out, or remove it to run it again")
        figures = {name: manifest["figures"] for name, manifest in manifests(out).items()}
        figures = {one.stage.name: figures[one.stage.name] for one in plan if one.status == "finished"}
        for one in plan:
            if one.status not in ("finished", "left out"):
                figures[one.stage.name] = _execute(one, out, made_by or {}, report)
                on_finish(one.stage.name, figures[one.stage.name])
        return {one.stage.name: figures[one.stage.name] for one in plan if one.stage.name in figures}


def remove(folder: Path) -> None:
    """Removes the folder of a stage; renames it first, so that a kill never leaves a part of it under its name."""
    if folder.exists():
        shutil.rmtree(folder.replace(folder.with_name(REMOVED + folder.name)))


def _remove_outdated(plan: Sequence[PlannedStage], out: Path, force: bool) -> None:
    """Removes the folders of stages that must run again; without ``force``, only of those that accompany others."""
    outdated = [one for one in plan if one.status in ("changed", "follows")]
    refused = [one for one in outdated if one.status == "changed" or not one.stage.accompanies]
    if refused and not force:
        first = refused[0]
        others = ", ".join(one.stage.name for one in outdated if one is not first)
        how = "run with other settings" if first.status == "changed" else "run before a stage that it reads"
        raise UserError(
            f"{out / first.stage.name} was {how} ({first.why}): --force runs it again"
            + (f", and after it {others}" if others else "")
        )
    for one in reversed(outdated):
        remove(out / one.stage.name)


def _execute(one: PlannedStage, out: Path, made_by: Mapping[str, Any], report: Callable[[str], object]) -> Figures:
    """Calls the function of a stage; writes the record before the call and the manifest after it."""
    stage, folder = one.stage, out / one.stage.name
    status = one.status if one.status in ("resumes", "continues") else "starts"
    report(f"{stage.name}: {status}" + (f" ({one.why})" if status == "continues" else ""))
    if status == "continues" and stage.extended:
        report(stage.extended)
    folder.mkdir(parents=True, exist_ok=True)
    # The new record is written before the old manifest is removed, so that one of the two exists after a kill.
    write_json(folder / STARTED, one.record)
    (folder / MANIFEST).unlink(missing_ok=True)
    inputs = {role: out / name for role, name in stage.inputs.items()} | stage.files
    figures = stage.function(stage.settings, inputs, folder)
    write_json(folder / MANIFEST, {**one.record, "made_by": dict(made_by), "figures": figures})
    return figures
