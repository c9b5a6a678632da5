"""Looks up names that a user has typed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

from r1jax.errors import UserError

T = TypeVar("T")


def lookup(what: str, name: str, known: Mapping[str, T]) -> T:
    """Returns ``known[name]``; raises UserError with suggestions if ``name`` is not in ``known``.

    what: the kind of name, for the message.
    """
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(sorted(known)) or 'none'}"
    raise UserError(f"unknown {what} {name!r}: {hint}")
