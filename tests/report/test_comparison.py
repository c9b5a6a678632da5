from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
from rich.console import Console

from r1jax.evaluation.summary import Evaluation, Outcomes, summarise
from r1jax.report.comparison import comparison_markdown, comparison_table, headline, side_by_side
from tests.helpers.evaluations import outcomes


def by_hand(pass_at_1: float, length: float) -> Evaluation:
    """An evaluation with round figures, from one problem with 0.1 less and one with 0.1 more."""
    figures = {"pass_at_1": pass_at_1, "maj_at_8": 0.5, "format_rate": 0.9, "mean_length": length}
    figures |= {"truncated_share": 0.25, "readable_correct": 0.3}
    return Evaluation(
        pass_at={1: pass_at_1},
        maj_at={8: 0.5},
        format_rate=0.9,
        mean_length=length,
        truncated_share=0.25,
        readable_correct=0.3,
        intervals={name: (value - 0.1, value + 0.1) for name, value in figures.items()},
        n_problems=2,
        samples_per_problem=8,
        rewards={},
        accuracy_by_kind={},
        problems=("one", "two"),
        by_problem={name: (value - 0.1, value + 0.1) for name, value in figures.items()},
    )


# Both problems change by the same in each figure, so a change is certain however problems are drawn.
ROWS = [
    ("", "before", "after", "change"),
    ("pass@1, %", "20.0 [10.0, 30.0]", "85.0 [75.0, 95.0]", "+65.0 [+65.0, +65.0]"),
    ("maj@8, %", "50.0 [40.0, 60.0]", "50.0 [40.0, 60.0]", "+0.0 [+0.0, +0.0]"),
    ("format rate, %", "90.0 [80.0, 100]", "90.0 [80.0, 100]", "+0.0 [+0.0, +0.0]"),
    ("readable and correct, %", "30.0 [20.0, 40.0]", "30.0 [20.0, 40.0]", "+0.0 [+0.0, +0.0]"),
    ("mean length, tokens", "40.0 [39.9, 40.1]", "38.5 [38.4, 38.6]", "-1.5 [-1.5, -1.5]"),
    ("truncated share, %", "25.0 [15.0, 35.0]", "25.0 [15.0, 35.0]", "+0.0 [+0.0, +0.0]"),
]


def test_markdown_sets_before_beside_after() -> None:
    found = comparison_markdown(by_hand(0.2, 40.0), by_hand(0.85, 38.5)).splitlines()
    table = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in found if line.startswith("|")]
    assert [table[0], *table[2:]] == ROWS
    assert len(table[1]) == len(ROWS[0]) and {cell.strip("-:") for cell in table[1]} == {""}
    assert "2 held-out problems, 8 samples each" in found[-1]


def test_a_table_shows_the_powers_of_two_and_the_last_of_all_k() -> None:
    arrays = {name: np.ones((2, 6), bool) for name in ("correct", "well_formed", "truncated", "readable")}
    votes, lengths = np.zeros((2, 6), int), np.ones((2, 6))
    outcomes = Outcomes(votes, lengths=lengths, rewards={}, **arrays)
    found = summarise(["a", "b"], outcomes, {}, ks=range(1, 7), seed=0)
    lines = comparison_markdown(found, found).splitlines()
    labels = [line.split("|")[1].strip(" ,%") for line in lines if "@" in line]
    assert labels == ["pass@1", "pass@2", "pass@4", "pass@6", "maj@2", "maj@4", "maj@6"]


def test_the_table_on_a_terminal_holds_the_same_cells() -> None:
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(comparison_table(by_hand(0.2, 40.0), by_hand(0.85, 38.5), title="R1-Zero"))
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert lines[0] == "R1-Zero"
    assert [row for row in ROWS if " ".join(row).strip() not in lines] == []


def test_the_table_fits_a_terminal_of_80_columns_and_loses_nothing_on_a_narrow_one() -> None:
    before, after = by_hand(0.2, 240.0), by_hand(0.85, 338.5)
    for width in (80, 40):
        console = Console(file=io.StringIO(), width=width, record=True)
        console.print(comparison_table(before, after))
        text = console.export_text()
        assert "…" not in text and all(len(line.rstrip()) <= width for line in text.splitlines())
        assert width < 80 or "+65.0 [+65.0, +65.0]" in text
        assert "".join(text.split()).count("65.0") >= 3


def test_one_problem_is_compared_without_an_interval_and_survives_json() -> None:
    one, other = outcomes(np.array([2]), ["a"]), outcomes(np.array([4]), ["a"])
    assert headline(one, other) == "pass@1 25.0% -> 50.0% (+25.0 points)"
    text = comparison_markdown(one, other)
    assert "| pass@1, % | 25.0 | 50.0 | +25.0 |" in text and "one problem gives no interval" in text
    assert Evaluation.from_json(json.loads(json.dumps(dataclasses.asdict(one), allow_nan=False))) == one


def test_completions_stand_side_by_side_and_lose_nothing() -> None:
    text = side_by_side([("What is [bold]7+5[/bold]?", "I think\nit is 12", "<think>7+5</think>")], width=60)
    lines = text.splitlines()
    assert any("What is [bold]7+5[/bold]?" in line for line in lines)  # brackets are text, not markup
    (first,) = [line for line in lines if "I think" in line]
    assert "<think>7+5</think>" in first and first.index("<think>") > 25
    assert any("it is 12" in line for line in lines)


def test_long_completions_keep_both_ends_within_the_width() -> None:
    before = "".join(f"{i:04d}" for i in range(1000))
    lines = side_by_side([("", before, "等于七" * 30)], width=50, limit=100).splitlines()
    assert max(len(line) for line in lines) <= 50
    left = "".join(line[:25].strip() for line in lines)
    first, _, last = left.partition("3900")
    assert before[:50] in first and last.split("]")[-1] == before[-50:]
    assert "".join(character for line in lines for character in line if character in "等于七") == "等于七" * 30
