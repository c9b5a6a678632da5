"""The text of a question, which data sets give as text or as messages."""

from __future__ import annotations

import re
from typing import Any

from r1jax.data.formats.rows import parse_literal, preview
from r1jax.errors import UserError

_MESSAGES = re.compile(r"""\s*\[\s*\{\s*["'](?:role|content)["']\s*:""")


def are_messages(value: Any) -> bool:
    """True for a list, or a text that writes a list of messages."""
    return isinstance(value, list) or (isinstance(value, str) and _MESSAGES.match(value) is not None)


def read_messages(value: Any, column: str, location: str) -> Any:
    """The list of messages that a text writes, as in csv files; other values unchanged.

    Raises UserError for a text that starts as a list of messages and cannot be parsed.
    """
    if not isinstance(value, str) or not are_messages(value):
        return value
    messages = parse_literal(value, "[")
    if not isinstance(messages, list):
        raise UserError(f"{location}: column {column!r} has messages that are not JSON: {preview(value)}: correct them")
    return messages


def question_text(value: Any, column: str, location: str) -> str:
    """The text of a question, or of the only user message of a list of messages; a system message is left out.

    The messages may also be text, as in csv files. The content of a message may be a list of parts that are text.

    Raises UserError for several messages, parts that are not text, messages that cannot be parsed, or no text.
    """
    value = read_messages(value, column, location)
    if isinstance(value, list) and value and all(isinstance(one, dict) and "role" in one for one in value):
        said = [one for one in value if one["role"] != "system"]
        if len(said) != 1 or said[0]["role"] != "user":
            roles = ", ".join(str(one["role"]) for one in value[:5])
            raise UserError(
                f"{location}: column {column!r} has messages of the roles {roles}: one message of the role user is read"
            )
        value = said[0].get("content")
        if isinstance(value, list):
            parts = [part for part in value if isinstance(part, dict)]
            types = [str(part.get("type")) for part in parts]
            if not parts or not all(isinstance(part.get("text"), str) for part in parts) or {*types} != {"text"}:
                raise UserError(f"{location}: column {column!r} has parts of the types {', '.join(types)}: write text")
            value = "".join(part["text"] for part in parts)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{location}: column {column!r} is {preview(value)}: write some text")
    return value
