"""Users for sandboxes: ids that belong to nobody else, and their processes."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

_USUAL = range(100_000_000, 100_000_000 + 2**28)  # above the ids of a usual system
_AT_ONCE = 64  # more than the sandboxes of one process at once
_counter = itertools.count()


def new_user() -> int | None:
    """The id of a user for one sandbox, who owns nothing and whose processes are counted alone.

    None if this process may not become another user.
    """
    if os.geteuid() != 0 or not (users := free_ids(_mapped("uid_map"), _mapped("gid_map"))):
        return None
    return users[(os.getpid() % 2**22 * _AT_ONCE + next(_counter) % _AT_ONCE) % len(users)]


def free_ids(users: tuple[range, ...], groups: tuple[range, ...]) -> range:
    """Ids for sandboxes among those of users and groups that this system has: half of them in a container with few.

    They are empty if the container has so few that they may all belong to its own users.
    """
    if any(_within(_USUAL, one) for one in users) and any(_within(_USUAL, one) for one in groups):
        return _USUAL
    most = max(users, key=len, default=range(0))
    found = range(most.start + len(most) // 2, most.stop - 3)  # nobody is among the last
    return found if len(found) >= 2**12 and any(_within(found, one) for one in groups) else range(0)


def kill_user(user: int) -> None:
    """Kills all processes of a user until none is left."""
    for _ in range(100):
        found = False
        for process, state in _processes_of(user):
            found |= state != "Z"
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        if not found:
            return


def most_threads() -> int:
    """A bound on the threads of this user, which count towards the limit of a sandbox without a user of its own."""
    try:
        return int(Path("/proc/loadavg").read_text().partition("/")[2].split()[0])  # those of the whole system
    except (OSError, ValueError, IndexError):
        return 2**12


def _processes_of(user: int) -> Iterator[tuple[int, str]]:
    """The processes of a user and their states."""
    owner = b"\nUid:\t%d\t" % user
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            # The files of a process that hides its memory belong to root.
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid in (0, user):
                with open(f"/proc/{name}/status", "rb", 0) as file:
                    status = file.read(2**10)
                if owner in status:
                    yield int(name), status.partition(b"\nState:\t")[2][:1].decode()


def _within(inner: range, outer: range) -> bool:
    return outer.start <= inner.start and inner.stop <= outer.stop


@functools.cache
def _mapped(name: str) -> tuple[range, ...]:
    """The ids of users or groups that this process may become."""
    if sys.platform != "linux":
        return (_USUAL,)
    lines = [line.split() for line in Path(f"/proc/self/{name}").read_text().splitlines()]
    return tuple(range(int(first), int(first) + int(count)) for first, _, count in lines)
