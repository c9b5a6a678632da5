"""Chat templates: Jinja source that comes with a tokenizer and turns messages into text."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from r1jax.errors import UserError

# Mark the generation tags in the rendered text until it is split. Unicode noncharacters do not occur in text.
_BEGIN, _END = "\ufdd0(generation\ufdd1", "\ufdd0generation)\ufdd1"


@dataclasses.dataclass(frozen=True)
class Rendered:
    """Messages as text.

    generated: (begin, end) in characters of each part inside the template's generation tags, which mark the
      assistant's text; in order, and empty if the template has no such tags.
    """

    text: str
    generated: tuple[tuple[int, int], ...] = ()


class _Generation(jinja2.ext.Extension):
    """``{% generation %}`` ... ``{% endgeneration %}``: renders the body and marks it as the assistant's text."""

    tags: ClassVar = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """Parses the block as a call of _mark."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Any) -> str:
        return _BEGIN + caller() + _END


@functools.lru_cache(maxsize=8)
def _compile(template: str) -> jinja2.Template:
    # Templates come with downloaded weights and are untrusted, so they run in a sandbox. The settings are those of
    # transformers, for which templates are written.
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _Generation]
    )

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def strftime_now(layout: str) -> str:
        return datetime.datetime.now().strftime(layout)

    def tojson(value: Any, **options: Any) -> str:
        return json.dumps(value, **{"ensure_ascii": False, **options})

    environment.globals.update(raise_exception=raise_exception, strftime_now=strftime_now)
    environment.filters["tojson"] = tojson  # jinja's own filter escapes HTML
    return environment.from_string(template)


def render(
    template: str, messages: Sequence[Mapping[str, str]], bos_token: str, eos_token: str, add_generation_prompt: bool
) -> Rendered:
    """Renders messages with a chat template; raises UserError if the template is broken or refuses them."""
    try:
        marked = _compile(template).render(
            messages=[dict(m) for m in messages],
            add_generation_prompt=add_generation_prompt,
            bos_token=bos_token,
            eos_token=eos_token,
            tools=None,
            documents=None,
        )
    except Exception as error:  # a template may raise any exception, also while it is compiled
        roles = ", ".join(str(m.get("role", "?")) for m in messages)
        kind = "" if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: "
        reason = kind + " ".join(str(error).split())
        raise UserError(f"the chat template refuses these messages (roles: {roles}): {reason}") from error
    return _without_marks(marked)


def _without_marks(marked: str) -> Rendered:
    parts: list[str] = []
    spans: list[tuple[int, int]] = []
    open_at: list[int] = []
    length = 0
    for part in re.split(f"({re.escape(_BEGIN)}|{re.escape(_END)})", marked):
        if part == _BEGIN:
            open_at.append(length)
        elif part == _END:
            begin = open_at.pop()
            if not open_at:  # only the outermost of nested blocks counts
                spans.append((begin, length))
        else:
            parts.append(part)
            length += len(part)
    return Rendered("".join(parts), tuple(spans))
