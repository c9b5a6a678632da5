"""Files that are replaced whole, the lock of a folder, and the folder of caches."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from r1jax.errors import UserError

LOCK_FILE = ".lock"  # in a folder that one process at a time may write


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``, which replaces it on disk when the block ends without an exception.

    A process that is killed leaves the old file and a partial one, which the next write overwrites.
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
    """Writes a text file so that readers see either the old content or all of the new one."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def sync(path: Path) -> None:
    """Waits until a file, or a folder's list of files, is on disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError:
        if not path.is_dir():  # some file systems cannot sync folders
            raise
    finally:
        os.close(opened)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Makes the folder and holds its lock, which the kernel releases when the process ends, even if it is killed.

    On a file system without locks nothing is locked.

    Raises:
      UserError: if another process holds the lock, or the folder cannot be written.
    """
    path = folder / LOCK_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): give another --out") from error
    lock = FileLock(path, blocking=False, fallback_to_soft=False)  # a marker file would outlive a killed process
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(f"another process runs in {folder}: wait for it, or give another --out") from error
    except OSError:
        pass  # a file system without locks
    try:
        yield
    finally:
        lock.release()


def cache_folder() -> Path:
    """Folder of caches: $R1JAX_CACHE, else ~/.cache/r1jax, else (no writable home folder) one in the temporary folder.

    The temporary folder is created here, with access for the user alone. Raises UserError if another user owns it.
    """
    if given := os.environ.get("R1JAX_CACHE"):
        return Path(given)
    try:
        folder = Path.home() / ".cache" / "r1jax"
    except RuntimeError:  # neither HOME nor an entry in passwd, as in a container that runs under an arbitrary user id
        folder = None
    if folder and os.access(next(path for path in (folder, *folder.parents) if path.exists()), os.W_OK):
        return folder
    folder = Path(tempfile.gettempdir()) / f"r1jax-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise UserError(f"{folder} belongs to another user: set R1JAX_CACHE to a folder for caches")
    return folder
