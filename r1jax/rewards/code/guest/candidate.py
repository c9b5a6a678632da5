"""Runs a candidate program: as a whole with standard input, or as a module whose functions are called."""

from __future__ import annotations

import atexit
import os
import sys
import types

from . import inert, limits, system_call_filter, system_calls
from .channel import Channel

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing takes longer than all else here
    from typing import Any

_NAME = "solution"
_TEXT = 300  # characters of an error message
# Functions that the test code applies to kept objects.
_BUILTIN: dict[str, Any] = {"builtins.list": list, "builtins.len": len}


def _confine(alone: bool, largest: int) -> None:
    """The last limits of this process, before it executes a candidate program."""
    if sys.platform == "linux":  # which lets it read its own entry in /proc
        system_calls.prctl(system_calls.PR_SET_DUMPABLE, 1)
    limits.set_file_size(largest)
    system_call_filter.install(alone)


def run(source: str, text: str, channel: Channel, alone: bool, largest: int) -> list[Any]:
    """The standard output of a program that reads ``text``, and its exit status: ["output", hex, status].

    largest: bytes of standard output and of each file. alone: as of system_call_filter.install.
    """
    given, printed = _unnamed(text.encode()), _unnamed(b"")
    guest = os.getpid()
    child = os.fork()
    if not child:
        status = 1
        try:
            system_calls.end_with_parent()  # which a fork resets
            if os.getppid() != guest:
                os._exit(1)
            os.dup2(given, 0)
            os.dup2(printed, 1)
            channel.close()
            _confine(alone, largest)
            _execute(source, "__main__")
            status = 0
        except SystemExit as stop:
            status = 0 if stop.code in (None, 0) else 1
        finally:
            try:
                _finish()
            except BaseException:
                status = 1
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    size = os.fstat(printed).st_size
    output = os.pread(printed, size, 0)
    os.close(given)
    os.close(printed)
    return ["output", output.hex(), os.waitstatus_to_exitcode(ended)]


class Objects:
    """The names of a loaded program, and the objects that could not be sent, by number."""

    def __init__(self) -> None:
        self._names: dict[str, Any] = {}
        self._kept: list[Any] = []

    def load(self, source: str, alone: bool, largest: int) -> list[Any]:
        """Executes a program as a module: ["loaded"], or ["raised", type, text]."""
        _confine(alone, largest)
        try:
            self._names = _execute(source, _NAME)
        except BaseException as error:
            return _raised(error)
        return ["loaded"]

    def call(self, target: str | int, arguments: list[Any], keywords: dict[str, Any]) -> list[Any]:
        """Calls a function by name, or a kept object by number: ["value", tree], or ["raised", type, text]."""
        try:
            function = self._find(target) if isinstance(target, str) else self._kept[target]
            given = [inert.unpack(one, self._object) for one in arguments]
            named = {name: inert.unpack(one, self._object) for name, one in keywords.items()}
            return ["value", inert.pack(function(*given, **named), self._keep)]
        except BaseException as error:
            return _raised(error)

    def _find(self, name: str) -> Any:
        """The function of a name; without one, the method of this name of a class Solution."""
        if name in _BUILTIN:
            return _BUILTIN[name]
        if name in self._names:
            return self._names[name]
        if "Solution" in self._names:
            return getattr(self._names["Solution"](), name)
        raise NameError(f"name {name!r} is not defined")

    def _object(self, number: int, *_: Any) -> Any:
        return self._kept[number]

    def _keep(self, value: Any) -> int:
        self._kept.append(value)
        return len(self._kept) - 1


def _execute(source: str, name: str) -> dict[str, Any]:
    module = types.ModuleType(name)
    module.__file__ = f"{name}.py"
    sys.modules[name] = module
    exec(compile(source, module.__file__, "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


def _finish() -> None:
    """Does what an interpreter does at the end of a program, for the sake of all that it has yet to print."""
    if threading := sys.modules.get("threading"):
        threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr, sys.__stdout__):
        if stream is not None and not stream.closed:
            stream.flush()
    sys.modules["__main__"].__dict__.clear()  # files that are still open are written to when they are freed


def _raised(error: BaseException) -> list[Any]:
    try:
        text = str(error)[:_TEXT]
    except BaseException:
        text = ""
    return ["raised", type(error).__name__, text]


def _unnamed(data: bytes) -> int:
    """A file without a name that holds ``data``: in memory, or in the working folder."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("")
    else:
        path = f".{os.getpid()}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.unlink(path)
    while data:
        data = data[os.write(fd, data) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
