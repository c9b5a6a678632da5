"""The files that a program may open, by Landlock (Linux 5.13), where a sandbox has no root directory of its own."""

from __future__ import annotations

import ctypes
import os
import struct

from .system_calls import call

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # system calls, on all architectures
_VERSION, _PATH = 1, 1
_EXECUTE, _WRITE, _READ, _LIST = 1, 2, 4, 8
_BASIC, _REFER, _TRUNCATE, _DEVICE = 2**13 - 1, 2**13, 2**14, 2**15
_TCP, _SCOPES = 3, 3  # bind and connect; abstract sockets and signals
_DEVICES = ("null", "zero", "full", "random", "urandom")


def version() -> int:
    """The version of Landlock in the kernel; 0 if there is none."""
    try:
        return _call(_CREATE, None, 0, _VERSION)
    except OSError:
        return 0


def make_rules(readable: list[str], folder: str) -> int | None:
    """Rules as a file descriptor, for restrict; None if the kernel has no Landlock.

    readable: folders to read, with /proc and some devices; all else except ``folder`` cannot be opened.
    """
    if not (found := version()):
        return None
    rights = _BASIC | (found >= 2) * _REFER | (found >= 3) * _TRUNCATE | (found >= 5) * _DEVICE
    fields = [rights, *[_TCP] * (found >= 4), *[_SCOPES] * (found >= 6)]
    attributes = struct.pack(f"{len(fields)}Q", *fields)
    rules = _call(_CREATE, attributes, len(attributes), 0)
    allowed = {path: _EXECUTE | _READ | _LIST for path in [*readable, "/proc"]}
    allowed |= {f"/dev/{name}": _READ | _WRITE for name in _DEVICES} | {folder: rights}
    for path, right in allowed.items():
        if os.path.exists(path):
            fd = os.open(path, os.O_PATH)
            _call(_ADD, rules, _PATH, struct.pack("=Qi", right, fd), 0)
            os.close(fd)
    return rules


def restrict(rules: int) -> None:
    """Applies rules to this process and its children for ever, and closes them."""
    _call(_RESTRICT, rules, 0)
    os.close(rules)


def _call(number: int, *arguments: int | bytes | None) -> int:
    given = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    return call("syscall", ctypes.c_long(number), *given)
