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
from r1jax.disk import write_whole
from r1jax.errors import UserError

MANIFEST = "manifest.json"


def claim_folder(
    folder: Path, settings: Any, free: Sequence[str] = (), name: str = "config.json", rising: Sequence[str] = ()
) -> dict[str, tuple[Any, Any]]:
    """Writes ``settings`` into the folder, or checks that they are those it was begun with, but for those in ``free``.

    rising: settings of which a larger value is let through, and not written: they are returned as name -> (old, new).

    Raises:
      UserError: naming the settings that differ, or the folder where it cannot be written.
    """
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_whole(path, cli.to_json(settings))
            return {}
        differences = changes(json.loads(path.read_text()), settings)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}") from error
    differences = {key: change for key, change in differences.items() if key not in free}
    raised = {key: differences.pop(key) for key in rising if key in differences and _rises(*differences[key])}
    if differences:
        raise UserError(
            f"{folder} was begun with other settings ({listed(differences)}): give another --out or remove the folder"
        )
    return raised


def _rises(old: Any, new: Any) -> bool:
    return isinstance(old, int) and isinstance(new, int) and new > old


def changes(old: Mapping[str, Any], settings: Any) -> dict[str, tuple[Any, Any]]:
    """Dotted setting -> (old, new) where ``settings`` differ from the parsed JSON of older ones.

    A setting that the older ones lack, since it came with a later version, counts where it is not at its default.
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


def shortened(hashes: Mapping[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    """Differences of hashes, these cut to eight digits."""
    return {name: (old and old[:8], new and new[:8]) for name, (old, new) in hashes.items()}


def listed(differences: Mapping[str, tuple[Any, Any]], most: int = 5) -> str:
    """Differences in words; beyond ``most`` they are counted."""
    texts = [f"{key} was {old!r}, now {new!r}" for key, (old, new) in differences.items()]
    more = f", and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


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
    folder: Path,
    name: str,
    settings: Any,
    inputs: Mapping[str, str],
    body: Callable[[], dict[str, Any]],
    report: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Figures of a stage: those of its manifest where it ran before, else those that ``body`` returns.

    The manifest (name, settings, hashes of inputs, version, figures) is written last, so a stage that was killed has
    none and its body runs again, from its own checkpoints. report: told where another version of this package made it.

    Raises:
      UserError: where the folder's manifest speaks of another stage, other settings or other inputs.
    """
    path = folder / MANIFEST
    if path.exists():
        found = json.loads(path.read_text())
        differences = {} if found["stage"] == name else {"stage": (found["stage"], name)}
        differences |= shortened(cli.diff(found["inputs"], inputs)) | changes(found["settings"], settings)
        if differences:
            raise UserError(
                f"{folder} holds a stage made otherwise ({listed(differences)}): give another --out or remove it"
            )
        if found["version"] != __version__:
            report(f"{folder}: made with r1jax {found['version']}, this is {__version__}")
        return found["figures"]
    folder.mkdir(parents=True, exist_ok=True)
    figures = body()
    manifest = {
        "stage": name,
        "settings": json.loads(cli.to_json(settings)),
        "inputs": dict(inputs),
        "version": __version__,
        "figures": figures,
    }
    write_whole(path, json.dumps(manifest, indent=2) + "\n")
    return figures
