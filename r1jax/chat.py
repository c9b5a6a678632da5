"""Chat templates: messages to text by the Jinja source that comes with a tokenizer."""

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

# Around what stands in generation tags, until the text is rendered. Noncharacters: no text has them.
_BEGIN, _END = "\ufdd0(generation\ufdd1", "\ufdd0generation)\ufdd1"


@dataclasses.dataclass(frozen=True)
class Rendered:
    """Messages as text.

    generated: (begin, end) in characters of what the template marks as the assistant's by its generation tags, in
      order; empty where it has no such tags.
    """

    text: str
    generated: tuple[tuple[int, int], ...] = ()


class _Generation(jinja2.ext.Extension):
    """``{% generation %}`` ... ``{% endgeneration %}``: the assistant's part, rendered as it stands and marked."""

    tags: ClassVar = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """The block as a call of _mark."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Any) -> str:
        return _BEGIN + caller() + _END


@functools.lru_cache(maxsize=8)
def _compile(template: str) -> jinja2.Template:
    # A template comes with the weights, from anyone: hence the sandbox. The settings are those that templates are
    # written for, transformers' own.
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
    environment.filters["tojson"] = tojson  # jinja's own escapes for HTML
    return environment.from_string(template)


def render(
    template: str, messages: Sequence[Mapping[str, str]], bos_token: str, eos_token: str, add_generation_prompt: bool
) -> Rendered:
    """Messages in a chat template; raises UserError where the template is broken or refuses them."""
    try:
        marked = _compile(template).render(
            messages=[dict(m) for m in messages],
            add_generation_prompt=add_generation_prompt,
            bos_token=bos_token,
            eos_token=eos_token,
            tools=None,
            documents=None,
        )
    except Exception as error:  # a template can raise whatever Python can, while it is compiled too
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
            if not open_at:  # of nested blocks the outermost says it all
                spans.append((begin, length))
        else:
            parts.append(part)
            length += len(part)
    return Rendered("".join(parts), tuple(spans))
