from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.image import imread
from rich.console import Console

from r1jax.errors import UserError
from r1jax.evaluation.curves import plot_curves, plot_pass_at_k, smooth
from r1jax.evaluation.estimators import bootstrap_interval, maj_at_k, pass_at_k
from r1jax.evaluation.report import (
    Evaluation,
    comparison_markdown,
    comparison_table,
    side_by_side,
    summarise,
)


@pytest.mark.parametrize("n", [1, 4, 6])
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample(n: int) -> None:
    correct = np.array(list(itertools.product([False, True], repeat=n)))
    for k in range(1, n + 1):
        expected = [np.mean([any(subset) for subset in itertools.combinations(row, k)]) for row in correct.tolist()]
        np.testing.assert_allclose(pass_at_k(correct, k), expected, atol=1e-12)


def test_pass_at_k_of_many_samples_is_exact() -> None:
    correct = np.zeros((1, 10_000), bool)
    correct[0, 0] = True
    assert pass_at_k(correct, 5_000)[0] == pytest.approx(0.5, rel=1e-9)  # each half holds it equally often


def majority(answers: tuple[str | None, ...]) -> str | None:
    """The winner by counting each answer from the first seen on."""
    best, most = None, 0
    for answer in answers:
        if answer is not None and answers.count(answer) > most:
            best, most = answer, answers.count(answer)
    return best


def test_maj_at_k_is_the_correctness_of_the_winner_of_every_possible_vote() -> None:
    rows = list(itertools.product(["7", "8", None], repeat=4))
    for truth, k in itertools.product(["7", "8"], range(1, 5)):
        correct = np.array([[answer == truth for answer in row] for row in rows])
        expected = [majority(row[:k]) == truth for row in rows]
        np.testing.assert_array_equal(maj_at_k(rows, correct, k), expected)


@pytest.mark.parametrize(
    ("answers", "truth", "won"),
    [
        (["8", "7", "7"], "7", 1),
        (["8", "7"], "8", 1),  # a tie: seen first
        (["8", "7"], "7", 0),
        ([None, None, "7"], "7", 1),  # what cannot be read has no vote
        ([None, None, None], "7", 0),
    ],
)
def test_maj_at_k_by_hand(answers: list[str | None], truth: str, won: int) -> None:
    assert maj_at_k([answers], np.array([[a == truth for a in answers]]), len(answers))[0] == won


@pytest.mark.parametrize(("shape", "k"), [((2, 4), 5), ((2, 4), 0), ((0, 4), 1), ((4,), 1)])
def test_a_k_that_cannot_be_estimated_is_refused(shape: tuple[int, ...], k: int) -> None:
    with pytest.raises(ValueError, match=f"k = {k}"):
        pass_at_k(np.zeros(shape, bool), k)
    with pytest.raises(ValueError, match=f"k = {k}"):
        maj_at_k([["7"] * 4] * shape[0], np.zeros(shape, bool), k)


def test_the_interval_is_the_quantiles_of_every_resample() -> None:
    values = np.array([0.0, 0.1, 0.5, 1.0])
    means = [np.mean(draw) for draw in itertools.product(values, repeat=4)]
    for level in (0.5, 0.9):
        expected = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
        found = bootstrap_interval(values, seed=0, level=level, resamples=20_000)
        np.testing.assert_allclose(found, expected, atol=0.03)


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    intervals = [bootstrap_interval(rng.random(60) < 0.3, seed, level=0.8, resamples=300) for seed in range(300)]
    assert np.mean([low <= 0.3 <= high for low, high in intervals]) == pytest.approx(0.8, abs=0.07)


def test_the_interval_depends_on_the_seed_alone() -> None:
    values = np.random.default_rng(0).random(30)
    assert bootstrap_interval(values, 1) == bootstrap_interval(values, 1) != bootstrap_interval(values, 2)


def evaluation(share: float, seed: int) -> tuple[Evaluation, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    arrays = {
        "correct": rng.random((20, 4)) < share,
        "well_formed": rng.random((20, 4)) < 0.9,
        "lengths": rng.integers(5, 50, (20, 4)),
        "truncated": rng.random((20, 4)) < 0.2,
        "readable": rng.random((20, 4)) < 0.5,
    }
    answers = [["7" if right else None for right in row] for row in arrays["correct"]]
    return summarise(answers, **arrays, ks=(1, 4), seed=0, rewards={}, accuracy_by_kind={}), arrays


def test_an_evaluation_holds_the_mean_of_each_figure_and_an_interval_around_it() -> None:
    found, arrays = evaluation(0.3, 0)
    assert found.figures() == pytest.approx(
        {
            "pass_at_1": arrays["correct"].mean(),
            "pass_at_4": arrays["correct"].any(1).mean(),
            "maj_at_4": arrays["correct"].any(1).mean(),  # the only other answer is None
            "format_rate": arrays["well_formed"].mean(),
            "readable_correct": (arrays["readable"] & arrays["correct"]).mean(),
            "mean_length": arrays["lengths"].mean(),
            "truncated_share": arrays["truncated"].mean(),
        }
    )
    assert (found.n_problems, found.samples_per_problem) == (20, 4)
    assert found.pass_at.keys() == {1, 4} and found.maj_at.keys() == {4}
    assert found.intervals.keys() == found.figures().keys()
    for name, value in found.figures().items():
        assert found.intervals[name][0] <= value <= found.intervals[name][1]


def by_hand(pass_at_1: float, length: float) -> Evaluation:
    """An evaluation with round figures, each with an interval of 0.1 on either side."""
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
        n_problems=64,
        samples_per_problem=8,
        rewards={},
        accuracy_by_kind={},
    )


ROWS = [
    ("", "before", "after", "change"),
    ("pass@1, %", "20.0 [10.0, 30.0]", "85.0 [75.0, 95.0]", "+65.0"),
    ("maj@8, %", "50.0 [40.0, 60.0]", "50.0 [40.0, 60.0]", "+0.0"),
    ("format rate, %", "90.0 [80.0, 100.0]", "90.0 [80.0, 100.0]", "+0.0"),
    ("readable and correct, %", "30.0 [20.0, 40.0]", "30.0 [20.0, 40.0]", "+0.0"),
    ("mean length, tokens", "40.0 [39.9, 40.1]", "38.5 [38.4, 38.6]", "-1.5"),
    ("truncated share, %", "25.0 [15.0, 35.0]", "25.0 [15.0, 35.0]", "+0.0"),
]


def test_markdown_sets_before_beside_after() -> None:
    found = comparison_markdown(by_hand(0.2, 40.0), by_hand(0.85, 38.5)).splitlines()
    table = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in found if line.startswith("|")]
    assert [table[0], *table[2:]] == ROWS
    assert len(table[1]) == len(ROWS[0]) and {cell.strip("-:") for cell in table[1]} == {""}
    assert "64 held-out problems, 8 samples each" in found[-1]


def test_a_table_shows_the_powers_of_two_and_the_last_of_all_k() -> None:
    arrays = {name: np.ones((2, 6), bool) for name in ("correct", "well_formed", "truncated", "readable")}
    answers = [["7"] * 6] * 2
    found = summarise(
        answers, **arrays, lengths=np.ones((2, 6)), ks=range(1, 7), seed=0, rewards={}, accuracy_by_kind={}
    )
    lines = comparison_markdown(found, found).splitlines()
    labels = [line.split("|")[1].strip(" ,%") for line in lines if "@" in line]
    assert labels == ["pass@1", "pass@2", "pass@4", "pass@6", "maj@2", "maj@4", "maj@6"]


def test_the_table_on_a_terminal_holds_the_same_cells() -> None:
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(comparison_table(by_hand(0.2, 40.0), by_hand(0.85, 38.5), title="R1-Zero"))
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert lines[0] == "R1-Zero"
    assert [row for row in ROWS if " ".join(row).strip() not in lines] == []


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


def test_smoothing_is_the_mean_of_the_known_values_around_each_step() -> None:
    values = np.array([1.0, 2.0, np.nan, 4.0, 8.0, 16.0])
    for window in (1, 2, 3, 5, 9):
        before, after = (window - 1) - (window - 1) // 2, (window - 1) // 2
        expected = [
            np.nanmean(values[max(0, i - before) : i + after + 1]) if window > 1 else values[i] for i in range(6)
        ]
        np.testing.assert_allclose(smooth(values, window), expected, rtol=1e-12)


def rows(*names: str) -> list[dict[str, float | None]]:
    return [{"step": step, **{name: 0.1 * step for name in names}} for step in range(40)]


@pytest.mark.parametrize(
    ("names", "panels"),
    [
        (("reward_accuracy", "unknown"), 1),
        (("reward_accuracy", "reward_format", "length_mean", "kl", "entropy"), 5),
        (
            ("reward_accuracy", "reward_format", "length_mean", "truncated_share", "kl", "entropy", "gradient_norm"),
            7,
        ),
    ],
)
def test_curves_have_one_panel_for_each_known_metric(names: tuple[str, ...], panels: int, tmp_path: Path) -> None:
    metrics = rows(*names)
    metrics[0] = {"step": 0, names[0]: None}  # a gap
    plot_curves({"": metrics}, tmp_path / "curves.svg")
    drawn = (tmp_path / "curves.svg").read_text()
    assert drawn.count('id="axes_') == panels
    plot_curves({"": metrics}, tmp_path / "curves.png")
    pixels = imread(tmp_path / "curves.png")
    assert pixels.shape[1] == 480 * min(panels, 4)
    assert (pixels[0, :, :3] == 1).all()  # a light background


def test_runs_share_panels_and_are_named_once(tmp_path: Path) -> None:
    path = tmp_path / "curves.svg"
    with rc_context({"svg.fonttype": "none"}):
        plot_curves({"with": rows("kl", "reward_language"), "without": rows("kl"), "other": []}, path)
    drawn = path.read_text()
    assert drawn.count('id="axes_') == 2
    names = [drawn.count(f">{name}<") for name in ("with", "without", "other")]
    assert names == [1, 1, 0]


def test_pass_at_k_is_drawn_for_each_model(tmp_path: Path) -> None:
    path = tmp_path / "pass.svg"
    with rc_context({"svg.fonttype": "none"}):
        plot_pass_at_k({"base": {1: 0.1, 2: 0.3, 3: 0.4, 4: 0.5}, "R1": {1: 0.4, 2: 0.5, 3: 0.5, 4: 0.5}}, path)
    drawn = path.read_text()
    assert all(f">{text}<" in drawn for text in ("base", "R1", "1", "2", "4", "pass@k"))


def test_without_values_there_is_no_picture(tmp_path: Path) -> None:
    for metrics in ([], rows("unknown"), [{"step": 0, "kl": None}]):
        plot_curves({"": metrics}, tmp_path / "curves.png")
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "curves.png"
    with pytest.raises(UserError, match="cannot write") as refused:
        plot_curves({"": rows("kl")}, path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)
