"""System calls of Linux that Python 3.11 has no function for, by ctypes."""

from __future__ import annotations

import ctypes
import os
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing takes longer than all else here
    from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True)

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x00020000,
    0x02000000,
    0x04000000,
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
NAMESPACES = NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
READ_ONLY, NO_SUID, NO_DEVICES = 1, 2, 4  # of set_mount
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_MNT_DETACH = 2


def call(name: str, *arguments: Any) -> int:
    """Calls a function of the C library; raises OSError with its name if it fails."""
    result = getattr(_LIBC, name)(*arguments)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def prctl(option: int, value: int = 0, pointer: Any = None) -> None:
    """prctl(option, value, pointer)."""
    call("prctl", option, ctypes.c_ulong(value), pointer, ctypes.c_ulong(0), ctypes.c_ulong(0))


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, data: str | None = None) -> None:
    """mount(2)."""
    texts = [text.encode() if text is not None else None for text in (source, target, kind)]
    call("mount", *texts, ctypes.c_ulong(flags), data.encode() if data else None)


def set_mount(path: str, flags: int, recursive: bool) -> None:
    """Adds flags to the mount at a path, and to those below it: mount_setattr(2), Linux 5.12."""
    attributes = struct.pack("QQQQ", flags, 0, 0, 0)
    number = ctypes.c_long(442)  # on all architectures
    call(
        "syscall",
        number,
        _AT_FDCWD,
        path.encode(),
        _AT_RECURSIVE if recursive else 0,
        attributes,
        ctypes.c_size_t(len(attributes)),
    )


def change_root(path: str) -> None:
    """Makes a mount the root directory and detaches the old root."""
    os.chdir(path)
    call("syscall", ctypes.c_long({"x86_64": 155, "aarch64": 41}[os.uname().machine]), b".", b".")  # pivot_root
    call("umount2", b".", _MNT_DETACH)
    os.chdir("/")


def drop_capabilities() -> None:
    """Gives up all capabilities of this process; programs that it executes gain none."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    header, data = struct.pack("Ii", 0x20080522, 0), bytes(24)
    call("capset", header, data)


def end_with_parent() -> None:
    """This process is killed when the thread that started it ends; reset by a change of the user."""
    if sys.platform == "linux":
        prctl(PR_SET_PDEATHSIG, 9)
