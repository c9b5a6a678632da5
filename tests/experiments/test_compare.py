"""The comparison of algorithms, from folders of runs with known metrics."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from matplotlib.figure import Figure

from r1jax.algorithms.table import ALGORITHMS
from r1jax.report.algorithms import (
    algorithm_entries,
    costs_table,
    draw_algorithms,
    draw_final,
    leads_table,
    read_comparison,
    write_comparison,
)
from r1jax.report.finished_runs import read_run
from r1jax.rl.config import RLConfig
from tests.helpers.commands import call
from tests.helpers.runs import PROBLEMS, write_run

BEFORE = (0, 0, 0, 2, 4, 8)
GRPO = RLConfig(steps=3, prompts=4, group=2)
DAPO = dataclasses.replace(GRPO, algorithm=ALGORITHMS["dapo"], minibatches=2)


def rows(seconds, attempts=(1, 1, 1), **more):
    parts = [
        {"seconds_sampling": s / 2, "seconds_rewards": 0.0, "seconds_update": s / 2, "seconds": s, "tokens": 10.0}
        for s in seconds
    ]
    values = [{"reward": 0.1 * i, "reward_accuracy": 0.2 * i, "rollout_attempts": a} for i, a in enumerate(attempts)]
    return [{"step": i} | part | value | more for i, (part, value) in enumerate(zip(parts, values, strict=True))]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    runs = [
        write_run(out / f"grpo-seed{seed}", seed, BEFORE, after, rl=GRPO, rows=rows((9, 1, 3)), peak_bytes=2**20 * size)
        for seed, after, size in ((0, (0, 0, 8, 8, 8, 8), 30), (1, (0, 8, 8, 8, 8, 8), 40))
    ]
    more = {"unfiltered_reward": 0.75}
    runs.append(write_run(out / "dapo-seed1", 1, BEFORE, (8,) * 6, rl=DAPO, rows=rows((20, 4, 6), (1, 2, 1), **more)))
    return runs


def test_the_table_and_the_file_hold_the_figures_of_each_algorithm(folders, tmp_path):
    status, stdout, stderr = call("compare.py", *folders, "--out", tmp_path, "--title=Test")
    assert status == 0, stderr
    grpo, dapo = json.loads((tmp_path / "summary.json").read_text())["algorithms"]
    # t(0.975, 1) = 12.706; the two seeds have 4/6 and 5/6.
    half = 12.7062 * np.std([4 / 6, 5 / 6], ddof=1) / np.sqrt(2)
    assert grpo["after"] == {"value": pytest.approx(0.75), "interval": pytest.approx([0.75 - half, 0.75 + half], 1e-4)}
    assert grpo["before"]["value"] == pytest.approx(14 / 48) and grpo["before"]["interval"] == pytest.approx(
        [14 / 48] * 2
    )
    assert (grpo["seeds"], dapo["seeds"]) == ([0, 1], [1])
    assert dapo["lead"] == {"value": pytest.approx(1 / 6), "interval": None}  # against seed 1 alone
    assert grpo["seconds"] == {"sampling": 2.0, "rewards": 0.0, "update": 2.0, "first_step": 9.0}
    assert (grpo["peak_bytes"], dapo["peak_bytes"]) == (40 * 2**20, None)
    assert (grpo["samples"], dapo["samples"], dapo["tokens"]) == (24, 32, 30)
    curve = dapo["curves"][0]
    assert (curve["samples"], curve["seconds"]) == ([8, 24, 32], [5.0, 9.0, 15.0])
    assert curve["reward"] == [0.75] * 3 and grpo["curves"][0]["reward"] == [0.0, 0.1, 0.2]
    page = (tmp_path / "report.md").read_text()
    assert "| dapo | 1 | 29.2 | 100.0 | +16.7 |" in page and "eps-high=0.28" in page.replace("algorithm.", "")
    assert (tmp_path / "curves.png").stat().st_size > 10_000 and "dapo" in stdout


def test_a_stored_comparison_is_read_back(folders, tmp_path):
    entries = write_comparison([read_run(folder) for folder in folders], tmp_path, "Test")
    stored = read_comparison(tmp_path)
    assert stored is not None and list(stored.entries) == entries
    assert stored.about["held_out_problems"] == 6 and read_comparison(tmp_path / "missing") is None
    costs = [row.split("|")[2:6] for row in costs_table(entries).splitlines()[2:]]
    assert [[cell.strip() for cell in row] for row in costs] == [
        ["24", "30", "4.0", "40"],
        ["32", "30", "10.0", "not reported"],
    ]
    last = leads_table(entries).splitlines()[-1]
    assert "| +16.7 | one seed gives no interval |" in last


def test_the_pictures_have_a_row_and_a_line_for_each_algorithm(folders):
    entries, figure = algorithm_entries([read_run(folder) for folder in folders]), Figure()
    panels = figure.subplots(2, 3)
    for row, metric in zip(panels, ("reward", "accuracy"), strict=True):
        draw_algorithms(row[:2], entries, metric)
    assert all(len(ax.lines) == 2 for ax in panels[:, :2].flat)
    draw_final(panels[0, 2], entries)
    assert [label.get_text() for label in panels[0, 2].get_yticklabels()] == ["grpo", "dapo"]


def test_runs_that_differ_in_more_than_the_algorithm_are_refused(folders, tmp_path):
    def made(name, seed, problems=PROBLEMS, rl=GRPO):
        return write_run(tmp_path / name, seed, BEFORE, BEFORE, problems=problems, rl=rl, rows=rows((1, 1, 1)))

    other_base = made("rloo-seed0", 0)
    manifest = json.loads((other_base / "evaluation_before" / "manifest.json").read_text())
    manifest["files"]["policy"] = "another"
    (other_base / "evaluation_before" / "manifest.json").write_text(json.dumps(manifest))
    cases = [
        ((), "no runs: give"),
        ((tmp_path,), "is no finished run of R1-Zero"),
        ((made("plain", 0),), "name the folder of a run ALGORITHM-seedN"),
        ((folders[0], other_base), "have the same seed and different base models"),
        ((folders[0], made("grpo-seed2", 2, rl=dataclasses.replace(GRPO, learning_rate=1.0))), "different rl.learning"),
        ((folders[0], made("cispo-seed0", 0, dataclasses.replace(PROBLEMS, operations="-"))), "different problems"),
    ]
    for arguments, message in cases:
        status, stdout, stderr = call("compare.py", *arguments, "--out", tmp_path / "out")
        assert (status, stdout) == (2, "") and message in stderr and len(stderr.strip().splitlines()) == 1, stderr
    assert not (tmp_path / "out").exists()
