"""Rendering of reports: templates, Markdown tables and code, and HTML pages."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import markdown

from r1jax.report.style import DARK_PAGE, LIGHT_PAGE

_PICTURE = re.compile(r'(<img [^>]*?src=")([^":]+)(")')


def render(template: str, **values: Any) -> str:
    """Fills a template of r1jax/report/templates; values are escaped in HTML and inserted unchanged in Markdown.

    Raises jinja2.UndefinedError if the template uses a value that is not given.
    """
    return _TEMPLATES.get_template(template).render(values)


def to_html(text: str, title: str, folder: Path) -> str:
    """An HTML page of a Markdown text, with the pictures of ``folder`` embedded."""

    def embedded(match: re.Match[str]) -> str:
        data = base64.b64encode((folder / match[2]).read_bytes()).decode()
        return f"{match[1]}data:image/png;base64,{data}{match[3]}"

    body = markdown.markdown(text, extensions=["tables", "fenced_code"])
    # Each table scrolls by itself, so that the page is never wider than the window.
    body = body.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    body = _PICTURE.sub(embedded, body)
    return render("page.html.j2", title=title, body=body, light=LIGHT_PAGE, dark=DARK_PAGE)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], align: str = "") -> str:
    """A Markdown table. align: "l" or "r" for each column; "" aligns all columns to the left."""
    rules = ["---:" if side == "r" else "---" for side in align or "l" * len(head)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rules, *rows)) + "\n"


def code_cell(text: str, limit: int = 300) -> str:
    """A text as code in one cell of a Markdown table; beyond ``limit`` characters its middle is left out."""
    text = text if len(text) <= limit else f"{text[: limit // 2]} [...] {text[-limit // 2 :]}"
    return "`" + " ".join(text.splitlines()).replace("`", "'").replace("|", "¦") + "`"


def fenced(text: str) -> str:
    """A text as a Markdown code block, with a fence longer than any row of backticks in the text."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text.rstrip()}\n{fence}\n"


def percent(share: float | None) -> str:
    """A share in [0, 1] in percent, with one decimal place; "" for None."""
    return "" if share is None else f"{100 * share:.1f}"


_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("r1jax.report"),
    autoescape=jinja2.select_autoescape(["html.j2"]),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.filters |= {"fenced": fenced, "percent": percent}
_TEMPLATES.globals |= {"table": markdown_table}
