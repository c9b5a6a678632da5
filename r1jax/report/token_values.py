"""Values per token, such as process rewards, of the last completions of a training: coloured text, or a short table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from r1jax.report.rendering import code_cell, markdown_table, render
from r1jax.report.style import diverging
from r1jax.report.token_grid import DIVERGING, draw_tokens

Row = Mapping[str, Any]  # a line of completions.jsonl

_EXTREMES = 3  # highest and lowest tokens in the table
_UNDERLINED = -0.1  # shares of the largest value below this are underlined


def token_value_sections(folders: Mapping[str, Path]) -> tuple[str, str]:
    """The sections on values per token of a report, as Markdown, and as Markdown with coloured text in HTML.

    folders: label -> the folder of a training, whose completions.jsonl is read; a label of "" is left out. A training
    without values per token has no section: the texts are "" if none has.
    """
    plain, coloured = [], []
    for label, folder in folders.items():
        rows = last_rows(folder / "completions.jsonl")
        for name in rows[0]["token_values"] if rows else ():
            what = name.replace("_", " ")
            heading = f"## {' · '.join(filter(None, [f'{what.capitalize()} per token', label]))}\n\n"
            where = f"the completions of step {rows[0]['step']} in {folder.name}/completions.jsonl"
            plain.append(
                f"{heading}The tokens with the highest and the lowest {what} in {where}.\n\n{_table(rows, name)}"
            )
            coloured.append(f"{heading}The {what} of each token in {where}.\n\n{_coloured(rows, name)}")
    return "\n".join(plain), "\n".join(coloured)


def last_rows(path: Path) -> list[Row]:
    """The lines with values per token of the last step that has any."""
    rows: list[Row] = []
    if path.exists():
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                if "token_values" in row:
                    rows = [one for one in rows if one["step"] == row["step"]] + [row]
    return rows


def draw_token_values(ax: Axes, rows: Sequence[Row], name: str) -> AxesImage:
    """Draws a row of cells for each completion, coloured by the values of its tokens; rows: as from last_rows.

    The colours are those of the report: the same distance from 0 for negative and positive values. Labels are questions
    with rewards. Returns the image for a colour bar.
    """
    texts = [[_shown(text).rstrip("\n").replace(" ", "·") for text in row["token_texts"]] for row in rows]
    values = np.full((len(rows), max(map(len, texts))), np.nan)
    for at, row in enumerate(rows):
        values[at, : len(row["token_values"][name])] = row["token_values"][name]
    largest = float(np.nanmax(np.abs(values))) or 1.0
    labels = [f"{row['question']} · {row['reward']:g}" for row in rows]
    return draw_tokens(ax, texts, values, labels, DIVERGING, (-largest, largest))


def _shown(text: str) -> str:
    """The text of a token with visible line ends; a mark if it has none, as the end token."""
    return text.replace("\n", "↵\n") or "▪"


def _table(rows: Sequence[Row], name: str) -> str:
    """The tokens with the highest and lowest values of each completion; #N is the Nth token, if it has no text."""

    def listed(pairs: Sequence[tuple[float, int]], texts: Sequence[str]) -> str:
        return ", ".join(
            f"{code_cell(texts[at]) if texts[at].strip() else f'#{at + 1}'} {value:+.3g}" for value, at in pairs
        )

    cells = []
    for row in rows:
        ranked = sorted((value, at) for at, value in enumerate(row["token_values"][name]))
        highest, lowest = ranked[: -_EXTREMES - 1 : -1], ranked[:_EXTREMES]
        texts = row["token_texts"]
        cells.append(
            [code_cell(row["completion"]), f"{row['reward']:g}", listed(highest, texts), listed(lowest, texts)]
        )
    return markdown_table(["completion", "reward", "highest", "lowest"], cells, "lrll")


def _opening(row: Row) -> str:
    """The text of a completion before its first token: the opening that the prompt ends with."""
    texts = "".join(row["token_texts"]).rstrip("\ufffd")  # the last token that is listed may be half a character
    completion = row["completion"]
    more = row["tokens"] > len(row["token_texts"])
    return completion[: max(completion.find(texts) if more else completion.rfind(texts), 0)]


def _coloured(rows: Sequence[Row], name: str) -> str:
    """The completions with a background colour for each token, as one block of HTML."""
    largest = max((abs(value) for row in rows for value in row["token_values"][name]), default=0.0) or 1.0

    def token(text: str, value: float) -> dict[str, Any]:
        share = value / largest
        return {"text": _shown(text), "value": value, "colour": diverging(share), "minus": share < _UNDERLINED}

    completions = [
        {
            "question": row["question"],
            "reward": row["reward"],
            "opening": _opening(row),
            "tokens": [token(*pair) for pair in zip(row["token_texts"], row["token_values"][name], strict=True)],
            "omitted": row["tokens"] - len(row["token_texts"]),
        }
        for row in rows
    ]
    legend = [token(f"{share * largest:+.2g}", share * largest) for share in (-1.0, -0.5, 0.0, 0.5, 1.0)]
    what = name.replace("_", " ")
    return render("token_values.html.j2", what=what, legend=legend, completions=completions)
