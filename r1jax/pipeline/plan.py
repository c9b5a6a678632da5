"""The plan of a run: what will be done about each stage, and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from r1jax.checkpoints.native import MODEL_FILE
from r1jax.errors import UserError
from r1jax.names import lookup
from r1jax.pipeline.code_hash import comparable
from r1jax.pipeline.manifest import MANIFEST, manifests, read_manifest
from r1jax.pipeline.record import differences, fingerprint, in_words, make_record, only_rises
from r1jax.pipeline.stage import Stage, check_stages

Status = Literal["finished", "run", "resumes", "continues", "changed", "follows", "left out"]


@dataclasses.dataclass(frozen=True)
class PlannedStage:
    """A stage and what a run will do about it.

    status: "finished"; "run" (it has no folder yet); "resumes" (started, not finished); "continues" (finished or
      started with smaller values of settings that may rise); "changed" (run with other settings or files); "follows"
      (a stage that it reads has run again since, or will run again); "left out" (by --until or --only).
    why: for "changed" and "continues" the settings, with their old and new values; for "follows" the stage.
    note: for "finished" and "resumes" a difference that does not require another run.
    record: the record of the stage with its present settings.
    """

    stage: Stage
    status: Status
    why: str = ""
    note: str = ""
    record: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def make_plan(
    stages: Sequence[Stage], out: Path, until: str | None = None, only: Collection[str] = ()
) -> list[PlannedStage]:
    """What a run in ``out`` would do about each stage; reads files and changes none.

    until: the last stage that is included, with the stages that accompany it. only: the only stages that are included,
    with those that accompany them.

    Raises:
      UserError: for an unknown stage, for until together with only, for a stage that reads a later one, for a file
        that does not exist, for a manifest that is damaged or of version 0.1.0, if a stage that ``only`` needs is not
        finished, if ``out`` is a checkpoint, and as the checks of the stages that a run would execute.
    """
    if (out / MODEL_FILE).exists():
        raise UserError(f"{out} is a checkpoint, or a run of r1jax 0.1.0: give another --out")
    names = check_stages(stages)
    for name in (*([until] if until is not None else []), *only):
        lookup("stage", name, dict.fromkeys(names))
    if until is not None and only:
        raise UserError("--only and --until cannot be combined")
    included = set(names)
    if until is not None:
        last = max(names.index(one.name) for one in stages if until in (one.name, one.accompanies))
        included = set(names[: last + 1])
    elif only:
        included = {one.name for one in stages if {one.name, one.accompanies} & set(only)}
    needed = {name for one in stages if one.name in included for name in one.inputs.values()} - included
    plan: list[PlannedStage] = []
    fingerprints: dict[str, str] = {}
    unfinished: set[str] = set()
    for stage in stages:
        planned, fingerprints[stage.name] = _plan_stage(stage, make_record(stage, fingerprints), out, unfinished)
        if planned.status != "finished":
            if stage.name in needed:
                raise UserError(
                    f"--only needs the stage {stage.name}, which is not finished with these settings: run it first"
                )
            unfinished.add(stage.name)
            if stage.name not in included:
                planned = dataclasses.replace(planned, status="left out")
        plan.append(planned)
    for one in plan:
        if one.status not in ("finished", "left out"):
            one.stage.check()
    return plan


def plan_table(plan: Sequence[PlannedStage]) -> Table:
    """A plan as a table: name, status, and the costs of each stage."""
    columns = list(dict.fromkeys(name for one in plan for name in one.stage.costs))
    table = Table()
    for name in ("stage", "status", *columns):
        table.add_column(name, overflow="fold", no_wrap=name == "stage")
    for one in plan:
        status = f"{one.status} {one.why}" if one.status == "follows" else one.status
        status += f": {one.why}" if one.status in ("changed", "continues") else ""
        status += f" ({one.note})" if one.note else ""
        table.add_row(one.stage.name, status, *(one.stage.costs.get(name, "") for name in columns))
    return table


def finished_stages(out: Path) -> dict[str, dict[str, Any]]:
    """The manifests of the finished stages in ``out`` that read each other in their present state, by stage name.

    A stage that read a stage that has run again since is left out, and so are all stages that read it.
    """
    complete = {name: manifest for name, manifest in manifests(out).items() if "fingerprints" in manifest}
    fingerprints = {name: fingerprint(manifest) for name, manifest in complete.items()}

    def current(name: str) -> bool:
        made_from = complete[name]["fingerprints"]
        return all(fingerprints.get(other) == print_ and current(other) for other, print_ in made_from.items())

    return {name: manifest for name, manifest in complete.items() if current(name)}


def _plan_stage(stage: Stage, record: Mapping[str, Any], out: Path, unfinished: set[str]) -> tuple[PlannedStage, str]:
    """A planned stage, and its fingerprint for the records of the stages that read it."""
    folder, own = out / stage.name, fingerprint(record)
    before = read_manifest(folder)
    if before is None:
        return PlannedStage(stage, "run", record=record), own
    changed = differences(before, record, stage)
    if changed and not only_rises(changed, stage):
        return PlannedStage(stage, "changed", in_words(changed), record=record), own
    read, made_from = record["fingerprints"], before.get("fingerprints", {})
    follows = [name for name in read if name in unfinished or made_from.get(name) != read[name]]
    if follows:
        return PlannedStage(stage, "follows", follows[0], record=record), own
    if changed:
        return PlannedStage(stage, "continues", in_words(changed), record=record), own
    notes = []
    if before.get("version") != record["version"]:
        notes.append(f"run with r1jax {before.get('version')}, this is {record['version']}")
    if not comparable(before.get("code"), record.get("code")):
        notes.append("run with another version of Python, so changes of its function are not detected")
    note = "; ".join(notes)
    if (folder / MANIFEST).exists():
        return PlannedStage(stage, "finished", note=note, record=record), fingerprint(before)
    return PlannedStage(stage, "resumes", note=note, record=record), own
