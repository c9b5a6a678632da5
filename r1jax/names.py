"""Names that a person typed, looked up among those that exist."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

from r1jax.errors import UserError

T = TypeVar("T")


def lookup(what: str, name: str, known: Mapping[str, T]) -> T:
    """``known[name]``; raises UserError that says ``what`` was asked for and which names come near."""
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(sorted(known)) or 'none'}"
    raise UserError(f"unknown {what} {name!r}: {hint}")
