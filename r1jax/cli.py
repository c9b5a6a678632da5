"""Command lines of frozen dataclasses: presets, a flag for each field, and one-line errors."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import difflib
import functools
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

from r1jax.errors import STORAGE, UserError, describe
from r1jax.flag_names import explain
from r1jax.pipes import ends_with_reader
from r1jax.stopping import Stopped, stoppable

Config = TypeVar("Config")

# A union of dataclasses keeps the type of the preset, and a boolean is --flag, --flag=true or --flag=false.
_MARKERS = (tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)
_TYPES = ConstructorRegistry()
_PYTHON_FORMAT = warnings.formatwarning
CLASS = "class"  # key of the class of a part that is chosen by name, in JSON


@dataclasses.dataclass(frozen=True)
class Named:
    """Annotates a part of a config that ``--PART=NAME`` replaces as a whole, before other flags change its fields.

    settings: pairs of a name and a frozen dataclass.
    help: a sentence for ``--help``.
    """

    settings: tuple[tuple[str, Any], ...]
    help: str = "Named settings that replace those of the preset."


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
    """Parses a command line: a preset, changed by ``--field=value`` or ``--field value``.

    Nested fields are dotted (``--rl.learning-rate=1e-6``), with - or _. Fields of a part annotated with
    tyro.conf.arg(name="") have no prefix of that part, and ``--PART=NAME`` selects the settings of a part annotated
    with Named. ``--help`` prints the flags with the defaults of the selection and ends the process with status 0.

    Args:
      presets: name -> (one-line description, config); the configs are frozen dataclasses of one type.
      default: the preset if ``--preset`` is not given.
      args: the words after the name of the program; None reads sys.argv.
      prog: name of the program in ``--help``.
      description: first line of ``--help``.

    Raises:
      UserError: if a flag, value or name is wrong.
    """
    given = list(sys.argv[1:] if args is None else args)
    names = [words[1] for words in _by_flag(given) if words[0] == "--preset" and len(words) > 1]
    chosen = next((n for n in reversed(names) if n in presets), default)  # a wrong name fails below
    config = presets[chosen][1]
    parts = dict(_named_parts(config))
    for flag, *values in _by_flag(given):
        if flag in parts and values:
            settings = dict(parts[flag].settings)
            if values[0] not in settings:
                raise UserError(f"{flag}={values[0]}: expected {_describe(Literal[tuple(settings)])} (see --help)")
            config = _replace(config, flag.removeprefix("--").replace("-", "_").split("."), settings[values[0]])

    lines = (f"{name}: {line}" for name, (line, _) in presets.items())
    about = "\n".join(["The preset whose settings the other flags change.", *lines])
    preset_names = Literal[tuple(presets)]
    flags = _flags(config) | {"--preset": preset_names}
    command: Any = dataclasses.make_dataclass(
        "Command",
        [
            ("preset", Annotated[preset_names, tyro.conf.arg(help=about)]),
            *(_choice(flag, parts[flag]) for flag in parts),
            ("config", Annotated[type(config), tyro.conf.arg(name="")]),  # no prefix
        ],
        frozen=True,
    )
    try:
        # tyro reports an error in a box of many lines; _reason determines the cause and describes it in one line.
        with contextlib.redirect_stderr(io.StringIO()):
            result, unknown = tyro.cli(
                command,
                prog=prog,
                description=description or "",
                args=given,
                default=command(chosen, *[None] * len(parts), config),
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


def call_and_exit(
    main: Callable[[], object], farewell: str = "stopped", call: Callable[[Callable[[], object], str], None] = stoppable
) -> NoReturn:
    """Calls main and ends the process: status 0, 2 after one ``error:`` line, 130 after Ctrl-C, 143 after SIGTERM.

    The status is 141 if nothing reads the output any more (r1jax.pipes). The ``error:`` line reports a UserError or one
    of errors.STORAGE, such as a full disk. ``farewell`` is printed when Ctrl-C or SIGTERM ends the process at once
    (r1jax.stopping). Warnings to users are single lines, printed once. ``call`` calls main and handles signals:
    stoppable, or call_in_main_thread for a command that reads the terminal.
    """
    warnings.filterwarnings("once", category=UserWarning)
    warnings.formatwarning = _format_warning
    with ends_with_reader():
        try:
            call(main, farewell)
        except (UserError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in STORAGE:
                raise
            print(f"error: {_one_line(describe(error))}", file=sys.stderr)
            sys.exit(2)
        except Stopped as stopped:
            print(f"{stopped}; the same command resumes from there")
            sys.exit(stopped.status)
        except KeyboardInterrupt:
            sys.exit(130)
        sys.exit(0)


def to_json(config: Any) -> str:
    """A config as indented JSON: tuples become lists; paths and non-finite numbers ("inf", "nan") become text."""
    return json.dumps(_plain(config), indent=2, allow_nan=False) + "\n"


def diff(old: Any, new: Any) -> dict[str, tuple[Any, Any]]:
    """Dotted path -> (old, new) of each field that differs. Both arguments are configs or the parsed JSON of configs.

    A missing field is None.
    """
    a, b = dict(_leaves(_plain(old))), dict(_leaves(_plain(new)))
    return {path: (a.get(path), b.get(path)) for path in a | b if a.get(path) != b.get(path)}


def defaults(config: Any) -> dict[str, Any]:
    """Dotted path -> default, as JSON, of all fields of a config that have one, including those of nested configs."""
    found: dict[str, Any] = {}
    parts = config if isinstance(config, Mapping) else {}
    if dataclasses.is_dataclass(config):
        for field in dataclasses.fields(config):
            if field.default is not dataclasses.MISSING:
                found |= dict(_leaves(_plain_field(config, field.name, field.default), field.name))
            elif field.default_factory is not dataclasses.MISSING:
                found |= dict(_leaves(_plain_field(config, field.name, field.default_factory()), field.name))
            else:
                parts = {**parts, field.name: getattr(config, field.name)}
    return found | {f"{name}.{path}": value for name, part in parts.items() for path, value in defaults(part).items()}


def _plain(value: Any) -> Any:
    """A config, or a part of one, in the types of JSON."""
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: _plain_field(value, name, getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(inner) for inner in value]
    if isinstance(value, Path) or (isinstance(value, float) and not math.isfinite(value)):
        return str(value)
    return value


def _plain_field(config: Any, name: str, value: Any) -> Any:
    """A value of a field as JSON. A part annotated with Named includes its class, since classes may share fields."""
    plain = _plain(value)
    if any(isinstance(extra, Named) for extra in _annotations(type(config)).get(name, ())):
        return {CLASS: type(value).__name__, **plain}
    return plain


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of each leaf; a list is one leaf."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else key)
    else:
        yield path, value


def _flags(config: Any, prefix: str = "--") -> dict[str, Any]:
    """Flag -> type of each field of a config and of the dataclasses inside it, and of the names of parts."""
    found: dict[str, Any] = {flag: Literal[tuple(dict(named.settings))] for flag, named in _named_parts(config, prefix)}
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        flag, value, hint = prefix + field.name.replace("_", "-"), getattr(config, field.name), hints[field.name]
        if dataclasses.is_dataclass(value):
            inner = prefix if _is_flat(config, field.name) else f"{flag}."
            found |= _flags(value, f"--{field.name}." if _has_own_prefix(config, field.name) else inner)
        elif not any(map(dataclasses.is_dataclass, typing.get_args(hint))):  # an absent part has no flags
            each = tyro.conf.UseAppendAction in _annotations(type(config)).get(field.name, ())
            found[flag] = typing.get_args(hint)[0] if each else hint  # a flag that is repeated has one value
    return found


@functools.cache
def _annotations(kind: type) -> dict[str, tuple[Any, ...]]:
    """Annotations of the fields of a dataclass, beside their types."""
    try:
        hints = typing.get_type_hints(kind, include_extras=True)
    except NameError:  # a type is local to the function that defines the class
        return {}
    return {name: hint.__metadata__ for name, hint in hints.items() if typing.get_origin(hint) is Annotated}


def _is_flat(config: Any, name: str) -> bool:
    """True for a field whose flags have no prefix for it."""
    return any(getattr(extra, "name", None) == "" for extra in _annotations(type(config)).get(name, ()))


def _has_own_prefix(config: Any, name: str) -> bool:
    """True for a field whose flags have its name alone as their prefix, without that of the part around it."""
    return any(getattr(extra, "prefix_name", None) is False for extra in _annotations(type(config)).get(name, ()))


def _named_parts(config: Any, prefix: str = "--") -> Iterator[tuple[str, Named]]:
    """Flag and names of each part of a config that may be chosen by name."""
    for field in dataclasses.fields(config):
        flag, value = prefix + field.name.replace("_", "-"), getattr(config, field.name)
        for extra in _annotations(type(config)).get(field.name, ()):
            if isinstance(extra, Named):
                yield flag, extra
        if dataclasses.is_dataclass(value):
            yield from _named_parts(value, f"{flag}.")


def _choice(flag: str, part: Named) -> tuple[str, Any]:
    """A field that shows the flag of a part that may be chosen by name; ``parse`` reads its value beforehand."""
    name, names = flag.removeprefix("--"), tuple(dict(part.settings))
    metavar, default = "{" + ",".join(names) + "}", "(default: the settings of the preset)"
    shown = tyro.conf.arg(name=name, help=part.help, metavar=metavar, help_behavior_hint=default)
    return name.replace("-", "_").replace(".", "_"), Annotated[Literal[names] | None, shown]


def _replace(config: Any, path: Sequence[str], value: Any) -> Any:
    """The config with another value of the field at ``path``, unchecked: other flags are applied after it."""
    changed = copy.copy(config)
    inner = _replace(getattr(config, path[0]), path[1:], value) if len(path) > 1 else value
    object.__setattr__(changed, path[0], inner)
    return changed


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
    """The reason why tyro failed: a flag whose values do not match its type, or else the error of a config's check."""
    for flag, *values in _by_flag(args):
        if flag in flags and not _fits(values, flags[flag]):
            given = f"{flag}={' '.join(values)}" if values else f"{flag} has no value"
            return f"{given}: expected {_describe(flags[flag])}"
    error: BaseException | None = stop
    while error and not isinstance(error, ValueError):
        error = error.__context__
    return _one_line(error or "these flags cannot be combined")


def _fits(values: Sequence[str], hint: Any) -> bool:
    """True if tyro can parse the values as the type."""
    probe: Any = dataclasses.make_dataclass("Probe", [("value", hint)])
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            tyro.cli(probe, args=["--value", *values], return_unknown_args=True, config=_MARKERS, registry=_TYPES)
    except SystemExit:
        return False
    return True


def _unknown(word: str, flags: Mapping[str, Any]) -> str:
    """Describes the error of a word that tyro did not parse."""
    flag = word.partition("=")[0].replace("_", "-")
    hint = explain(flag, flags)
    if not flag.startswith("--"):
        known = hint and (flag.startswith("-") or "=" in word)  # otherwise it may be an extra value
        return f"{word}: not a flag, write --flag=value or --flag value" + (f"; {hint}" if known else "")
    if not hint and (near := difflib.get_close_matches(flag, flags, n=1)):
        hint = f"did you mean {near[0]}?"
    return f"{flag}: no such flag" + (f"; {hint}" if hint else "")


def _describe(hint: Any) -> str:
    """A type in words, to follow "expected"."""
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
    """Formats a UserWarning as one line, and other warnings, which are for developers, as Python does."""
    if category is UserWarning:
        return f"warning: {_one_line(message)}\n"
    return _PYTHON_FORMAT(message, category, filename, lineno, line)


def _one_line(message: object) -> str:
    return " ".join(str(message).split())
