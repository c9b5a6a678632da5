"""Comparison of two evaluations: a table, a line, and completions side by side."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from r1jax.evaluation.paired import Change, changes, reason_not_paired
from r1jax.evaluation.summary import Evaluation, Interval, shown_ks
from r1jax.report.rendering import markdown_table
from r1jax.report.style import figure_label

_HEADINGS = ("", "before", "after", "change")


def comparison_table(before: Evaluation, after: Evaluation, title: str | None = None) -> Table:
    """Before and after as a rich table, each figure and each change with its 95% interval."""
    # Narrow enough for 80 columns. On a narrower terminal the cells fold, and no text is lost.
    table = Table(title=title, caption=_caption(before, after), box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for index, heading in enumerate(_HEADINGS):
        table.add_column(heading, justify="right" if index else "left", overflow="fold")
    for row in _rows(before, after):
        table.add_row(*row)
    return table


def comparison_markdown(before: Evaluation, after: Evaluation) -> str:
    """Before and after as a Markdown table, each figure and each change with its 95% interval."""
    return f"{markdown_table(_HEADINGS, _rows(before, after), align='lrrr')}\n{_caption(before, after)}\n"


def headline(before: Evaluation, after: Evaluation) -> str:
    """One line: pass@1 in percent, before and after, with the paired interval of the change."""
    old, new = (f"{100 * one.pass_at[1]:.1f}%" for one in (before, after))
    paired = changes(before, after)
    if paired is None:
        return f"pass@1 {old} -> {new} (not comparable: {reason_not_paired(before, after)})"
    return f"pass@1 {old} -> {new} ({_change('pass_at_1', paired)} points)"


def side_by_side(samples: Iterable[tuple[str, str, str]], width: int = 100, limit: int = 1200) -> str:
    """Completions of the same prompts before and after, as text in two columns.

    samples: (prompt, completion before, completion after). width: characters per line. limit: characters per
    completion; the middle of a longer one is left out.
    """
    # force_jupyter=False: in a notebook, rich would display the text instead of writing it to the file.
    text = io.StringIO()
    page = Console(file=text, width=width, color_system=None, force_jupyter=False)
    for prompt, *completions in samples:
        page.rule("prompt", align="left")
        page.print(Text(_shortened(prompt, limit)))  # Text, so that brackets are not parsed as markup
        columns = Table("before", "after", width=width, box=box.SIMPLE)
        for column in columns.columns:
            column.ratio, column.overflow = 1, "fold"
        columns.add_row(*(Text(_shortened(completion, limit)) for completion in completions))
        page.print(columns)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def _rows(before: Evaluation, after: Evaluation) -> list[tuple[str, str, str, str]]:
    """Label, before, after and change of each figure that both evaluations have, with k in shown_ks."""
    new, paired = after.figures(), changes(before, after)
    shown = set(shown_ks(before.samples_per_problem)) & set(shown_ks(after.samples_per_problem))
    omitted = {f"{figure}_at_{k}" for figure in ("pass", "maj") for k in before.pass_at if k not in shown}
    return [
        (figure_label(name), _cell(name, before), _cell(name, after), _change(name, paired))
        for name in before.figures()
        if name in new and name not in omitted
    ]


def _number(name: str, value: float, sign: str = "") -> str:
    if name == "entropy":
        return f"{value:{sign}.3f}"
    shown = value if name == "mean_length" else 100 * value
    return f"{shown:{sign}.{0 if abs(shown) >= 99.95 else 1}f}"


def _with_interval(name: str, value: float, interval: Interval | None, sign: str = "") -> str:
    shown = _number(name, value, sign)
    return shown if interval is None else f"{shown} [{', '.join(_number(name, end, sign) for end in interval)}]"


def _cell(name: str, evaluation: Evaluation) -> str:
    return _with_interval(name, evaluation.figures()[name], evaluation.intervals[name])


def _change(name: str, paired: Mapping[str, Change] | None) -> str:
    if paired is None or name not in paired:
        return "not comparable"
    return _with_interval(name, paired[name].value, paired[name].interval, "+")


def _caption(before: Evaluation, after: Evaluation) -> str:
    counts = [f"{one.n_problems} held-out problems, {one.samples_per_problem} samples each" for one in (before, after)]
    if after.n_problems == 1:
        note = "one problem gives no interval"
    else:
        note = "in brackets the 95% bootstrap interval over problems, of changes over the same problems in pairs"
    if reason := reason_not_paired(before, after):
        note += f"; not comparable: {reason}"
    return f"{counts[1] if counts[0] == counts[1] else f'before: {counts[0]}; after: {counts[1]}'}; {note}"


def _shortened(text: str, limit: int) -> str:
    """The beginning and the end of a text of more than limit characters, since an answer is at the end."""
    if len(text) <= limit:
        return text
    head, tail = limit - limit // 2, limit // 2
    return f"{text[:head]}\n[... {len(text) - limit} characters ...]\n{text[len(text) - tail :]}"
