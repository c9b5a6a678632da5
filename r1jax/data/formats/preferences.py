"""Training data of reward models: pairs of replies, one preferred, and responses labelled safe or unsafe."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from r1jax.data.formats.rows import preview, read_rows
from r1jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two replies to a prompt, of which ``chosen`` is preferred.

    about: the key that decides whether the pair is held out; "": the prompt.
    """

    prompt: str
    chosen: str
    rejected: str
    about: str = ""


@dataclasses.dataclass(frozen=True)
class Labelled:
    """A response to a prompt, reasoning included, and whether it is safe.

    about: the key that decides whether the response is held out; "": the prompt.
    """

    prompt: str
    response: str
    safe: bool
    about: str = ""


def read_pairs(path: str | Path) -> list[Pair]:
    """The pairs of a source that read_rows reads, with the text columns ``prompt``, ``chosen`` and ``rejected``.

    Raises:
      UserError: names the line or row and the column that is wrong, or says that the file has no rows.
    """
    columns = ("prompt", "chosen", "rejected")
    pairs = [Pair(*(_text(row, name, location) for name in columns)) for location, row in read_rows(path, columns)]
    return _check_rows(pairs, path)


def read_labelled(path: str | Path) -> list[Labelled]:
    """The responses of a source that read_rows reads; columns: ``prompt``, ``response``, and ``safe`` (true or false,
    in csv files as text).

    Raises:
      UserError: names the line or row and the column that is wrong, or says that the file has no rows.
    """
    responses = []
    for location, row in read_rows(path, ("prompt", "response", "safe")):
        safe = row.get("safe")
        if isinstance(safe, str):
            safe = {"true": True, "false": False}.get(safe.strip().lower(), safe)
        if not isinstance(safe, bool):
            raise UserError(f"{location}: column 'safe' is {preview(safe)}: write true or false")
        responses.append(Labelled(_text(row, "prompt", location), _text(row, "response", location), safe))
    return _check_rows(responses, path)


def _text(row: dict[str, Any], column: str, location: str) -> str:
    value = row.get(column)
    if not isinstance(value, str) or (column == "prompt" and not value.strip()):
        raise UserError(f"{location}: column {column!r} is {preview(value)}: write some text")
    return value


def _check_rows(found: list[Any], path: str | Path) -> list[Any]:
    if not found:
        raise UserError(f"{path} holds no rows: give a file with at least one")
    return found
