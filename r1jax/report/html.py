"""A Markdown report as one HTML file that needs no other: it can be mailed as it is."""

from __future__ import annotations

import base64
import html
import re
from pathlib import Path

import markdown

# Tables scroll inside their own box, so that the page is never wider than the window and no column is cut off.
_STYLE = """
:root{color-scheme:light dark;--ink:#24292f;--paper:#fff;--line:#d0d7de;--shade:#f6f8fa}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--paper:#0d1117;--line:#3d444d;--shade:#1c2128}}
body{font:15px/1.5 system-ui,sans-serif;max-width:1200px;margin:2em auto;padding:0 1em;color:var(--ink);
background:var(--paper)}
.wide{overflow-x:auto;margin:1em 0}
table{border-collapse:collapse}
th,td{border:1px solid var(--line);padding:4px 8px;vertical-align:top}
td{white-space:nowrap}
th:first-child,td:first-child{position:sticky;left:0;background:var(--paper)}
th,th:first-child,code,pre{background:var(--shade)}
code{white-space:pre-wrap;overflow-wrap:anywhere}
th>code,td>code{display:inline-block;width:max-content;max-width:22em}
pre{overflow-x:auto;padding:8px}
pre>code{white-space:pre}
img{max-width:100%;background:#fff;border-radius:6px}
"""
_PICTURE = re.compile(r'(<img [^>]*?src=")([^":]+)(")')


def to_html(text: str, title: str, folder: Path) -> str:
    """A whole HTML page of a Markdown text, its pictures embedded; ``folder`` is where their paths start."""

    def embedded(found: re.Match[str]) -> str:
        data = base64.b64encode((folder / found[2]).read_bytes()).decode()
        return f"{found[1]}data:image/png;base64,{data}{found[3]}"

    body = markdown.markdown(text, extensions=["tables", "fenced_code"])
    body = body.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body>{_PICTURE.sub(embedded, body)}</body></html>\n"
    )


def fenced(text: str) -> str:
    """A text as a Markdown code block, whatever rows of backticks it holds."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text.rstrip()}\n{fence}\n"
