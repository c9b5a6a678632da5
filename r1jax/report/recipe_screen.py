"""The result of the recipe on the screen: the main figures of each model, and the paths of the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from r1jax.report.recipe_tables import EvaluatedModel
from r1jax.report.rendering import percent


def print_recipe(rows: Sequence[EvaluatedModel], out: Path, console: Console) -> None:
    """Prints a row per model, and the files of the report; without models, a line that there is no report yet."""
    if not rows:
        console.print(f"{out}: no model has been evaluated yet, so there is no report", highlight=False, soft_wrap=True)
        return
    table = Table("model", *(title for title, _ in _COLUMNS), title="R1 recipe, % of all samples")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(row.label, *(figure(row) for _, figure in _COLUMNS))
    console.print(table)
    console.print(f"{out}: report.html, report.md, summary.json, a folder per stage", highlight=False, soft_wrap=True)


_COLUMNS = (
    ("pass@1", lambda row: percent(row.reasoning.pass_at[1])),
    ("format", lambda row: percent(row.reasoning.format_rate)),
    ("language", lambda row: percent(row.reasoning.rewards.get("language"))),
    ("readable and correct", lambda row: percent(row.reasoning.readable_correct)),
    ("general tasks", lambda row: percent(row.general.pass_at[1])),
    ("tokens", lambda row: f"{row.tokens:,.0f}"),
    ("seconds", lambda row: f"{row.seconds:.0f}"),
)
