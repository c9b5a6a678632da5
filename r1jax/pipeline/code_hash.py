"""A hash of the code of a user's function, so that a stage runs again after its function has changed."""

from __future__ import annotations

import dataclasses
import dis
import functools
import hashlib
import inspect
import json
import platform
import sys
import sysconfig
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...))
_INSTALLED = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
# Flags of the kinds of arguments, of generators and of coroutines.
_FLAGS = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS | inspect.CO_GENERATOR | inspect.CO_COROUTINE


def function_name(function: Callable[..., Any]) -> str:
    """MODULE:NAME of a function, of the function in a functools.partial, or of the class of another callable."""
    while isinstance(function, functools.partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"


def code_hash(function: Callable[..., Any]) -> str | None:
    """PYTHON:HASH, the minor version and a hash of the instructions; None for a function of this package or a library.

    The hash covers constants, defaults, closures, the arguments of functools.partial, and the functions, classes and
    constants of the user's own modules that the code names, recursively. It does not cover comments, docstrings, line
    numbers, imports inside a function, and lists, dicts and sets in its closure, since the function may change them.
    """
    read = _Reader().read(function)
    if read in (_reference(function), _reference(inspect.unwrap(function))):
        return None
    text = json.dumps(read, sort_keys=True)
    python = ".".join(platform.python_version_tuple()[:2])
    return f"{python}:{hashlib.sha256(text.encode()).hexdigest()}"


def comparable(old: str | None, new: str | None) -> bool:
    """True if both hashes come from the same version of Python; instructions differ between versions."""
    return old is None or new is None or old.partition(":")[0] == new.partition(":")[0]


def _is_own(name: str | None) -> bool:
    """True if a module belongs to the user: it is neither part of this package nor installed."""
    if name == "__main__":
        return True
    module = sys.modules.get(name or "")
    if module is None or name is None or name.partition(".")[0] == "r1jax" or name in sys.builtin_module_names:
        return False
    file = getattr(module, "__file__", None)
    return file is None or not any(Path(file).is_relative_to(folder) for folder in _INSTALLED)


def _reference(value: Any) -> list[str]:
    return [
        "name",
        str(getattr(value, "__module__", None)),
        str(getattr(value, "__qualname__", type(value).__qualname__)),
    ]


class _Reader:
    """Converts values to JSON; a function or class that occurs again is represented by its name."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def read(self, value: Any, mutable: bool = True) -> Any:
        """A value as JSON. mutable: read the contents of lists, dicts and sets, too, instead of their type only."""
        if isinstance(value, _PLAIN):
            return [type(value).__name__, repr(value)]
        if isinstance(value, tuple):
            return ["tuple", *(self.read(one, mutable) for one in value)]
        if isinstance(value, frozenset) or (isinstance(value, set) and mutable):
            return ["set", *sorted((self.read(one) for one in value), key=json.dumps)]
        if isinstance(value, list) and mutable:
            return ["list", *(self.read(one) for one in value)]
        if isinstance(value, Mapping) and mutable:
            return ["dict", *([self.read(key), self.read(one)] for key, one in value.items())]
        if isinstance(value, Path):
            return ["path", str(value)]
        if isinstance(value, types.CodeType):
            return self._code(value)
        if isinstance(value, functools.partial):
            return ["partial", self.read(value.func), self.read(value.args), self.read(value.keywords)]
        if isinstance(value, types.MethodType):
            return ["method", self.read(value.__func__), self.read(value.__self__, mutable=False)]
        if isinstance(value, staticmethod | classmethod):
            return [type(value).__name__, self.read(value.__func__)]
        if isinstance(value, property):
            return ["property", *(self.read(one) for one in (value.fget, value.fset))]
        if isinstance(value, types.FunctionType):
            return self._once(value, self._function)
        if isinstance(value, type):
            return self._once(value, self._class)
        if (wrapped := getattr(value, "__wrapped__", None)) is not None:  # jax.jit, functools.lru_cache
            return self.read(wrapped)
        if dataclasses.is_dataclass(value):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            return ["instance", self.read(type(value)), self.read(fields)]
        if callable(value) and _is_own(type(value).__module__):
            return ["callable", self.read(type(value))]
        return _reference(value)

    def _once(self, value: Any, read: Callable[[Any], Any]) -> Any:
        if not _is_own(value.__module__):
            return _reference(value)
        if id(value) in self._seen:
            return ["again", value.__qualname__]
        self._seen.add(id(value))
        return read(value)

    def _function(self, function: types.FunctionType) -> Any:
        cells = [self._cell(cell) for cell in function.__closure__ or ()]
        defaults = [self.read(one, mutable=False) for one in (function.__defaults__, function.__kwdefaults__)]
        named = self._named(function.__code__, function.__globals__)
        return ["function", self._code(function.__code__), defaults, cells, named]

    def _cell(self, cell: types.CellType) -> Any:
        try:
            return self.read(cell.cell_contents, mutable=False)
        except ValueError:  # not yet filled
            return "empty"

    def _class(self, cls: type) -> Any:
        members = {
            name: self.read(member)
            for name, member in sorted(vars(cls).items())
            if not name.startswith("__") or isinstance(member, types.FunctionType)
        }
        return ["class", [self.read(base) for base in cls.__bases__], members]

    def _code(self, code: types.CodeType) -> Any:
        steps = [[s.opname, self.read(s.argval)] for s in dis.get_instructions(code) if s.opname != "EXTENDED_ARG"]
        arguments = [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & _FLAGS]
        return ["code", arguments, list(code.co_varnames), steps, code.co_exceptiontable.hex()]

    def _named(self, code: types.CodeType, space: Mapping[str, Any]) -> Any:
        """The globals that the code and its inner functions name, and the attributes of the user's modules."""
        steps = list(dis.get_instructions(code))
        attributes = {step.argval for step in steps if step.opname in ("LOAD_ATTR", "LOAD_METHOD")}
        named = {}
        for name in sorted(
            {step.argval for step in steps if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")} & space.keys()
        ):
            value = space[name]
            if isinstance(value, types.ModuleType):
                inner = vars(value) if _is_own(value.__name__) else {}
                named[name] = {
                    attribute: self.read(inner[attribute]) for attribute in sorted(attributes & inner.keys())
                }
            else:
                named[name] = self.read(value)
        inner_codes = [one for one in code.co_consts if isinstance(one, types.CodeType)]
        return [named, *(self._named(one, space) for one in inner_codes)]
