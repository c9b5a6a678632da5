"""Conversations from the rows of a data set with the column ``messages``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from r1jax.data.formats.rows import parse_literal, preview, read_rows
from r1jax.errors import UserError


def read_conversations(path: str | Path) -> list[list[dict[str, Any]]]:
    """The conversations of a source that read_rows reads: for each row a list of {"role", "content"} messages.

    The list may be written as text, as in csv files. Null values are removed from messages, because parquet gives every
    message the keys of all messages.

    Raises:
      UserError: if a row holds no such list (the message names the line or row), or the file has no rows.
    """
    conversations = []
    for location, row in read_rows(path, ("messages",)):
        messages = parse_literal(row.get("messages"), "[")
        if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
            raise UserError(f"{location}: column 'messages' must be a list of objects with role and content")
        messages = [_without_nulls(message) for message in messages]
        check_messages(messages, f"{location}: ")
        conversations.append(messages)
    if not conversations:
        raise UserError(f"{path} holds no conversations: give a file with at least one")
    return conversations


def check_messages(messages: Sequence[Mapping[str, Any]], prefix: str = "") -> None:
    """Raises UserError unless all messages have a text role and content and the last one is the assistant's.

    prefix: the start of the error message, such as the file and the line.
    """
    for message in messages:
        if not all(isinstance(message.get(name), str) for name in ("role", "content")):
            raise UserError(f"{prefix}a message needs role and content as text, not {preview(dict(message))}")
    if not messages or messages[-1]["role"] != "assistant":
        raise UserError(
            f"{prefix}a conversation must end with a message of the role assistant, which is what the model learns"
        )


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value
