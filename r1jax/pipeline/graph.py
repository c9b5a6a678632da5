"""Stages as a graph: each a function from folders to a folder, run once and again only where something changed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from r1jax import __version__, cli
from r1jax.disk import folder_lock, write_whole
from r1jax.errors import UserError
from r1jax.names import lookup
from r1jax.pipeline.code_hash import code_hash, comparable, function_name
from r1jax.pipeline.manifest import MANIFEST, changes, file_hash, listed, shortened

_REMOVED = ".removed-"  # before the name of a folder that is on its way out
BEGUN = "stage.json"  # what a stage was begun with; the manifest, written last, adds its figures


@dataclasses.dataclass(frozen=True)
class GraphConfig:
    """How much of a graph is run, and on what."""

    mesh: str = "1x1"
    """Devices as DATAxMODEL."""
    until: str | None = None
    """The last stage to run; None runs all."""
    only: str | None = None
    """The one stage to run, where those that it reads are finished."""
    force: bool = False
    """Make stages again that were made with other settings, and those after them."""
    dry_run: bool = False
    """Print the plan and stop; memory is that of a device, without activations."""


Function = Callable[[Any, Mapping[str, Path], Path], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Stage:
    """A function from folders to a folder.

    name: also that of its folder.
    function: (settings, inputs by name, own folder) -> figures, which must be JSON. Killed, it is called again with
      the folder as it was left.
    settings: a frozen dataclass.
    inputs: stages whose folders it reads.
    files: further files and folders that it reads, by name; their contents are hashed.
    plan: what a plan shows of it, such as steps and tokens.
    free: dotted settings, or groups of them, that it does not read or that say how it computes and not what: they may
      change without running it again.
    """

    name: str
    function: Function
    settings: Any
    inputs: tuple[str, ...] = ()
    files: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    plan: Mapping[str, str] = dataclasses.field(default_factory=dict)
    free: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Planned:
    """What will be done about a stage.

    status: "finished", "run", "goes on", "changed", "follows" (a stage before it is made again) or "left out".
    why: for "changed" the settings, with what they were and are; for "follows" the stage.
    note: for "finished" and "goes on" what is another now and does not count.
    made_of: what the stage is made of now, as JSON.
    """

    stage: Stage
    status: str
    why: str = ""
    note: str = ""
    made_of: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def make_plan(
    stages: Sequence[Stage], out: Path, until: str | None = None, only: Collection[str] = ()
) -> list[Planned]:
    """What a run would do, stage by stage: ``until`` leaves out what comes after that one, ``only`` all but those.

    Raises:
      UserError: for names that are no stage's, both of them, an input that does not come before, or with ``only`` an
        input of theirs that is not finished as the settings are now.
    """
    names = _check(stages)
    for name in (*([until] if until is not None else []), *only):
        lookup("stage", name, dict.fromkeys(names))
    if until is not None and only:
        raise UserError("--only and --until do not go together")
    wanted = {name for stage in stages if stage.name in only for name in stage.inputs} - set(only)
    plan: list[Planned] = []
    prints: dict[str, str] = {}
    fresh: set[str] = set()  # stages that will be made, or made again
    for stage in stages:
        beyond = until is not None and names.index(stage.name) > names.index(until)
        one, prints[stage.name] = _status(stage, _made_of(stage, prints), out, fresh)
        if stage.name in wanted and one.status != "finished":
            raise UserError(f"--only needs the stage {stage.name}, which is not finished: run that first")
        beyond |= bool(only) and stage.name not in only
        if one.status != "finished":
            fresh.add(stage.name)
        plan.append(dataclasses.replace(one, status="left out") if beyond and one.status != "finished" else one)
    return plan


def run_graph(
    stages: Sequence[Stage],
    out: Path,
    *,
    until: str | None = None,
    only: Collection[str] = (),
    force: bool = False,
    report: Callable[[str], object] = print,
    made_by: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, Any]]:
    """Runs the stages in their order, each in out/NAME, and returns the figures of all that are finished.

    made_by: what the manifests of the stages that run now say of it, such as command and device.

    A stage that is finished with the same settings and inputs, and the same function where it is the user's own
    (r1jax.pipeline.code_hash), is skipped; another version of this package is reported. One that was killed goes on.
    Where a stage was made or begun with others, nothing runs and nothing is touched, unless ``force``: then it and
    those after it that build on it are removed and made again.

    Raises:
      UserError: as make_plan; for changed settings without ``force``; where another process runs the same folder.
    """
    with folder_lock(out):
        for left in out.glob(f"{_REMOVED}*"):  # of a removal that was killed
            shutil.rmtree(left)
        plan = make_plan(stages, out, until, only)
        stale = [one for one in plan if one.status in ("changed", "follows")]
        if stale and not force:
            first, *rest = stale
            others = ", ".join(one.stage.name for one in rest)
            made = "made with other settings" if first.status == "changed" else "made before a stage that it builds on"
            raise UserError(
                f"{out / first.stage.name} was {made} ({first.why}): --force makes it again"
                + (f", and after it {others}" if others else "")
            )
        for one in reversed(stale):
            remove(out / one.stage.name)
        for note in dict.fromkeys(one.note for one in plan if one.note):
            report(f"{note}: {', '.join(one.stage.name for one in plan if one.note == note)}")
        figures: dict[str, dict[str, Any]] = {}
        for one in plan:
            stage, folder = one.stage, out / one.stage.name
            if one.status == "left out":
                continue
            if one.status == "finished":
                figures[stage.name] = json.loads((folder / MANIFEST).read_text())["figures"]
                continue
            report(f"{stage.name}: {'goes on' if one.status == 'goes on' else 'begins'}")
            folder.mkdir(parents=True, exist_ok=True)
            if one.status != "goes on":
                write_whole(folder / BEGUN, json.dumps(one.made_of, indent=2) + "\n")
            inputs = {name: out / name for name in stage.inputs} | dict(stage.files)
            figures[stage.name] = stage.function(stage.settings, inputs, folder)
            manifest = {**one.made_of, "made_by": dict(made_by or {}), "figures": figures[stage.name]}
            write_whole(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
        return figures


def plan_table(plan: Sequence[Planned]) -> Table:
    """A plan as a table: name, status, and what each stage says of itself."""
    columns = list(dict.fromkeys(name for one in plan for name in one.stage.plan))
    table = Table()
    for name in ("stage", "status", *columns):
        table.add_column(name, overflow="fold", no_wrap=name == "stage")
    for one in plan:
        status = {"changed": f"changed: {one.why}", "follows": f"follows {one.why}"}.get(one.status, one.status)
        status += f" ({one.note})" if one.note else ""
        table.add_row(one.stage.name, status, *(one.stage.plan.get(name, "") for name in columns))
    return table


def remove(folder: Path) -> None:
    """Removes a stage's folder, out of its place first: killed on the way, there is all of it or nothing."""
    if folder.exists():
        shutil.rmtree(folder.replace(folder.with_name(_REMOVED + folder.name)))


def finished(out: Path) -> dict[str, dict[str, Any]]:
    """The manifests of the stages in ``out`` that are finished and were made from each other as they are now.

    A stage that was made from an older form of another is left out, and all that build on it.
    """
    paths = [path for path in sorted(out.glob(f"*/{MANIFEST}")) if not path.parent.name.startswith(_REMOVED)]
    found = {path.parent.name: json.loads(path.read_text()) for path in paths}
    prints = {name: _fingerprint(_without_figures(manifest)) for name, manifest in found.items()}

    def current(name: str) -> bool:
        return all(prints.get(before) == print and current(before) for before, print in found[name]["inputs"].items())

    return {name: manifest for name, manifest in found.items() if current(name)}


def _check(stages: Sequence[Stage]) -> list[str]:
    names: list[str] = []
    for stage in stages:
        missing = [name for name in stage.inputs if name not in names]
        if missing:
            raise UserError(f"stage {stage.name} reads {missing[0]}, which is no stage before it")
        if stage.name in names:
            raise UserError(f"two stages are called {stage.name}")
        names.append(stage.name)
    return names


def _made_of(stage: Stage, prints: Mapping[str, str]) -> dict[str, Any]:
    """What a stage is made of, as JSON: equal where running it again would give the same."""
    return {
        "function": function_name(stage.function),
        **({"code": code} if (code := code_hash(stage.function)) else {}),
        "settings": json.loads(cli.to_json(stage.settings)),
        "inputs": {name: prints[name] for name in stage.inputs},
        "files": {name: file_hash(path) for name, path in stage.files.items()},
        "version": __version__,
        "free": sorted(stage.free),
    }


def _fingerprint(made_of: Mapping[str, Any]) -> str:
    bound = {name: value for name, value in made_of.items() if name not in ("settings", "free")}
    bound["settings"] = _bound_settings(made_of)
    return hashlib.sha256(json.dumps(bound, sort_keys=True).encode()).hexdigest()


def _bound_settings(made_of: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without the free ones, dotted."""
    leaves = {path: value for path, (value, _) in cli.diff(made_of["settings"], {}).items()}
    free = tuple(f"{path}." for path in made_of.get("free", ()))
    return {path: leaves[path] for path in sorted(leaves) if not f"{path}.".startswith(free)}


def _without_figures(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in manifest.items() if name not in ("figures", "made_by")}


def _status(stage: Stage, made_of: Mapping[str, Any], out: Path, fresh: set[str]) -> tuple[Planned, str]:
    """What will be done about a stage, and the fingerprint that those which read it are made of."""
    folder = out / stage.name
    manifest = folder / MANIFEST
    found = manifest if manifest.exists() else folder / BEGUN
    own = _fingerprint(made_of)
    if not found.exists():
        return Planned(stage, "run", made_of=made_of), own
    try:
        before = _without_figures(json.loads(found.read_text()))
    except ValueError as error:
        raise UserError(f"{found} is damaged ({error}): remove {folder} to make it again") from error
    if differences := _differences(before, made_of, stage):
        return Planned(stage, "changed", listed(differences), made_of=made_of), own
    follows = [name for name in stage.inputs if name in fresh or before["inputs"].get(name) != made_of["inputs"][name]]
    if follows:
        return Planned(stage, "follows", follows[0], made_of=made_of), own
    notes = []
    if (version := before.get("version")) != __version__:
        notes.append(f"made with r1jax {version}, this is {__version__}")
    if not comparable(before.get("code"), made_of.get("code")):
        notes.append("made under another Python, by a function that cannot be compared")
    note = "; ".join(notes)
    if found.name == BEGUN:
        return Planned(stage, "goes on", note=note, made_of=made_of), own
    return Planned(stage, "finished", note=note, made_of=made_of), _fingerprint(before)


def _differences(before: Mapping[str, Any], made_of: Mapping[str, Any], stage: Stage) -> dict[str, tuple[Any, Any]]:
    """What a stage was made or begun with, and is not made of now: name -> (old, new)."""
    found: dict[str, tuple[Any, Any]] = {}
    old, new = before.get("code"), made_of.get("code")
    if old is None or new is None:
        found["function"] = (_without_module(str(before.get("function"))), _without_module(made_of["function"]))
    elif comparable(old, new):
        found["code of the function"] = (old[-8:], new[-8:])
    found |= shortened(cli.diff(before.get("files", {}), made_of["files"]))
    found["inputs"] = (sorted(before.get("inputs", {})), sorted(made_of["inputs"]))
    free = tuple(f"{path}." for path in made_of["free"])
    settings = changes(before.get("settings", {}), stage.settings)
    found |= {path: change for path, change in settings.items() if not f"{path}.".startswith(free)}
    return {name: change for name, change in found.items() if change[0] != change[1]}


def _without_module(function: str) -> str:
    """PACKAGE:NAME of MODULE:NAME: modules of a package are moved from version to version."""
    module, _, name = function.partition(":")
    return f"{module.partition('.')[0]}:{name}"
