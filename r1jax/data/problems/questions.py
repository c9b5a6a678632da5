"""The text of a question, which data sets give as text or as messages."""

from __future__ import annotations

from typing import Any

from r1jax.data.formats.rows import preview
from r1jax.errors import UserError


def question_text(value: Any, column: str, location: str) -> str:
    """The text of a question, or of the only user message of a list of messages; a system message is left out.

    Raises UserError for several messages, parts that are not text, or no text.
    """
    if isinstance(value, list) and value and all(isinstance(one, dict) and "role" in one for one in value):
        said = [one for one in value if one["role"] != "system"]
        if len(said) != 1 or said[0]["role"] != "user":
            roles = ", ".join(str(one["role"]) for one in value[:5])
            raise UserError(
                f"{location}: column {column!r} has messages of the roles {roles}: one message of the role user is read"
            )
        value = said[0].get("content")
        if isinstance(value, list):
            parts = [str(part.get("type")) for part in value if isinstance(part, dict)]
            raise UserError(f"{location}: column {column!r} has parts of the types {', '.join(parts)}: write text")
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{location}: column {column!r} is {preview(value)}: write some text")
    return value
