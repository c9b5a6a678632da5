"""The levels of isolation, and which of them this system can give."""

from __future__ import annotations

import functools
import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

from r1jax.errors import UserError
from r1jax.rewards.code.config import LEVELS, CodeConfig, Level
from r1jax.rewards.code.guest import file_access, namespaces

GUEST = Path(__file__).parent / "guest"
_INSIDE = "/sandbox"  # the folder that holds the guest in a sandbox with a root of its own
_SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/lib32", "/nix/store")
_DEVICES = ("null", "zero", "full", "random", "urandom")
SIZE = 16 * 2**20  # bytes of /tmp


def choose_level(config: CodeConfig) -> Level:
    """The level that ``config.isolation`` demands, or the strongest that works here.

    Warns if limits alone remain. The result is remembered for this process.

    Raises:
      UserError: if the demanded level does not work here.
    """
    if config.isolation != "auto":
        if reason := missing(config.isolation):
            raise UserError(
                f"code.isolation={config.isolation} does not work here ({reason}): use another level, or auto"
            )
        return config.isolation
    reasons = {}
    for level in LEVELS:
        if not (reason := missing(level)):
            if level == "rlimits":
                why = "; ".join(f"{name}: {reasons[name]}" for name in reasons)
                left = "processes" if file_access.version() else "files and processes"
                warnings.warn(
                    f"candidate programs run under limits alone, which leave this user's {left} readable "
                    f"({why}): install bubblewrap, or demand a level with --code.isolation",
                    stacklevel=2,
                )
            return level
        reasons[level] = reason
    raise UserError(f"no sandbox works here ({'; '.join(reasons.values())}): use Linux or macOS")


@functools.cache
def missing(level: Level) -> str:
    """Why a level does not work here; "" if a program ran in it."""
    from r1jax.rewards.code.sandbox import Sandbox, SandboxError  # which builds on this module

    if level == "bwrap" and not shutil.which("bwrap"):
        return "there is no program bwrap"
    if level != "rlimits" and sys.platform != "linux":
        return "it needs Linux"
    try:
        with Sandbox(level, CodeConfig(), 0, keep_errors=True) as sandbox:
            reply = sandbox.ask(("run", "print(input()[::-1])", "ok"), 30.0)
    except SandboxError as error:
        return str(error)
    return "" if reply == ["output", b"ko\n".hex(), 0] else f"a program in it gave {reply!r:.80}"


def command(level: Level, options: dict[str, Any]) -> list[str]:
    """The command that starts a guest with the options of r1jax.rewards.code.guest.main.main."""
    folder = _INSIDE if level == "bwrap" else str(GUEST.parent)
    visible = [(path, path) for path in visible_folders()]
    if level == "bwrap":
        visible.append((str(GUEST), f"{_INSIDE}/guest"))
    options = options | {"level": level, "visible": visible, "hidden": hidden_folders(), "size": SIZE}
    boot = f"import sys; sys.path.append({folder!r}); from guest.main import main; main(**{options!r})"
    python = [interpreter(), "-I", "-S", "-B", "-c", boot]
    if level != "bwrap":
        return python
    new = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    if options["user"] is None:
        # A first process of bubblewrap's own would be open to the program, without limits and filter. With root it is
        # not, and it is needed there: the death of a parent ends only processes that the parent may signal.
        new += ["--unshare-user", "--as-pid-1"]
    else:  # to become another user
        new += [word for name in ("SETUID", "SETGID") for word in ("--cap-add", f"CAP_{name}")]
    # bubblewrap makes missing folders above a mount, but other users may not enter these.
    above = sorted({str(folder) for _, target in [*visible, ("", "/dev/null")] for folder in Path(target).parents})
    mounts = [word for folder in above if folder != "/" for word in ("--perms", "0755", "--dir", folder)]
    for path, target in visible:
        mounts += ["--symlink", os.readlink(path), target] if os.path.islink(path) else ["--ro-bind", path, target]
    for path in options["hidden"]:
        mounts += ["--tmpfs", path, "--remount-ro", path]
    mounts += [word for name in _DEVICES for word in ("--dev-bind", f"/dev/{name}", f"/dev/{name}")]
    mounts += [word for name, to in namespaces.STREAMS.items() for word in ("--symlink", to, f"/dev/{name}")]
    mounts += ["--proc", "/proc", "--perms", "1777", "--size", str(SIZE), "--tmpfs", "/tmp", "--remount-ro", "/"]
    own = ["--die-with-parent", "--new-session", "--hostname", "sandbox", "--chdir", "/"]
    return [shutil.which("bwrap") or "bwrap", *new, *own, *mounts, *python]


def interpreter() -> str:
    """The Python that runs candidates: that of this process, without a virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


@functools.cache
def visible_folders() -> tuple[str, ...]:
    """The folders that a sandbox with a root of its own can read: the system's programs and Python."""
    prefix = os.path.realpath(sys.base_prefix)
    system = [path for path in _SYSTEM if os.path.isdir(path)]
    return (*system, *(() if prefix.startswith("/usr") else (prefix,)))


@functools.cache
def hidden_folders() -> list[str]:
    """Folders below the visible ones that are empty in a sandbox: installed packages, which may hold solutions."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    roots = dict.fromkeys([os.path.realpath(sys.base_prefix), "/usr", "/usr/local"])
    found = [
        f"{root}/lib/{name}" for root in roots for name in (f"{version}/site-packages", f"{version}/dist-packages")
    ]
    return [path for path in [*found, "/usr/lib/python3/dist-packages", "/usr/src"] if os.path.isdir(path)]
