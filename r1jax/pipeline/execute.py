"""Execution of a pipeline: each stage once, and again only if something that it reads has changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from r1jax import cli
from r1jax.disk import folder_lock, write_whole
from r1jax.errors import UserError
from r1jax.pipeline.manifest import BEGUN, MANIFEST, REMOVED, manifests, write_json
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
    """Executes the stages in their order, each in out/NAME; the figures of all finished stages, by name.

    config: of the run; written to out/config.json. made_by: what the manifests of the stages that run now say of their
    making, such as command and device. report: called with each line to print. on_finish: called with the name and the
    figures of each stage that has run.

    A stage is skipped if it was finished with the same settings and inputs, and with the same function if that is the
    user's own (r1jax.pipeline.code_hash); another version of this package is reported only. A stage that was killed
    resumes, and one of which only settings that may rise have changed continues. If another stage has changed, nothing
    runs and nothing is touched, unless ``force``: then it and the stages that build on it are removed and made again.
    Stages that accompany others (evaluations, exports) are made again without it.

    Raises:
      UserError: as make_plan; for changed stages without ``force``; if another process uses the same folder.
    """
    with folder_lock(out):
        for folder in out.glob(f"{REMOVED}*"):  # left by a removal that was killed
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
    """Removes a stage's folder. It is renamed first: after a kill, all of it is there or nothing."""
    if folder.exists():
        shutil.rmtree(folder.replace(folder.with_name(REMOVED + folder.name)))


def _remove_outdated(plan: Sequence[PlannedStage], out: Path, force: bool) -> None:
    """Removes the folders of stages that must be made again; without ``force``, only of those that accompany others."""
    outdated = [one for one in plan if one.status in ("changed", "follows")]
    refused = [one for one in outdated if one.status == "changed" or not one.stage.accompanies]
    if refused and not force:
        first = refused[0]
        others = ", ".join(one.stage.name for one in outdated if one is not first)
        made = "made with other settings" if first.status == "changed" else "made before a stage that it builds on"
        raise UserError(
            f"{out / first.stage.name} was {made} ({first.why}): --force makes it again"
            + (f", and after it {others}" if others else "")
        )
    for one in reversed(outdated):
        remove(out / one.stage.name)


def _execute(one: PlannedStage, out: Path, made_by: Mapping[str, Any], report: Callable[[str], object]) -> Figures:
    """Calls a stage's function on its folder; writes the record before and the manifest after."""
    stage, folder = one.stage, out / one.stage.name
    status = one.status if one.status in ("resumes", "continues") else "begins"
    report(f"{stage.name}: {status}" + (f" ({one.why})" if status == "continues" else ""))
    if status == "continues" and stage.extended:
        report(stage.extended)
    folder.mkdir(parents=True, exist_ok=True)
    # The new record is written before the old manifest goes: after a kill there is one of the two to continue from.
    write_json(folder / BEGUN, one.record)
    (folder / MANIFEST).unlink(missing_ok=True)
    inputs = {role: out / name for role, name in stage.inputs.items()} | stage.files
    figures = stage.function(stage.settings, inputs, folder)
    write_json(folder / MANIFEST, {**one.record, "made_by": dict(made_by), "figures": figures})
    return figures
