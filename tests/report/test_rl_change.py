from __future__ import annotations

import numpy as np
import pytest

from r1jax.errors import UserError
from r1jax.evaluation.rl_change import rl_change
from r1jax.report.rl_change import conclusion, crossing_line, figures_table, levels_table, read_study
from tests.helpers.evaluations import outcomes
from tests.report.helpers import cells

NAMES = [str(i) for i in range(40)]


def change(before, after, n=16):
    pair = (outcomes(np.array(counts), NAMES, n, ks=range(1, n + 1)) for counts in (before, after))
    return rl_change([tuple(pair)])


HARD = [0] * 20 + [4] * 20


@pytest.mark.parametrize(
    ("after", "text"),
    [
        ([0] * 20 + [16] * 20, "supported (maj@k"),
        ([0] * 25 + [16] * 15, "supported, and RL even loses problems"),
        ([16] * 40, "refuted: RL solves problems"),
        (HARD, "refuted: the majority vote does not improve"),
        ([0] * 19 + [1] + [16] * 20, "undecided"),
    ],
)
def test_the_conclusion_follows_from_the_intervals(after, text) -> None:
    found = conclusion(change(HARD, after))
    assert text in found and "too easy" not in found


def test_the_conclusion_says_when_the_base_solves_nearly_everything() -> None:
    found = conclusion(change([0] + [8] * 39, [16] * 40))
    assert "The base solves 98% in 16 samples: the problems are too easy" in found


def test_the_tables_hold_the_figures_in_percent() -> None:
    found = change(HARD, [0] * 20 + [16] * 20)
    rows = {row[0]: row[1:] for row in cells(figures_table(found))}
    assert rows["pass@1, %"][0].startswith("12.5 [") and rows["pass@1, %"][2].startswith("+37.5 [")
    assert rows["pass@16, %"][2] == "+0.0 [+0.0, +0.0]" and "pass@3, %" not in rows
    assert [row[:2] for row in cells(levels_table(found))[2:]] == [["0", "20"], ["above 12.5 to 50", "20"]]
    assert [row[3] for row in cells(levels_table(found))[2:]] == ["+0.0 [+0.0, +0.0]", "+75.0 [+75.0, +75.0]"]


def test_the_line_of_the_crossing_says_when_there_is_none() -> None:
    # 1 - C(12, k) / C(16, k) is above 3/4 from k = 5 on.
    assert "cross at k = 5 " in crossing_line(change(HARD, [0] * 25 + [16] * 15))
    assert "do not cross up to k = 16 " in crossing_line(change(HARD, [0] * 20 + [16] * 20))  # both reach 50%
    assert "do not cross up to k = 16 " in crossing_line(change(HARD, [16] * 40))


def test_a_folder_without_a_study_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match=r"has no study\.json"):
        read_study(tmp_path)
