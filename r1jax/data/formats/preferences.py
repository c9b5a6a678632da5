"""What reward models learn from: pairs of replies of which one is better, and responses that are safe or not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from r1jax.data.formats.files import rows, shown
from r1jax.data.problems.general import SAFETY, GeneralPrompt
from r1jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two replies to a prompt; ``about`` decides whether it is held out, and is the prompt where it is ""."""

    prompt: str
    chosen: str
    rejected: str
    about: str = ""


@dataclasses.dataclass(frozen=True)
class Labelled:
    """A response to a prompt, reasoning included, and whether it is safe; ``about`` as in Pair."""

    prompt: str
    response: str
    safe: bool
    about: str = ""


def read_pairs(path: str | Path) -> list[Pair]:
    """Rows with ``prompt``, ``chosen`` and ``rejected`` (text) of a .jsonl or .parquet file.

    Raises:
      UserError: naming the line or row and the column that is wrong, or that there are none.
    """
    names = ("prompt", "chosen", "rejected")
    return _some([Pair(*(_text(row, name, where) for name in names)) for where, row in rows(path, names)], path)


def read_labelled(path: str | Path) -> list[Labelled]:
    """Rows with ``prompt``, ``response`` (text) and ``safe`` (true or false) of a .jsonl or .parquet file.

    Raises:
      UserError: naming the line or row and the column that is wrong, or that there are none.
    """
    found = []
    for where, row in rows(path, ("prompt", "response", "safe")):
        if not isinstance(row.get("safe"), bool):
            raise UserError(f"{where}: column 'safe' is {shown(row.get('safe'))}: write true or false")
        found.append(Labelled(_text(row, "prompt", where), _text(row, "response", where), row["safe"]))
    return _some(found, path)


def make_pairs(prompts: Iterable[GeneralPrompt]) -> list[Pair]:
    """A pair for each bad reply to each helpful prompt, the rules of which r1jax.data.problems.general.generate names.

    What a prompt asks about decides whether it is held out: in other words the same question has the same replies.
    """
    return [
        Pair(prompt.problem.question, prompt.good, bad, prompt.about)
        for prompt in prompts
        if prompt.problem.kind not in SAFETY
        for bad in prompt.bad
    ]


def make_labelled(prompts: Iterable[GeneralPrompt]) -> list[Labelled]:
    """Responses with their reasoning; what a prompt asks about decides whether it is held out.

    Safe are all good replies, to any prompt. Unsafe are, for each harmful request: doing it after harmless reasoning,
    and reasoning that plans it, before either reply, since the whole response is judged.
    """
    found = []
    for prompt in prompts:
        responses = [(prompt.response(prompt.good), True)]
        if prompt.problem.kind in SAFETY:
            (harm,) = prompt.bad
            planned = dataclasses.replace(prompt, thought=harm)
            responses += [
                (one.response(reply), False) for one, reply in ((prompt, harm), (planned, harm), (planned, prompt.good))
            ]
        found += [Labelled(prompt.problem.question, text, safe, prompt.about) for text, safe in responses]
    return found


def _text(row: dict[str, Any], column: str, where: str) -> str:
    value = row.get(column)
    if not isinstance(value, str) or (column == "prompt" and not value.strip()):
        raise UserError(f"{where}: column {column!r} is {shown(value)}: write some text")
    return value


def _some(found: list[Any], path: str | Path) -> list[Any]:
    if not found:
        raise UserError(f"{path} holds no rows")
    return found
