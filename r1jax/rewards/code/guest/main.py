"""The program in a sandbox: it confines itself and then answers the judge's requests.

Everything in this process may be changed by the candidate program that it runs. The judge therefore believes nothing
but the values that it receives, and it alone ends the sandbox.
"""

from __future__ import annotations

import os
import sys

from . import candidate, limits, namespaces, system_calls, tester
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
    if user is not None:
        if level == "rlimits":
            keep_import_path()
        limits.drop_privileges(user)
    if sys.platform == "linux":
        system_calls.drop_capabilities()
        system_calls.end_with_parent()  # once more, since a change of the user resets it
        if user is not None:  # or the process could not read its own entry in /proc
            system_calls.prctl(system_calls.PR_SET_DUMPABLE, 1)
    limits.set_limits(seconds, memory, processes, output)
    os.umask(0o077)
    sys.path.pop()  # the guest's own
    sys.argv = ["program.py"]
    channel.send(["ready"])
    serve(channel, level)


def keep_import_path() -> None:
    """Keeps Python's modules reachable through open folders, in case another user may not enter a folder above them."""
    for i, path in enumerate(sys.path[:-1]):
        if os.path.isdir(path):
            sys.path[i] = f"/proc/self/fd/{os.open(path, os.O_RDONLY | os.O_DIRECTORY)}"
            for module in list(sys.modules.values()):  # packages that are already imported
                if inner := getattr(module, "__path__", None):
                    module.__path__ = [one.replace(f"{path}/", f"{sys.path[i]}/") for one in inner]


def serve(channel: Channel, level: str) -> None:
    """Answers one request after another."""
    objects = candidate.Objects()
    while True:
        match channel.receive():
            case "run", source, text:
                channel.send(candidate.run(source, text, channel, alone=level != "rlimits"))
            case "load", source:
                channel.send(objects.load(source, alone=level != "rlimits"))
            case "call", target, arguments, keywords:
                channel.send(objects.call(target, arguments, keywords))
            case "test", setup, tests, remote:
                tester.run(channel, setup, tests, remote, alone=level != "rlimits")
            case other:
                raise ValueError(f"unknown request {other!r}")
