"""The record of a stage: everything that its result depends on, as JSON, to compare with an earlier record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from r1jax import __version__, cli
from r1jax.pipeline.code_hash import code_hash, comparable, function_name
from r1jax.pipeline.manifest import file_hash
from r1jax.pipeline.stage import Stage
from r1jax.settings import MAY_CHANGE, MAY_RISE, marked

Record = Mapping[str, Any]
Changes = dict[str, tuple[Any, Any]]  # name -> (old, new)

# Entries of a manifest that do not affect the result of the stage.
_INFORMATION = ("paths", "made_by", "figures", "may_change")


def make_record(stage: Stage, fingerprints: Mapping[str, str]) -> dict[str, Any]:
    """The record of a stage. fingerprints: stage name -> fingerprint of its record, for the stages before this one."""
    return {
        "function": function_name(stage.function),
        **({"code": code} if (code := code_hash(stage.function)) else {}),
        "settings": json.loads(cli.to_json(stage.settings)),
        "may_change": marked(stage.settings, MAY_CHANGE),
        "inputs": stage.inputs,
        "fingerprints": {name: fingerprints[name] for name in stage.inputs.values()},
        "files": {role: file_hash(path) for role, path in stage.files.items()},
        "paths": {role: str(path.absolute()) for role, path in stage.files.items()},
        "version": __version__,
    }


def fingerprint(record: Record) -> str:
    """A hash of a record, or of the manifest that contains it, without the settings that may change on resume."""
    bound = {name: value for name, value in record.items() if name not in (*_INFORMATION, "settings")}
    leaves = {path: value for path, (value, _) in cli.diff(record["settings"], {}).items()}
    bound["settings"] = {path: leaves[path] for path in sorted(leaves) if not _covers(record["may_change"], path)}
    return hashlib.sha256(json.dumps(bound, sort_keys=True).encode()).hexdigest()


def differences(old: Record, new: Record, stage: Stage) -> Changes:
    """The differences between an older record of a stage and its record now, without those of the stages it reads."""
    result: Changes = {}
    before, now = old.get("code"), new.get("code")
    if before is None or now is None:
        result["function"] = (_without_module(str(old.get("function"))), _without_module(new["function"]))
    elif comparable(before, now):
        result["code of the function"] = (before[-8:], now[-8:])
    for role, change in cli.diff(_sources(old), _sources(new)).items():
        result[f"{role} ({stage.files[role]})" if role in stage.files else f"input {role}"] = change
    settings = changes(old.get("settings", {}), stage.settings)
    result |= {path: change for path, change in settings.items() if not _covers(new["may_change"], path)}
    return {name: change for name, change in result.items() if change[0] != change[1]}


def changes(old: Mapping[str, Any], settings: Any) -> Changes:
    """Dotted name -> (old, new) of each setting that differs from the parsed JSON of older settings.

    A setting that the older settings lack, since a later version added it, differs unless it has its default value.
    """
    defaults = cli.defaults(settings)

    def lacks(key: str) -> bool:
        part: Any = old
        for name in key.split("."):
            if not isinstance(part, Mapping):
                return False
            if name not in part:
                return True
            part = part[name]
        return False

    return {
        key: (was, now)
        for key, (was, now) in cli.diff(old, settings).items()
        if not (lacks(key) and key in defaults and defaults[key] == now)
    }


def only_rises(changed: Changes, stage: Stage) -> bool:
    """True if all differences are larger values of settings that may rise."""
    rising = marked(stage.settings, MAY_RISE)
    numbers = (int, float)
    return all(
        name in rising and isinstance(old, numbers) and isinstance(new, numbers) and new > old
        for name, (old, new) in changed.items()
    )


def in_words(changed: Changes, most: int = 5) -> str:
    """The first ``most`` differences as text, and the number of the others."""
    texts = [f"{key} was {old!r}, now {new!r}" for key, (old, new) in changed.items()]
    more = f", and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def _sources(record: Record) -> dict[str, str]:
    """Role -> the stage that is read, or the first characters of the hash of the file."""
    return {**record.get("inputs", {}), **{role: hash_[:8] for role, hash_ in record.get("files", {}).items()}}


def _covers(paths: list[str], path: str) -> bool:
    """True if a dotted path is one of ``paths`` or below one of them."""
    return f"{path}.".startswith(tuple(f"{one}." for one in paths))


def _without_module(function: str) -> str:
    """PACKAGE:NAME of MODULE:NAME: a function may move within its package from version to version."""
    module, _, name = function.partition(":")
    return f"{module.partition('.')[0]}:{name}"
