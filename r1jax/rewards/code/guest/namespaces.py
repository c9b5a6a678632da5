"""The level "unshare": namespaces of this process, and a root directory of read-only parts of the system."""

from __future__ import annotations

import os
import sys

from .system_calls import (
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
    NAMESPACES,
    NEWUSER,
    NO_DEVICES,
    NO_SUID,
    READ_ONLY,
    call,
    change_root,
    end_with_parent,
    mount,
    set_mount,
)

STREAMS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}  # links in /dev
_DEVICES = ("null", "zero", "full", "random", "urandom")
_ROOT = "/tmp"  # where the new root is mounted; the mount is visible in the new namespace alone


def enter(visible: list[tuple[str, str]], hidden: list[str], size: int, privileged: bool) -> None:
    """Continues in a child that is process 1 of new namespaces; this process only waits for it.

    visible: (path, path in the sandbox) of folders that are mounted read-only.
    hidden: folders below them that are empty in the sandbox.
    size: bytes of /tmp, the only folder that can be written to.
    privileged: this process is root and needs no user namespace.

    Raises:
      OSError: if the system refuses.
    """
    user, group = os.geteuid(), os.getegid()
    call("unshare", NAMESPACES & ~NEWUSER if privileged else NAMESPACES)
    if not privileged:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
    child = os.fork()
    if child:
        for fd in (0, 1):
            os.close(fd)
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    end_with_parent()
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    _make_root(visible, hidden, size)
    change_root(_ROOT)
    call("sethostname", b"sandbox", 7)


def _make_root(visible: list[tuple[str, str]], hidden: list[str], size: int) -> None:
    limits = f"size={size},nr_inodes=4096"
    sources = [(path, os.open(path, os.O_PATH)) for path in [*(path for path, _ in visible), "/dev"]]
    mount("sandbox", _ROOT, "tmpfs", MS_NOSUID | MS_NODEV, f"{limits},mode=755")
    for (_, source), (path, target) in zip(sources, visible, strict=False):
        if os.path.islink(path):  # /bin and /lib are links to folders in /usr
            os.symlink(os.readlink(path), _ROOT + target)
            continue
        os.makedirs(_ROOT + target, exist_ok=True)
        mount(f"/proc/self/fd/{source}", _ROOT + target, flags=MS_BIND | MS_REC)
        set_mount(_ROOT + target, READ_ONLY | NO_SUID | NO_DEVICES, recursive=True)
    for path in hidden:
        mount("hidden", _ROOT + path, "tmpfs", MS_NOSUID | MS_NODEV, "size=4096,nr_inodes=1")
        set_mount(_ROOT + path, READ_ONLY, recursive=False)
    os.mkdir(f"{_ROOT}/dev")
    for name in _DEVICES:
        os.close(os.open(f"{_ROOT}/dev/{name}", os.O_CREAT | os.O_WRONLY))
        mount(f"/proc/self/fd/{sources[-1][1]}/{name}", f"{_ROOT}/dev/{name}", flags=MS_BIND)
    for name, target in STREAMS.items():
        os.symlink(target, f"{_ROOT}/dev/{name}")
    os.mkdir(f"{_ROOT}/proc")
    try:
        mount("proc", f"{_ROOT}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except OSError:  # refused in some containers; the folder stays empty
        print("no /proc in the sandbox", file=sys.stderr)
    os.mkdir(f"{_ROOT}/tmp")
    mount("tmp", f"{_ROOT}/tmp", "tmpfs", MS_NOSUID | MS_NODEV, f"{limits},mode=1777")
    set_mount(_ROOT, READ_ONLY, recursive=False)
    for _, source in sources:
        os.close(source)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
