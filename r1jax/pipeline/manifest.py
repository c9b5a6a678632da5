"""The files that describe a stage's folder, hashes of what stages read, and versions."""

from __future__ import annotations

import functools
import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from r1jax import __version__, hub
from r1jax.disk import write_whole
from r1jax.errors import UserError
from r1jax.kernels.platform import WantedKernels, described
from r1jax.sharding import entered_mesh

MANIFEST = "manifest.json"  # of a finished stage: its record, figures, command and versions; written last
STARTED = "stage.json"  # the record that the stage was started with
REMOVED = ".removed-"  # prefix of a folder that is being removed


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON atomically."""
    write_whole(path, json.dumps(value, indent=2) + "\n")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished stage, or the record of one that has started; None if there is neither.

    Raises UserError if the file is damaged or was written by version 0.1.0.
    """
    path = next((path for path in (folder / MANIFEST, folder / STARTED) if path.exists()), None)
    if path is None:
        return None
    try:
        manifest = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): remove {folder} to run its stage again") from error
    if "version" in manifest and "fingerprints" not in manifest:
        raise UserError(
            f"{folder} was written by r1jax {manifest['version']}, which cannot be continued: give another --out"
        )
    return manifest


def manifests(out: Path) -> dict[str, dict[str, Any]]:
    """The manifest of each finished stage in ``out``, by the name of the stage."""
    paths = [path for path in sorted(out.glob(f"*/{MANIFEST}")) if not path.parent.name.startswith(".")]
    return {path.parent.name: json.loads(path.read_text()) for path in paths}


def file_hash(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents under a folder; the commit of a snapshot folder of the hub.

    The hash is cached until a size or a modification time changes, since weights may have terabytes. The commit stands
    for the contents of its snapshot, to which other programs may add files that have been left out so far.

    Raises UserError if the path does not exist.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist: check the path")
    if commit := hub.snapshot_commit(path):
        return commit
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


def machine(kernels: WantedKernels = "auto") -> dict[str, str]:
    """The devices of the entered mesh, the kernels that run on them with this setting, and versions."""
    devices = entered_mesh().devices.flatten()
    device = {"device": f"{len(devices)} x {devices[0].device_kind}", "kernels": described(kernels)}
    return {**device, **versions("jax", "flax", "optax")}


def versions(*libraries: str) -> dict[str, str]:
    """Versions of Python, of this package and of some libraries."""
    return {"python": platform.python_version(), "r1jax": __version__, **{name: version(name) for name in libraries}}
