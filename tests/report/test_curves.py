from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.image import imread

from r1jax.errors import UserError
from r1jax.report.curves import plot_curves, plot_headline, plot_pass_at_k, smooth
from r1jax.report.style import MODEL_STYLES
from tests.helpers.evaluations import evaluation, outcomes


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
    assert all(MODEL_STYLES[name].colour in drawn for name in ("base", "r1"))


def test_a_model_has_one_colour_in_every_picture(tmp_path: Path) -> None:
    label, colour = "5 R1", MODEL_STYLES["r1"].colour
    found = evaluation(0.5, 0)[0]
    for at, others in enumerate(([], ["base", "zero"], ["mine"])):
        names = [*others, label]
        plot_curves({name: rows("kl") for name in names}, tmp_path / "c.svg", models={label: "r1"})
        plot_pass_at_k(dict.fromkeys(names, found), tmp_path / "p.svg", models={label: "r1"})
        plot_headline(dict.fromkeys(names, found), tmp_path / "b.svg", models={label: "r1"})
        for name in "cpb":
            drawn = (tmp_path / f"{name}.svg").read_text()
            assert colour in drawn and (MODEL_STYLES["base"].colour in drawn or at != 1), (at, name)


def test_without_values_there_is_no_picture(tmp_path: Path) -> None:
    for metrics in ([], rows("unknown"), [{"step": 0, "kl": None}]):
        plot_curves({"": metrics}, tmp_path / "curves.png")
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "curves.png"
    with pytest.raises(UserError, match="cannot write") as refused:
        plot_curves({"": rows("kl")}, path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)
