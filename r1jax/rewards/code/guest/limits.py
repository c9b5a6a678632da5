"""Limits of the resources that a program may use, and the user that it runs as."""

from __future__ import annotations

import os
import resource
import sys


def drop_privileges(user: int) -> None:
    """Becomes another user without groups and capabilities."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def set_limits(seconds: float, memory: int, processes: int) -> None:
    """Limits that this process and its children cannot raise again.

    seconds: of CPU time, rounded up. memory: bytes of the address space. processes: and threads, of the user.
    """
    _set(
        {
            "RLIMIT_CPU": int(seconds) + 1,
            "RLIMIT_AS": memory,
            "RLIMIT_NPROC": processes,
            "RLIMIT_NOFILE": 64,
            "RLIMIT_CORE": 0,
            "RLIMIT_MEMLOCK": 0,
            "RLIMIT_MSGQUEUE": 0,
        }
    )


def set_file_size(largest: int) -> None:
    """Limits the bytes of each file; the guest itself may write longer ones, for standard input."""
    _set({"RLIMIT_FSIZE": largest})


def _set(limits: dict[str, int]) -> None:
    for name, wanted in limits.items():
        number = getattr(resource, name, None)  # macOS has not all of them
        if number is None or (name == "RLIMIT_AS" and sys.platform == "darwin"):
            continue
        _, most = resource.getrlimit(number)
        value = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(number, (value, value))
