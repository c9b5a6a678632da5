from __future__ import annotations

import dataclasses
import io
import itertools
import json
from fractions import Fraction
from pathlib import Path

import jax
import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.image import imread
from rich.console import Console

from r1jax.errors import UserError
from r1jax.evaluation.estimators import bootstrap_intervals, maj_at_k, pass_at_k
from r1jax.evaluation.evaluate import equal_parts, evaluation_from
from r1jax.evaluation.paired import changes
from r1jax.report.colours import LOOKS, looks
from r1jax.report.comparison import Evaluation, comparison_markdown, comparison_table, headline, side_by_side, summarise
from r1jax.report.curves import plot_curves, plot_headline, plot_pass_at_k, smooth
from r1jax.sharding import make_mesh


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


def share_of_votes_won(votes: tuple[int, ...], k: int) -> Fraction:
    """Every subset of size k is asked for its winner; a tie counts for each of those that tie."""
    won = Fraction(0)
    subsets = list(itertools.combinations(votes, k))
    for subset in subsets:
        sizes = {vote: subset.count(vote) for vote in subset if vote >= 0}
        best = [vote for vote, size in sizes.items() if size == max(sizes.values())]
        won += Fraction(int(0 in best), len(best) or 1)
    return won / len(subsets)


@pytest.mark.parametrize("n", [1, 3, 5])
def test_maj_at_k_is_the_mean_over_all_subsets(n: int) -> None:
    votes = list(itertools.product([-1, 0, 1, 2], repeat=n))
    for k in range(1, n + 1):
        expected = [float(share_of_votes_won(row, k)) for row in votes]
        np.testing.assert_allclose(maj_at_k(np.array(votes), k), expected, atol=1e-12)


def test_maj_at_k_of_larger_votes_is_the_mean_over_all_subsets() -> None:
    votes = np.random.default_rng(0).choice([-1, 0, 1, 2, 3], (4, 11), p=[0.1, 0.3, 0.3, 0.2, 0.1])
    for k in (2, 4, 7, 10):
        expected = [float(share_of_votes_won(tuple(row), k)) for row in votes.tolist()]
        np.testing.assert_allclose(maj_at_k(votes, k), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("votes", "k", "won"),
    [
        ([0, 0, 0, 1, 1], 5, 1),
        ([0, 0, 0, 1, 1], 3, 7 / 10),  # of the ten triples three have two of the wrong answer
        ([1, 0, 0], 1, 2 / 3),  # of the three samples alone, and not of the first
        ([1, 0], 2, 1 / 2),  # a tie
        ([0, 1, 2], 3, 1 / 3),
        ([-1, -1, 0], 3, 1),  # what cannot be read has no vote
        ([-1, -1, -1], 3, 0),
    ],
)
def test_maj_at_k_by_hand(votes: list[int], k: int, won: float) -> None:
    assert maj_at_k(np.array([votes]), k)[0] == pytest.approx(won, rel=1e-12)


def test_maj_at_k_does_not_depend_on_the_order_of_the_samples() -> None:
    votes = np.random.default_rng(0).integers(-1, 4, (1, 12))
    shuffled = np.random.default_rng(1).permuted(votes, axis=1)
    assert [maj_at_k(votes, k)[0] for k in range(1, 13)] == [maj_at_k(shuffled, k)[0] for k in range(1, 13)]


def test_maj_at_k_of_many_samples_is_exact() -> None:
    # 200 right votes against 200 single wrong ones: a pair elects the right answer where it has two right ones, and
    # half the time where it has one.
    votes = np.arange(400)[None] - 200
    votes = np.where(votes < 0, 0, votes + 1)
    two, one = 200 * 199 / (400 * 399), 2 * 200 * 200 / (400 * 399)
    assert maj_at_k(votes, 2)[0] == pytest.approx(two + one / 2, rel=1e-9)
    assert maj_at_k(votes, 400)[0] == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize(("shape", "k"), [((2, 4), 5), ((2, 4), 0), ((0, 4), 1), ((4,), 1)])
def test_a_k_that_cannot_be_estimated_is_refused(shape: tuple[int, ...], k: int) -> None:
    with pytest.raises(ValueError, match=f"k = {k}"):
        pass_at_k(np.zeros(shape, bool), k)
    with pytest.raises(ValueError, match=f"k = {k}"):
        maj_at_k(np.zeros(shape, int), k)


def test_the_interval_is_the_quantiles_of_every_resample() -> None:
    values = np.array([0.0, 0.1, 0.5, 1.0])
    means = [np.mean(draw) for draw in itertools.product(values, repeat=4)]
    for level in (0.5, 0.9):
        expected = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
        found = bootstrap_intervals({"mean": values}, seed=0, level=level, resamples=20_000)["mean"]
        np.testing.assert_allclose(found, expected, atol=0.03)


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    figures = [{"mean": rng.random(60) < 0.3} for _ in range(300)]
    intervals = [bootstrap_intervals(f, seed, level=0.8, resamples=300)["mean"] for seed, f in enumerate(figures)]
    assert None not in intervals and np.mean([low <= 0.3 <= high for low, high in intervals]) == pytest.approx(
        0.8, abs=0.07
    )


def test_the_interval_depends_on_the_seed_alone() -> None:
    values = np.random.default_rng(0).random(30)
    one, same, other = (bootstrap_intervals({"mean": values}, seed) for seed in (1, 1, 2))
    assert one == same != other


def test_one_problem_has_no_interval() -> None:
    assert bootstrap_intervals({"mean": np.array([0.5]), "other": np.array([1.0])}, 0) == {"mean": None, "other": None}


def evaluation(share: float, seed: int) -> tuple[Evaluation, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    arrays = {
        "correct": rng.random((20, 4)) < share,
        "well_formed": rng.random((20, 4)) < 0.9,
        "lengths": rng.integers(5, 50, (20, 4)),
        "truncated": rng.random((20, 4)) < 0.2,
        "readable": rng.random((20, 4)) < 0.5,
    }
    votes = np.where(arrays["correct"], 0, -1)
    names = [f"problem {i}" for i in range(20)]
    return summarise(names, votes, **arrays, ks=(1, 4), seed=0, rewards={}, accuracy_by_kind={}), arrays


def test_an_evaluation_holds_the_mean_of_each_figure_and_an_interval_around_it() -> None:
    found, arrays = evaluation(0.3, 0)
    assert found.figures() == pytest.approx(
        {
            "pass_at_1": arrays["correct"].mean(),
            "pass_at_4": arrays["correct"].any(1).mean(),
            "maj_at_4": arrays["correct"].any(1).mean(),  # nothing else has a vote
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
        low, high = found.intervals[name] or (1, 0)
        assert low <= value <= high


def by_hand(pass_at_1: float, length: float) -> Evaluation:
    """An evaluation of two problems with round figures, 0.1 below them for one problem and 0.1 above for the other."""
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
    found = summarise(
        ["a", "b"], votes, **arrays, lengths=lengths, ks=range(1, 7), seed=0, rewards={}, accuracy_by_kind={}
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


def test_the_table_fits_a_terminal_of_80_columns_and_loses_nothing_on_a_narrow_one() -> None:
    before, after = by_hand(0.2, 240.0), by_hand(0.85, 338.5)
    for width in (80, 40):
        console = Console(file=io.StringIO(), width=width, record=True)
        console.print(comparison_table(before, after))
        text = console.export_text()
        assert "…" not in text and all(len(line.rstrip()) <= width for line in text.splitlines())
        assert width < 80 or "+65.0 [+65.0, +65.0]" in text
        assert "".join(text.split()).count("65.0") >= 3


def outcomes(right: np.ndarray, names: list[str], n: int = 8) -> Evaluation:
    """An evaluation in which a problem's first samples are right, as many as ``right`` [P] says."""
    correct = np.arange(n) < right[:, None]
    ones = np.ones(correct.shape, bool)
    return summarise(
        names,
        np.where(correct, 0, 1),
        correct,
        ones,
        ones * 10,
        ~ones,
        ks=(1,),
        seed=0,
        readable=ones,
        rewards={},
        accuracy_by_kind={},
    )


def test_a_change_has_the_interval_of_every_paired_resample() -> None:
    first, second = np.array([1, 4, 2, 8]), np.array([2, 3, 6, 8])
    found = changes(outcomes(first, list("abcd")), outcomes(second, list("abcd")))
    assert found is not None
    change = found["pass_at_1"]
    means = [np.mean([(second[i] - first[i]) / 8 for i in draw]) for draw in itertools.product(range(4), repeat=4)]
    assert change.value == pytest.approx(np.mean((second - first) / 8))
    assert change.interval == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.02)


def test_problems_are_matched_by_what_they_are_and_not_by_their_order() -> None:
    first, second, order = np.array([1, 4, 2, 8]), np.array([2, 3, 6, 8]), [3, 1, 0, 2]
    names = ["a", "b", "b", "d"]  # one is there twice
    one = changes(outcomes(first, names), outcomes(second, names))
    other = changes(outcomes(first, names), outcomes(second[order], [names[i] for i in order]))
    assert one is not None and one == other
    assert one["pass_at_1"].value == pytest.approx(4 / 32)


@pytest.mark.parametrize("names", [["a", "b", "c"], ["a", "b", "e", "d"], []])
def test_other_problems_are_not_compared(names: list[str]) -> None:
    first = outcomes(np.array([1, 4, 2, 8]), list("abcd"))
    second = outcomes(np.array([2, 5, 3, 8])[: len(names) or 4], names)
    assert changes(first, second) is None
    assert "not comparable" in headline(first, second) and "not comparable" in comparison_markdown(first, second)


def test_pairs_tell_apart_what_intervals_by_themselves_do_not() -> None:
    """Problems differ more than models: a few points more on the same 128 problems, with 8 samples of each."""
    rng = np.random.default_rng(0)
    apart, overlapping, by_chance = 0, 0, 0
    for _ in range(10):
        share = rng.beta(0.5, 0.5, 128)
        names = [str(i) for i in range(128)]
        first, again, better = (
            outcomes(rng.binomial(8, np.clip(share + more, 0, 1)), names) for more in (0.0, 0.0, 0.08)
        )
        ends = [one.intervals["pass_at_1"] or (0, 0) for one in (first, better)]
        overlapping += ends[1][0] <= ends[0][1]
        apart += (changes(first, better) or {})["pass_at_1"].told_apart
        by_chance += (changes(first, again) or {})["pass_at_1"].told_apart
    assert overlapping == 10 and apart >= 8 and by_chance <= 2


def test_one_problem_is_compared_without_an_interval_and_survives_json() -> None:
    one, other = outcomes(np.array([2]), ["a"]), outcomes(np.array([4]), ["a"])
    assert headline(one, other) == "pass@1 25.0% -> 50.0% (+25.0 points)"
    text = comparison_markdown(one, other)
    assert "| pass@1, % | 25.0 | 50.0 | +25.0 |" in text and "one problem gives no interval" in text
    assert evaluation_from(json.loads(json.dumps(dataclasses.asdict(one), allow_nan=False))) == one


def test_an_evaluation_of_an_older_version_is_read_and_not_compared() -> None:
    one = outcomes(np.array([2, 3]), ["a", "b"])
    fields = json.loads(json.dumps(dataclasses.asdict(one)))
    old = evaluation_from({name: value for name, value in fields.items() if name not in ("problems", "by_problem")})
    assert old.figures() == one.figures() and changes(old, one) is None


def test_rewards_that_judge_a_part_are_means_of_that_part_alone() -> None:
    ones = np.ones((2, 2), bool)
    rewards = {"all": ones * 0.5, "some": np.array([[0.2, 0.4], [np.nan] * 2]), "none": np.full((2, 2), np.nan)}
    found = summarise(
        ["a", "b"],
        ones * 0,
        ones,
        ones,
        ones,
        ones,
        ks=(1, 2),
        seed=0,
        readable=ones,
        rewards=rewards,
        accuracy_by_kind={},
    )
    assert found.rewards == pytest.approx({"all": 0.5, "some": 0.3})
    assert found.by_problem["reward_all"] == (0.5, 0.5) and "reward_some" not in found.by_problem


@pytest.mark.parametrize(
    ("problems", "samples", "mesh", "parts"),
    [
        (128, 8, "1x1", 2),  # 512 sequences each
        (128, 4, "1x1", 1),
        (128, 64, "1x1", 4),
        (97, 64, "1x1", 1),  # a part of another size would be compiled by itself
        (96, 64, "8x1", 4),
        (24, 128, "8x1", 3),  # eight problems a part, one a device; four parts would leave devices without any
        (100, 64, "8x1", 4),  # the devices share one queue in any case
    ],
)
def test_an_evaluation_is_sampled_in_equal_parts_that_fill_every_device(problems, samples, mesh, parts) -> None:
    with jax.set_mesh(make_mesh(mesh)):
        assert equal_parts(problems, samples) == parts


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
        (("reward_accuracy", "reward_format", "length_mean", "truncated_share", "kl", "entropy", "gradient_norm"), 7),
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
        plot_pass_at_k({"base": evaluation(0.2, 0)[0], "R1": evaluation(0.6, 1)[0]}, path, "tiny, seed 3")
    drawn = path.read_text()
    assert all(f">{text}<" in drawn for text in ("base", "R1", "1", "2", "4", "pass@k"))
    assert "tiny, seed 3" in drawn
    assert drawn.count('id="FillBetweenPolyCollection') == 2  # an interval around each


def test_the_headline_is_a_bar_for_each_model_with_its_interval(tmp_path: Path) -> None:
    path = tmp_path / "bars.svg"
    with rc_context({"svg.fonttype": "none"}):
        models = {
            "base": evaluation(0.2, 0)[0],
            "R1": evaluation(0.6, 1)[0],
            "one problem": outcomes(np.array([2]), ["a"]),
        }
        plot_headline(models, path, "tiny, seed 3", {"base": "base", "R1": "r1"})
    drawn = path.read_text()
    shown = [f"{100 * one.pass_at[1]:.1f}%" for one in models.values()]
    assert all(f">{text}<" in drawn for text in (*models, *shown)) and "tiny, seed 3" in drawn
    assert all(LOOKS[name].colour in drawn for name in ("base", "r1"))


def test_a_model_has_one_colour_in_every_picture(tmp_path: Path) -> None:
    label, colour = "5 R1", LOOKS["r1"].colour
    found = evaluation(0.5, 0)[0]
    for at, others in enumerate(([], ["base", "zero"], ["mine"])):
        names = [*others, label]
        plot_curves({name: rows("kl") for name in names}, tmp_path / "c.svg", models={label: "r1"})
        plot_pass_at_k(dict.fromkeys(names, found), tmp_path / "p.svg", models={label: "r1"})
        plot_headline(dict.fromkeys(names, found), tmp_path / "b.svg", models={label: "r1"})
        for name in "cpb":
            drawn = (tmp_path / f"{name}.svg").read_text()
            assert colour in drawn and (LOOKS["base"].colour in drawn or at != 1), (at, name)


def test_models_without_a_look_take_colours_that_the_others_leave() -> None:
    found = looks(["r1", "mine", "other", "r1"])
    assert found[0] == LOOKS["r1"] and found[3].colour == found[0].colour and found[3].line != found[0].line
    assert len({look.colour for look in found[:3]}) == 3


# Simulation of each kind of colour blindness in linear RGB (Machado, Oliveira and Fernandes 2009, severity 1).
BLINDNESS = {
    "none": np.eye(3),
    "red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colour: str, seen: np.ndarray) -> np.ndarray:
    """CIELAB of an sRGB colour as it is seen."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    x, y, z = np.cbrt(XYZ @ np.clip(seen @ linear, 0.001, 1) / XYZ.sum(1))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("kind", BLINDNESS)
def test_colour_blind_readers_tell_models_apart(kind: str) -> None:
    seen = [lab(look.colour, np.array(BLINDNESS[kind])) for look in LOOKS.values()]
    assert min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2)) > 15


def test_without_values_there_is_no_picture(tmp_path: Path) -> None:
    for metrics in ([], rows("unknown"), [{"step": 0, "kl": None}]):
        plot_curves({"": metrics}, tmp_path / "curves.png")
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "curves.png"
    with pytest.raises(UserError, match="cannot write") as refused:
        plot_curves({"": rows("kl")}, path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)
