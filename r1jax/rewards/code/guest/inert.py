"""Inert values: numbers, text and plain containers, as trees of JSON that carry no behaviour of their own.

Only exact types cross: an instance of a subclass of int or str, or an object that defines ``__eq__``, is opaque.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing takes longer than all else here
    from collections.abc import Callable
    from typing import Any


try:
    from _json import encode_basestring_ascii  # pyright: ignore[reportMissingImports]  # json imports re: 10 ms
except ImportError:
    from json.encoder import py_encode_basestring_ascii as encode_basestring_ascii

_SMALL = 2**53  # larger integers are written in base 16, which takes linear time
_DEPTH = 64
_SEQUENCES: dict[type, str] = {list: "l", tuple: "t", set: "s", frozenset: "z"}
_MAKE: dict[str, Callable[..., Any]] = {tag: kind for kind, tag in _SEQUENCES.items()}


class NotInert(Exception):
    """A value or a tree that may not cross."""


def pack(value: Any, opaque: Callable[[Any], int], depth: int = 0) -> Any:
    """A value as a tree: text, true, false, null and small integers as they are, all else as [tag, ...].

    opaque: the number of the handle that stands for an object of another type; it may raise NotInert.

    Raises:
      NotInert: for values that are nested more than 64 deep, as those that contain themselves are.
    """
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        return value if -_SMALL < value < _SMALL else ["i", hex(value)]
    if kind is float:
        return ["f", value.hex()]
    if kind is complex:
        return ["c", value.real.hex(), value.imag.hex()]
    if kind is bytes:
        return ["b", value.hex()]
    if depth == _DEPTH:
        raise NotInert(f"nested more than {_DEPTH} deep")
    if kind in _SEQUENCES:
        return [_SEQUENCES[kind], *[pack(inner, opaque, depth + 1) for inner in value]]
    if kind is dict:
        return ["d", *[[pack(k, opaque, depth + 1), pack(v, opaque, depth + 1)] for k, v in value.items()]]
    return ["h", opaque(value)]


def unpack(tree: Any, handle: Callable[[int], Any]) -> Any:
    """The inverse of pack; ``handle`` gives the object that stands for a number of a handle.

    Raises:
      NotInert: for a tree that pack does not return.
    """
    kind = type(tree)
    if tree is None or kind is bool or kind is str or kind is int:
        return tree
    if kind is not list or not tree or type(tree[0]) is not str:
        raise NotInert("not a value")
    tag, rest = tree[0], tree[1:]
    try:
        if tag in _MAKE:
            return _MAKE[tag]([unpack(inner, handle) for inner in rest])
        if tag == "d":
            return {unpack(k, handle): unpack(v, handle) for k, v in rest}
        if tag == "c":
            return complex(*map(float.fromhex, rest))
        (only,) = rest
        if tag == "h" and type(only) is int:
            return handle(only)
        return {"i": lambda text: int(text, 16), "f": float.fromhex, "b": bytes.fromhex}[tag](only)
    except (TypeError, ValueError, KeyError, OverflowError, RecursionError) as error:
        raise NotInert(f"not a value: {error}") from error


def write(tree: Any) -> str:
    """A tree as JSON in ASCII."""
    if tree is None:
        return "null"
    if tree is True or tree is False:
        return "true" if tree else "false"
    if isinstance(tree, str):
        return encode_basestring_ascii(tree)
    return str(tree) if isinstance(tree, int) else f"[{','.join([write(inner) for inner in tree])}]"
