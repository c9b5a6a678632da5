"""Marks for config fields that may change when a run resumes, and configs read back from JSON."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator
from typing import Any, TypeVar

from r1jax.cli import CLASS

T = TypeVar("T")
_MARK = "on_resume"
MAY_CHANGE, MAY_RISE = "may change", "may rise"


def may_change(default: T) -> T:
    """A dataclass field that changes only how a result is computed: it may change on resume."""
    return dataclasses.field(default=default, metadata={_MARK: MAY_CHANGE})


def may_rise(default: T) -> T:
    """A dataclass field that may rise: a larger value continues a finished stage, a smaller one is another setting."""
    return dataclasses.field(default=default, metadata={_MARK: MAY_RISE})


def marked(settings: Any, mark: str) -> list[str]:
    """Dotted paths of the fields of a config, and of the configs in it, that carry a mark."""
    return sorted(_marked(settings, mark))


def _marked(settings: Any, mark: str, prefix: str = "") -> Iterator[str]:
    if not dataclasses.is_dataclass(settings):
        return
    for field in dataclasses.fields(settings):
        path = prefix + field.name
        if field.metadata.get(_MARK) == mark:
            yield path
        else:
            yield from _marked(getattr(settings, field.name), mark, f"{path}.")


def from_json(hint: Any, value: Any) -> Any:
    """A value of a type from the JSON that cli.to_json made of it: dataclasses of mappings, tuples of lists.

    Fields that the JSON lacks take their defaults, and fields that the type lacks are ignored. A union is read as the
    type that the JSON names, or else as its first type.
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if value is None:
        return None
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        names = [field.name for field in dataclasses.fields(hint) if field.name in value]
        return typing.cast(Any, hint)(**{name: from_json(hints[name], value[name]) for name in names})
    if origin in (typing.Union, types.UnionType):
        options = [option for option in inner if option is not types.NoneType]
        named = value.get(CLASS) if isinstance(value, dict) else None
        return from_json(next((option for option in options if option.__name__ == named), options[0]), value)
    if origin is tuple:
        parts = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        return tuple(from_json(part, one) for part, one in zip(parts, value, strict=True))
    return value
