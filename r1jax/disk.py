"""Files that are whole whenever the process that writes them ends, the lock of a folder, and where caches are kept."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from r1jax.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to, which takes its place, on disk, when the block ends without an exception.

    A process that is killed leaves the old file, and the new one's part for the next to overwrite.
    """
    part = path.with_name(path.name + ".part")
    try:
        yield part
        sync(part)
        part.replace(path)
        sync(path.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that a reader finds all of it or none."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def sync(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError:
        if not path.is_dir():  # some file systems know no sync of folders
            raise
    finally:
        os.close(opened)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Makes the folder and holds its lock, which the kernel lets go of when the process ends in whatever way.

    Raises:
      UserError: where another process holds it, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): give another --out") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another process runs in {folder}: wait for it, or give another --out") from error
        except OSError:
            pass  # a file system without locks
        yield


def cache_folder() -> Path:
    """$R1JAX_CACHE, else ~/.cache/r1jax; without a home that can be written, a folder among the temporary ones.

    The last is made, so that it is the user's own. Raises UserError where it is someone else's.
    """
    if given := os.environ.get("R1JAX_CACHE"):
        return Path(given)
    try:
        folder = Path.home() / ".cache" / "r1jax"
    except RuntimeError:  # neither HOME nor an entry in passwd, as in a container with a user id of its own
        folder = None
    if folder and os.access(next(path for path in (folder, *folder.parents) if path.exists()), os.W_OK):
        return folder
    folder = Path(tempfile.gettempdir()) / f"r1jax-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise UserError(f"{folder} is someone else's: set R1JAX_CACHE to a folder for caches")
    return folder
