"""The program in the text of a completion, and the code that stands before it."""

from __future__ import annotations

import ast
import re

_BLOCK = re.compile(r"^[ \t]*```([^\n`]*)\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)


def program_in(text: str) -> str:
    """The last block of Python code in a text, or its last block of code, or the whole text if it has no block."""
    blocks = [(match[1].strip().lower(), match[2]) for match in _BLOCK.finditer(text)]
    python = [code for language, code in blocks if language in ("python", "python3", "py")]
    return (python or [code for _, code in blocks] or [text])[-1]


def complete(program: str, prefix: str, entry_point: str) -> str:
    """The program after the code that the question gave it, such as the head of a function.

    A program that defines the entry point itself follows the prefix as other code; one that does not continues it, up
    to the first line that is not indented.
    """
    if not prefix:
        return program
    if not _begins(prefix, entry_point) or defines(program, entry_point):
        return f"{_closed(prefix)}\n\n{program}"
    lines = program.splitlines()
    if lines and not lines[0][:1].isspace():  # white space before the text was stripped
        lines[0] = f"    {lines[0]}"
    end = next((i for i, line in enumerate(lines) if line.strip() and not line[0].isspace() and i), len(lines))
    return prefix + "\n".join(lines[:end]) + "\n"


def defines(program: str, name: str) -> bool:
    """True if a program defines a function, class or variable of this name outside other functions."""
    return (
        bool(name)
        and re.search(rf"^(?:(?:async )?def|class) {re.escape(name)}\b|^{re.escape(name)}\s*=", program, re.M)
        is not None
    )


def _begins(prefix: str, name: str) -> bool:
    """True if the function of this name is the last thing in a prefix, so that a program may continue it."""
    body = ast.parse(_closed(prefix)).body
    return bool(body) and isinstance(body[-1], ast.FunctionDef) and body[-1].name == name


def stub(prefix: str) -> str:
    """A prefix as code that can be executed: the functions before the one that it begins, and an empty one."""
    return _closed(prefix)


def _closed(prefix: str) -> str:
    """A prefix that may end in the head of a function, with a body for it."""
    for end in ("", "    pass\n", "\n    pass\n"):
        try:
            ast.parse(prefix + end)
        except (SyntaxError, ValueError):
            continue
        return prefix + end
    return ""
