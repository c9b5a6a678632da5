"""Inert values: numbers, text and plain containers, as trees of JSON that carry no behaviour of their own.

Only exact types cross. An instance of a subclass of one of these, such as a Counter, crosses as a number for itself and
the plain value that its base type holds, without any method of its own; other objects cross as a number alone.
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
_DEPTH = 200
_SAME_HASH = 16  # keys of one hash in a table; honest ones have two at most: hash(-1) == hash(-2)
_SEQUENCES: dict[type, str] = {list: "l", tuple: "t", set: "s", frozenset: "z"}
_MAKE: dict[str, Callable[..., Any]] = {tag: kind for kind, tag in _SEQUENCES.items()}


# The plain value of an instance of a subclass, by methods of the base type.
_PLAIN: dict[type, Callable[[Any], Any]] = {
    int: int.__int__,
    float: float.__float__,
    str: str.__str__,
    list: list.copy,
    dict: dict.copy,
    tuple: lambda value: tuple(tuple.__iter__(value)),
    set: lambda value: set(set.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
}


class NotInert(Exception):
    """A value or a tree that may not cross."""


def pack(value: Any, opaque: Callable[[Any], int], depth: int = 0) -> Any:
    """A value as a tree: text, true, false, null and small integers as they are, all else as [tag, ...].

    opaque: the number of the handle that stands for an object of another type; it may raise NotInert.

    Raises:
      NotInert: for values that are nested more than 200 deep, as those that contain themselves are.
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
    base = next((base for base in kind.__mro__ if base in _PLAIN), None)
    plain = [] if base is None else [pack(_PLAIN[base](value), opaque, depth + 1)]
    return ["h", opaque(value), *plain]


def unpack(tree: Any, handle: Callable[..., Any]) -> Any:
    """The inverse of pack.

    handle: gives the object for the number of a handle, and for its plain value if it has one.

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
            items = [unpack(inner, handle) for inner in rest]
            return _MAKE[tag](items if tag in "lt" else _checked_keys(items))
        if tag == "d":
            keys = _checked_keys([unpack(k, handle) for k, _ in rest])
            return dict(zip(keys, [unpack(v, handle) for _, v in rest], strict=True))
        if tag == "c":
            return complex(*map(float.fromhex, rest))
        if tag == "h" and len(rest) in (1, 2) and type(rest[0]) is int:
            return handle(rest[0], *[unpack(inner, handle) for inner in rest[1:]])
        (only,) = rest
        return {"i": lambda text: int(text, 16), "f": float.fromhex, "b": bytes.fromhex}[tag](only)
    except (TypeError, ValueError, KeyError, OverflowError, RecursionError) as error:
        raise NotInert(f"not a value: {error}") from error


def _checked_keys(keys: list[Any]) -> list[Any]:
    """The keys of a table, unless so many share a hash that it would take quadratic time to make it."""
    if len(keys) > _SAME_HASH:
        hashes = sorted(map(hash, keys))
        if any(map(int.__eq__, hashes, hashes[_SAME_HASH:])):
            raise NotInert("too many keys of one hash")
    return keys


def write(tree: Any) -> str:
    """A tree as JSON in ASCII."""
    if tree is None:
        return "null"
    if tree is True or tree is False:
        return "true" if tree else "false"
    if isinstance(tree, str):
        return encode_basestring_ascii(tree)
    return str(tree) if isinstance(tree, int) else f"[{','.join([write(inner) for inner in tree])}]"
