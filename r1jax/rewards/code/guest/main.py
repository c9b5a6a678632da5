"""The program in a sandbox: it confines itself and then answers the judge's requests.

Everything in this process may be changed by the candidate program that it runs. The judge therefore believes nothing
but the values that it receives, and it alone ends the sandbox.
"""

from __future__ import annotations

import builtins
import os
import sys

from . import candidate, file_access, limits, namespaces, system_calls, tester
from .channel import Channel


def main(
    level: str,
    *,
    user: int | None,
    visible: list[tuple[str, str]],
    hidden: list[str],
    folder: str,
    seconds: float,
    memory: int,
    processes: int,
    output: int,
    size: int,
) -> None:
    """Confines this process to its level, and serves requests until the judge closes the channel.

    user: the id to run as; None: the present one. folder: the working folder. output: bytes of standard output, and of
    each file. size: bytes of all files. The others: r1jax.rewards.code.guest.limits.
    """
    if sys.platform == "linux":
        if level != "bwrap":  # which ends this process itself
            system_calls.end_with_parent()
        if level == "unshare":
            namespaces.enter(visible, hidden, size, privileged=user is not None)
    os.chdir(folder)
    channel = Channel()
    rules = None
    if level == "rlimits" and sys.platform == "linux":
        rules = file_access.make_rules([path for path, _ in visible], folder)
    if user is not None:
        if level == "rlimits":
            keep_import_path()
        limits.drop_privileges(user)
    if sys.platform == "linux":
        system_calls.drop_capabilities()
        system_calls.end_with_parent()  # once more, since a change of the user resets it
        if rules is not None:
            file_access.restrict(rules)
        # No filter of system calls is in force yet: other programs of the user must not reach this process's memory.
        system_calls.prctl(system_calls.PR_SET_DUMPABLE, 0)
    limits.set_limits(seconds, memory, processes)
    os.umask(0o077)
    sys.path.pop()  # the guest's own
    sys.argv = ["program.py"]
    builtins.exit = builtins.quit = sys.exit  # of the module site, which is not imported
    channel.send(["ready"])
    serve(channel, alone=level != "rlimits", largest=output)


def keep_import_path() -> None:
    """Keeps Python's modules reachable through open folders, in case another user may not enter a folder above them."""
    for i, path in enumerate(sys.path[:-1]):
        if os.path.isdir(path):
            sys.path[i] = f"/proc/self/fd/{os.open(path, os.O_RDONLY | os.O_DIRECTORY)}"
            for module in list(sys.modules.values()):  # packages that are already imported
                if inner := getattr(module, "__path__", None):
                    module.__path__ = [one.replace(f"{path}/", f"{sys.path[i]}/") for one in inner]


def serve(channel: Channel, alone: bool, largest: int) -> None:
    """Answers one request after another; alone and largest: as of candidate.run."""
    objects = candidate.Objects()
    while True:
        match channel.receive():
            case "run", source, text:
                channel.send(candidate.run(source, text, channel, alone, largest))
            case "load", source:
                channel.send(objects.load(source, alone, largest))
            case "call", target, arguments, keywords:
                channel.send(objects.call(target, arguments, keywords))
            case "test", setup, tests, remote:
                tester.run(channel, setup, tests, remote, alone)
            case other:
                raise ValueError(f"unknown request {other!r}")
