"""A stage runs once: what it was made of is written beside what it made."""

from __future__ import annotations

import functools
import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from r1jax import __version__, cli
from r1jax.errors import UserError

MANIFEST = "manifest.json"


def claim_folder(folder: Path, settings: Any, free: Sequence[str] = (), name: str = "config.json") -> None:
    """Writes ``settings`` into the folder, or checks that they are those it was begun with, but for those in ``free``.

    Raises:
      UserError: naming the settings that differ, or the folder where it cannot be written.
    """
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_whole(path, cli.to_json(settings))
            return
        differences = cli.diff(json.loads(path.read_text()), settings)
        differences = {key: change for key, change in differences.items() if key not in free}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}") from error
    if differences:
        listed = ", ".join(f"{key} was {old!r}, now {new!r}" for key, (old, new) in list(differences.items())[:5])
        raise UserError(f"{folder} was begun with other settings ({listed}): give another --out or remove the folder")


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that a reader finds all of it or none."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents under a folder.

    Read once in a process as long as no size and no time of change is another: weights may be terabytes. Raises
    UserError where there is nothing.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist: check the path")
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return _hash(path, tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@functools.lru_cache(maxsize=64)
def _hash(path: Path, files: tuple[tuple[Path, int, int], ...]) -> str:
    total = hashlib.sha256()
    for file, *_ in files:
        total.update(str(file.relative_to(path)).encode())
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def machine() -> dict[str, str]:
    """The devices of this process and the versions that it runs."""
    devices = jax.devices()
    return {"device": f"{len(devices)} x {devices[0].device_kind}", **versions("jax", "flax", "optax")}


def versions(*libraries: str) -> dict[str, str]:
    """Those of Python, of this package and of some libraries."""
    return {"python": platform.python_version(), "r1jax": __version__, **{name: version(name) for name in libraries}}


def run_stage(
    folder: Path, name: str, settings: Any, inputs: Mapping[str, str], body: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Figures of a stage: those of its manifest where it ran before, else those that ``body`` returns.

    The manifest (name, settings, hashes of inputs, version, figures) is written last, so a stage that was killed has
    none and its body runs again, from its own checkpoints.

    Raises:
      UserError: where the folder's manifest speaks of another stage, other settings or other inputs.
    """
    manifest = {
        "stage": name,
        "settings": json.loads(cli.to_json(settings)),
        "inputs": dict(inputs),
        "version": __version__,
    }
    path = folder / MANIFEST
    if path.exists():
        found = json.loads(path.read_text())
        figures = found.pop("figures")
        differences = cli.diff(found, manifest)
        if differences:
            listed = ", ".join(differences)
            raise UserError(f"{folder} holds a stage made otherwise ({listed}): give another --out or remove it")
        return figures
    folder.mkdir(parents=True, exist_ok=True)
    figures = body()
    write_whole(path, json.dumps(manifest | {"figures": figures}, indent=2) + "\n")
    return figures
