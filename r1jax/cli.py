"""The command line is a frozen dataclass: presets to start from, a flag for every field, one line for a mistake."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import errno
import io
import json
import math
import sys
import types
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from r1jax.errors import UserError
from r1jax.flag_names import explain
from r1jax.stopping import Stopped, stoppable

Config = TypeVar("Config")

# A union of dataclasses keeps the kind its preset has, and a switch is --flag, --flag=true or --flag=false.
_MARKERS = (tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)
_TYPES = ConstructorRegistry()
_PYTHON_FORMAT = warnings.formatwarning
# What is wrong with a disk or a folder, and not with the program.
_STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


@_TYPES.primitive_rule
def _switch(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[bool] | None:
    def read(words: list[str]) -> bool:
        if len(words) > 1 or (words and words[0].lower() not in ("true", "false")):
            raise ValueError(f"{' '.join(words)} is neither true nor false")
        return not words or words[0].lower() == "true"

    if info.type is not bool:
        return None
    return PrimitiveConstructorSpec(
        nargs=(0, 1),
        metavar="[true|false]",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, bool),
        str_from_instance=lambda value: [str(value).lower()],
    )


def parse(
    presets: Mapping[str, tuple[str, Config]],
    default: str,
    args: Sequence[str] | None = None,
    prog: str | None = None,
    description: str | None = None,
) -> Config:
    """The config that a command line asks for: a preset, changed by ``--field=value`` or ``--field value``.

    presets: name -> (one line about it, its config); the configs are frozen dataclasses of one type.
    default: the preset where ``--preset`` is not given.
    args: the words after the program's name; None takes them from sys.argv.

    Nested fields are dotted (``--rl.learning-rate=1e-6``), with - or _. ``--help`` prints the flags with the defaults
    of the chosen preset and ends the process with status 0. Raises UserError on a wrong flag, value or preset.
    """
    given = list(sys.argv[1:] if args is None else args)
    names = [words[1] for words in _by_flag(given) if words[0] == "--preset" and len(words) > 1]
    chosen = next((n for n in reversed(names) if n in presets), default)  # a wrong name is refused with the values

    about = "\n".join(["the settings to start from", *(f"{name}: {line}" for name, (line, _) in presets.items())])
    flags = _flags(presets[chosen][1]) | {"--preset": Literal[tuple(presets)]}
    command: Any = dataclasses.make_dataclass(
        "Command",
        [
            ("preset", Annotated[Literal[tuple(presets)], tyro.conf.arg(help=about)]),
            ("config", Annotated[type(presets[chosen][1]), tyro.conf.arg(name="")]),  # no prefix of its own
        ],
        frozen=True,
    )
    try:
        # tyro explains a mistake in a box of many lines; _reason finds the cause anew and says it in one.
        with contextlib.redirect_stderr(io.StringIO()):
            result, unknown = tyro.cli(
                command,
                prog=prog,
                description=description or "",
                args=given,
                default=command(chosen, presets[chosen][1]),
                return_unknown_args=True,
                config=_MARKERS,
                registry=_TYPES,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(f"{_reason(given, flags, stop)} (see --help)") from None
    if unknown:
        raise UserError(f"{_unknown(unknown[0], flags)} (see --help)")
    return result.config


def call_and_exit(main: Callable[[], object], farewell: str = "stopped") -> NoReturn:
    """Calls main and ends the process: status 0, 2 after one ``error:`` line, 130 after Ctrl-C, 143 after SIGTERM.

    That line is for a UserError, and for a disk that is full or a folder that may not be written. farewell: printed
    where Ctrl-C or SIGTERM ends the process at once (r1jax.stopping). A warning to users is a line too, printed once.
    """
    warnings.filterwarnings("once", category=UserWarning)
    warnings.formatwarning = _format_warning
    try:
        stoppable(main, farewell)
    except UserError as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in _STORAGE:
            raise
        print(f"error: {_one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except Stopped as stopped:
        print(f"{stopped}; the same command goes on from there")
        sys.exit(stopped.status)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def to_json(config: Any) -> str:
    """A config as indented JSON: tuples become lists, paths text, and numbers that JSON lacks ("inf", "nan") text."""
    return json.dumps(_plain(config), indent=2, allow_nan=False) + "\n"


def diff(old: Any, new: Any) -> dict[str, tuple[Any, Any]]:
    """Dotted path -> (old, new) of each field that differs; either side is a config or the parsed JSON of one.

    A field that one side lacks is None there.
    """
    a, b = dict(_leaves(_plain(old))), dict(_leaves(_plain(new)))
    return {path: (a.get(path), b.get(path)) for path in a | b if a.get(path) != b.get(path)}


def defaults(config: Any) -> dict[str, Any]:
    """Dotted path -> default, as JSON, of the fields of a config that have one; those of a part without one, too."""
    found: dict[str, Any] = {}
    parts = config if isinstance(config, Mapping) else {}
    if dataclasses.is_dataclass(config):
        for field in dataclasses.fields(config):
            if field.default is not dataclasses.MISSING:
                found |= dict(_leaves(_plain(field.default), field.name))
            elif field.default_factory is not dataclasses.MISSING:
                found |= dict(_leaves(_plain(field.default_factory()), field.name))
            else:
                parts = {**parts, field.name: getattr(config, field.name)}
    return found | {f"{name}.{path}": value for name, part in parts.items() for path, value in defaults(part).items()}


def _plain(value: Any) -> Any:
    """A config, or a part of one, in the types of JSON."""
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(inner) for inner in value]
    if isinstance(value, Path) or (isinstance(value, float) and not math.isfinite(value)):
        return str(value)
    return value


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of each leaf; a list is one leaf."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else key)
    else:
        yield path, value


def _flags(config: Any, prefix: str = "--") -> dict[str, Any]:
    """Flag -> type of each field of a config and of the dataclasses inside it."""
    found = {}
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        flag, value, hint = prefix + field.name.replace("_", "-"), getattr(config, field.name), hints[field.name]
        if dataclasses.is_dataclass(value):
            found |= _flags(value, f"{flag}.")
        elif not any(map(dataclasses.is_dataclass, typing.get_args(hint))):  # an absent part has no flags
            found[flag] = hint
    return found


def _by_flag(args: Sequence[str]) -> list[list[str]]:
    """The words of a command line, each flag with its values: ["--a=b", "--c", "d"] -> [["--a", "b"], ["--c", "d"]]."""
    groups: list[list[str]] = [[]]
    for word in args:
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            groups.append([flag.replace("_", "-"), *([value] if equals else [])])
        else:
            groups[-1].append(word)
    return [words for words in groups if words]


def _reason(args: Sequence[str], flags: Mapping[str, Any], stop: BaseException) -> str:
    """Why tyro refused: the flag whose values do not fit its type, else what the config's own checks raised."""
    for flag, *values in _by_flag(args):
        if flag in flags and not _fits(values, flags[flag]):
            given = f"{flag}={' '.join(values)}" if values else f"{flag} has no value"
            return f"{given}: expected {_describe(flags[flag])}"
    error: BaseException | None = stop
    while error and not isinstance(error, ValueError):
        error = error.__context__
    return _one_line(error or "these flags do not go together")


def _fits(values: Sequence[str], hint: Any) -> bool:
    """Whether tyro can read values as the type."""
    probe: Any = dataclasses.make_dataclass("Probe", [("value", hint)])
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            tyro.cli(probe, args=["--value", *values], return_unknown_args=True, config=_MARKERS, registry=_TYPES)
    except SystemExit:
        return False
    return True


def _unknown(word: str, flags: Mapping[str, Any]) -> str:
    """What is wrong with a word that tyro left over."""
    flag = word.partition("=")[0].replace("_", "-")
    there = explain(flag, flags)
    if not flag.startswith("--"):
        known = there and (flag.startswith("-") or "=" in word)  # else a value too many, which may be any word
        return f"{word}: belongs to no flag, write --flag=value or --flag value" + (f"; {there}" if known else "")
    if not there and (near := difflib.get_close_matches(flag, flags, n=1)):
        there = f"did you mean {near[0]}?"
    return f"{flag}: no such flag" + (f"; {there}" if there else "")


def _describe(hint: Any) -> str:
    """A type in words, for the end of a sentence that begins with "expected"."""
    inner = typing.get_args(hint)
    match typing.get_origin(hint):
        case typing.Literal:
            return "one of " + ", ".join(map(str, inner))
        case typing.Union | types.UnionType:
            return " or ".join(_describe(option) for option in inner)
        case builtin if builtin is tuple and inner[-1] is Ellipsis:
            return f"values separated by spaces, each {_describe(inner[0])}"
        case builtin if builtin is tuple:
            return ", then ".join(_describe(part) for part in inner)
    words = {int: "a whole number", float: "a number", str: "text", Path: "a path", bool: "true or false"}
    return words.get(hint) or ("None" if hint is types.NoneType else getattr(hint, "__name__", str(hint)))


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """One line of a warning to users; others, which are for programmers, as Python has them."""
    if category is UserWarning:
        return f"warning: {_one_line(message)}\n"
    return _PYTHON_FORMAT(message, category, filename, lineno, line)


def _one_line(message: object) -> str:
    return " ".join(str(message).split())
