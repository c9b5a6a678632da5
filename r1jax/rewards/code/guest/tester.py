"""Runs test code in a sandbox of its own; the functions that it tests are in another one.

A call of such a function goes to the judge, which passes it on. What comes back is an inert value, so a candidate
program cannot change the test, and its objects are never compared here.
"""

from __future__ import annotations

import builtins
import sys
import types

from . import inert, system_call_filter
from .channel import Channel

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing takes longer than all else here
    from collections.abc import Iterator
    from typing import Any, NoReturn


class Handle:
    """An object of the candidate that did not cross. It can be given back in a call, called, and iterated over."""

    def __init__(self, number: int, channel: Channel) -> None:
        self._number, self._channel = number, channel

    def __iter__(self) -> Iterator[Any]:
        """The items, of which the other sandbox makes a list."""
        return iter(_call(self._channel, "builtins.list", (self,), {}))

    def __len__(self) -> int:
        """The length, as the other sandbox computes it."""
        return _call(self._channel, "builtins.len", (self,), {})

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Calls the object in its own sandbox."""
        return _call(self._channel, self._number, arguments, keywords)

    def _refuse(self, *_: Any) -> NoReturn:
        raise TypeError("the candidate's value is not a plain value")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = _refuse
    __hash__ = None  # pyright: ignore[reportAssignmentType]


def run(channel: Channel, setup: str, tests: list[str], remote: list[str], alone: bool) -> None:
    """Executes each test after the setup, and sends ["result", passed] for each.

    remote: names that are the candidate's even if the setup defines them. Names that neither the setup nor Python
    defines are the candidate's, too. alone: as of system_call_filter.install.
    """
    system_call_filter.install(alone)
    module = types.ModuleType("tests")
    sys.modules["tests"] = module
    names = module.__dict__
    codes = []
    try:
        exec(compile(setup, "setup.py", "exec", dont_inherit=True), names)
        codes = [compile(test, "test.py", "exec", dont_inherit=True) for test in tests]
    except BaseException as error:
        channel.send(["broken", f"{type(error).__name__}: {error}"])
        return
    used = {name for code in codes for name in _names(code)}
    for name in {*remote, *(name for name in used if name not in names and not hasattr(builtins, name))}:
        names[name] = _function(channel, name)
    for code in codes:
        try:
            exec(code, names)
            passed = True
        except BaseException:
            passed = False
        channel.send(["result", passed])


def _names(code: types.CodeType) -> set[str]:
    """The global names and attributes that some code uses, also in its functions."""
    inner = [one for one in code.co_consts if isinstance(one, types.CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def _function(channel: Channel, name: str) -> Any:
    return lambda *arguments, **keywords: _call(channel, name, arguments, keywords)


def _call(channel: Channel, target: str | int, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    def number(value: Any) -> int:
        if isinstance(found := getattr(value, "_number", None), int):
            return found
        raise TypeError(f"{type(value).__name__} is not a plain value, so it cannot be an argument")

    given = [inert.pack(one, number) for one in arguments]
    named = [[name, inert.pack(one, number)] for name, one in keywords.items()]
    channel.send(["call", target, given, named])
    match channel.receive():
        case "value", tree:
            return inert.unpack(tree, lambda index, *plain: _object(index, plain, channel))
        case _, kind, text:
            found = getattr(builtins, kind, None)
            if isinstance(found, type) and issubclass(found, Exception):
                raise found(text)
            raise RuntimeError(text)


def _object(number: int, plain: tuple[Any, ...], channel: Channel) -> Any:
    """An object of the candidate: of a subclass of its plain value's type, if it has one, and else a Handle."""
    if not plain:
        return Handle(number, channel)
    return type("Object", (type(plain[0]),), {"_number": number})(plain[0])
