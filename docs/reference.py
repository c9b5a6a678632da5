"""Builds the API reference: a page for each package of r1jax, and Markdown from the plain text of its docstrings."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds reference/PACKAGE.md for each package and an index of them; none of these pages is written to docs/."""
    lines = ["# API reference\n", "| package | what is in it |", "| --- | --- |"]
    for init in sorted((ROOT / "r1jax").rglob("__init__.py")):
        package = ".".join(init.parent.relative_to(ROOT).parts)
        modules = [path.stem for path in sorted(init.parent.glob("*.py")) if not path.stem.startswith("_")]
        page = f"# {package}\n\n::: {package}\n    options: {{show_root_heading: false, show_submodules: false}}\n\n"
        page += "".join(f"::: {package}.{module}\n\n" for module in modules)
        name = package.replace(".", "_") + ".md"
        files.append(File.generated(config, f"reference/{name}", content=page))
        summary = (ast.get_docstring(ast.parse(init.read_text())) or "").partition("\n")[0]
        lines.append(f"| [{package}]({name}) | {summary} |")
    files.append(File.generated(config, "reference/index.md", content="\n".join(lines) + "\n"))
    return files


class PlainText(griffe.Extension):
    """Reads docstrings as the plain text that they are, and shapes from the comments behind fields."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Turns the docstring of an object, if it has one, into Markdown."""
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)

    def on_attribute_instance(self, *, attr: griffe.Attribute, **kwargs: object) -> None:
        """Takes the comment behind a field, which tells its shape, for its docstring."""
        if attr.docstring is None and attr.lineno and isinstance(attr.filepath, Path):
            line = attr.filepath.read_text().splitlines()[(attr.endlineno or attr.lineno) - 1]
            if comment := re.search(r"  # (.*)", line):
                attr.docstring = griffe.Docstring(to_markdown(comment[1]), lineno=attr.lineno, parent=attr)


def to_markdown(text: str) -> str:
    """Markdown that reads as the plain text does.

    Text between backticks and indented blocks keep their characters. Names such as r1jax.cli become links, which fail
    the build if nothing has that name. A paragraph of lines "name: text" becomes a list, a line "a, b: text" under
    "Args:" becomes a line for each name, and the double colon before an indented block becomes a colon.
    """
    text = re.sub(r"::$", ":", text, flags=re.MULTILINE)
    text = re.sub(r"^  (\w+(?:, \w+)+): (.*(?:\n {4}.*)*)", _one_each, text, flags=re.MULTILINE)
    kept = re.split(r"(``?[^`]+``?|^ {4,}.*$)", text, flags=re.MULTILINE)
    text = "".join(part if i % 2 else _escaped(part) for i, part in enumerate(kept))
    return "\n\n".join(_listed(paragraph) for paragraph in text.split("\n\n"))


def _one_each(line: re.Match[str]) -> str:
    return "\n".join(f"  {name}: {line[2]}" for name in line[1].split(", "))


def _escaped(text: str) -> str:
    text = re.sub(r"[*\[\\]|\b_\b|(?<!\w)_|_(?!\w)", r"\\\g<0>", text).replace("<", "&lt;")
    return re.sub(r"(?<![\w./])r1jax(\.\w+)+(?![\w/])", r"[\g<0>][]", text)


def _listed(paragraph: str) -> str:
    lines = paragraph.split("\n")
    name = re.compile(r"(\w+(?:, \w+)*): (?=\S)")
    if name.match(lines[0]) and all(line.startswith("  ") or name.match(line) for line in lines):
        lines = [name.sub(r"- **\1**: ", line, count=1) if name.match(line) else line for line in lines]
    return "\n".join(lines)
