"""Private folders of sandboxes that have no root directory of their own, and their removal."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import secrets
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

_NAME = "r1jax-sandbox-"  # and the id of the worker
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def make(user: int | None) -> str:
    """A new folder that belongs to a user; None: to the present one."""
    folder = tempfile.mkdtemp(prefix=f"{_NAME}{os.getpid()}-")
    if user is not None:
        os.chown(folder, user, user)
    return folder


@functools.cache
def remove_stale() -> None:
    """Removes the folders of sandboxes whose worker was killed before it could do so."""
    for path in Path(tempfile.gettempdir()).glob(f"{_NAME}*"):
        worker = path.name.removeprefix(_NAME).partition("-")[0]
        if worker.isdigit() and not _exists(int(worker)):
            remove(str(path))


def remove(folder: str) -> None:
    """Removes a folder, in the background if a program left something in it, which may be a lot."""
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        pass
    except OSError:
        threading.Thread(target=_remove_filled, args=(folder,)).start()


def _remove_filled(folder: str) -> None:
    """Removes a folder that a program filled, however deep it is nested and whatever its permissions are."""
    names = (f"{secrets.token_hex(8)}-{i}" for i in itertools.count())
    with contextlib.suppress(OSError):
        top = _open(folder, None)
        try:
            while found := os.listdir(top):
                for name in found:
                    with contextlib.suppress(FileNotFoundError):  # another worker removes it, too
                        try:
                            os.unlink(name, dir_fd=top)
                        except (IsADirectoryError, PermissionError):  # macOS raises the second for a folder
                            _flatten(name, top, names)
        finally:
            os.close(top)
        os.rmdir(folder)


def _flatten(name: str, top: int, names: Iterator[str]) -> None:
    """Moves what a folder holds to the folder above it, under new names, and removes it."""
    inner = _open(name, top)
    try:
        for child in os.listdir(inner):
            new = next(names)
            try:
                os.rename(child, new, src_dir_fd=inner, dst_dir_fd=top)
            except PermissionError:  # a folder that its owner may not write to
                os.chmod(child, 0o700, dir_fd=inner)
                os.rename(child, new, src_dir_fd=inner, dst_dir_fd=top)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=top)


def _open(name: str, above: int | None) -> int:
    """A folder that this process may change. Root needs no permission, and follows no link for it."""
    try:
        fd = os.open(name, _FOLDER, dir_fd=above)
        if os.geteuid() != 0:
            os.fchmod(fd, 0o700)
        return fd
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=above)
        return os.open(name, _FOLDER, dir_fd=above)


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:
        return isinstance(error, PermissionError)  # of another user
    return True
