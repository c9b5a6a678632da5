"""The report of an ablation with a known effect: readings, tables, pictures and the result file."""

import itertools
import json

import numpy as np
import pytest
from rich.console import Console

from r1jax.ablation.result import Ablation
from r1jax.evaluation.paired import Change
from r1jax.report.ablation import reading, summary, write_report

BETA, GROUP = (0, 0.5), (2, 4, 8)


def made(seeds):
    """Accuracy rises by 0.2 with beta; the group size has no effect; seeds differ by up to 0.7 in all arms alike."""
    # Only differences of the same seed show the effect.
    rng = np.random.default_rng(0)
    arms = tuple({"rl.beta": beta, "rl.group": group} for beta, group in itertools.product(BETA, GROUP))
    level = 0.7 * rng.random(seeds)
    accuracy = np.array([0.4 * arm["rl.beta"] + level + 0.01 * rng.normal(size=seeds) for arm in arms])
    reward = accuracy[..., None] * np.linspace(0, 1, 40)
    about = {"device": "1 x cpu", "seconds": 12.0, "jax": "0.10"}
    before = {"accuracy": np.zeros(accuracy.shape)}
    return Ablation(
        {"rl.beta": BETA, "rl.group": GROUP},
        arms,
        tuple(range(seeds)),
        {"reward": reward},
        before,
        {"accuracy": accuracy},
        about,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    write_report(made(4), out, "Ablation · tiny", Console(quiet=True))
    return out


def test_the_report_finds_the_effect_and_no_other(folder):
    page = (folder / "report.md").read_text()
    beta, group, arms = (page.split("\n## ")[i] for i in (1, 2, 3))
    assert beta.startswith("rl.beta") and beta.count("| higher |") == 1 and "no difference" not in beta
    assert group.startswith("rl.group") and group.count("| no difference |") == 2 and "higher" not in group
    rows = [line for line in arms.splitlines() if line.startswith("| 0")]
    assert len(rows) == 6 and sum("higher" in row for row in rows) == 3
    assert "95% t-interval over seeds" in page and "paired by seed" in page


def test_the_page_has_a_picture_for_each_axis(folder):
    html = (folder / "report.html").read_text()
    assert html.count("data:image/png;base64,") == 2
    assert all((folder / f"axis-rl-{name}.png").stat().st_size > 10_000 for name in ("beta", "group"))


def test_the_result_file_has_arms_intervals_and_how_they_were_made(folder):
    figures = json.loads((folder / "summary.json").read_text())
    assert figures["axes"] == {"rl.beta": [0, 0.5], "rl.group": [2, 4, 8]} and figures["seeds"] == [0, 1, 2, 3]
    assert figures["device"] == "1 x cpu" and figures["seconds"] == 12 and figures["steps"] == 40
    last = figures["arms"][3]
    assert last["arm"] == {"rl.beta": 0.5, "rl.group": 2}
    low, high = last["change_from_first_arm"]["interval"]
    assert 0 < low < last["change_from_first_arm"]["value"] < high
    result = made(4)
    expected = (result.after["accuracy"][3] - result.after["accuracy"][0]).mean()
    assert last["change_from_first_arm"]["value"] == pytest.approx(expected)


def test_one_seed_tells_no_difference(tmp_path):
    write_report(made(1), tmp_path, "Ablation", Console(quiet=True))
    page = (tmp_path / "report.md").read_text()
    assert "one seed gives no interval" in page and "higher" not in page and "nan" not in page
    assert "NaN" not in json.dumps(summary(made(1)))


def test_readings():
    assert [
        reading(Change(value, ends)) for value, ends in ((0.1, (-0.1, 0.3)), (0.2, (0.1, 0.3)), (-1, (-2, -0.5)))
    ] == ["no difference", "higher", "lower"]
