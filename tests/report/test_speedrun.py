"""The table and the picture of records of speedruns, from folders with known figures."""

from __future__ import annotations

import json

import pytest

from r1jax.errors import UserError
from r1jax.report.speedrun import BEGIN, END, entries, read_records, records_page, write_table
from r1jax.report.speedrun_picture import plot_speedruns


def write(results, entry, seed, seconds, after=0.5, reasons=(), changed=None, target=0.4):
    folder = results / f"speedrun-{entry}-seed{seed}"
    folder.mkdir(parents=True)

    def figures(share):
        return {"pass_at_1": share, "interval": [share - 0.1, share + 0.1]}

    values = {
        "entry": entry,
        "seed": seed,
        "target": target,
        "reached": not reasons,
        "not_a_record": list(reasons),
        "seconds": seconds,
        "steps": 40,
        "base": {"name": "qwen", "sha256": "0"},
        "changed": changed or {},
        "held_out_before": figures(0.1),
        "held_out_after": figures(after),
        "transfer_before": figures(0.2),
        "transfer_after": figures(0.3),
        "device": "1 x test",
        "versions": {"jax": "1.2.3"},
    }
    (folder / "record.json").write_text(json.dumps(values))
    row = {"step": 10, "seconds": seconds, "pass_at_1": 0.45, "low": 0.41, "high": 0.49}
    (folder / "evaluations.jsonl").write_text(json.dumps(row) + "\n")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    for seed, seconds in enumerate((200, 220, 180)):
        write(results, "plain", seed, seconds)
        write(results, "lr", seed, seconds / 2, changed={"rl.learning_rate": 6e-6})
        # The evaluations on the way passed, the one afterwards does not.
        write(results, "lucky", seed, 50, after=0.39)
        write(results, "risky", seed, 60, reasons=("it did not reach the target",) * (seed == 2))
    write(results, "short", 0, 40)
    write(results, "hard", 0, 900, target=0.5)
    return results


def cells(page, entry):
    return next([c.strip() for c in line.split("|")[1:-1]] for line in page.splitlines() if f"| {entry} " in line)


def test_entries_have_three_records_and_no_failed_run(results):
    assert list(entries(read_records(results))) == ["plain", "lr"]


def test_the_table_compares_entries_with_plain(results):
    page = records_page(read_records(results))
    plain = ["plain", "nothing", "200", "", "200, 220, 180", "40, 40, 40", "10.0%", "50.0%", "20.0% to 30.0%"]
    lr = ["lr", "`rl.learning_rate=6e-06`", "100", "-50%", "100, 110, 90", *plain[5:]]
    assert (cells(page, "plain"), cells(page, "lr")) == (plain, lr)
    easy, hard = page.split("### qwen, target 50.0%")
    assert "### qwen, target 40.0%" in easy or "### qwen, target 40.0%" in hard
    assert "No entry has three records yet." in page and "hard, seed 0: reached the target (900 s" in page
    assert "risky, seed 2: it did not reach the target (60 s, 40 steps, pass@1 50.0%)" in page
    assert "short, seed 0: reached the target" in page and "lucky, seed 1: reached the target" in page


def test_the_page_keeps_its_other_text(results, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"above\n{BEGIN}\nold table\n{END}\nbelow\n")
    table = write_table(page, results)
    text = page.read_text()
    assert text.startswith("above\n") and text.endswith("\nbelow\n") and "old table" not in text and table in text
    write_table(page, results)
    assert page.read_text() == text
    write_table(page, tmp_path)
    assert "No entry has been handed in yet." in page.read_text()
    page.write_text("no markers")
    with pytest.raises(UserError, match="has no lines"):
        write_table(page, results)


def test_the_picture_shows_the_entries(results, tmp_path):
    records = [record for record in read_records(results) if record.values["target"] == 0.4]
    plot_speedruns(records, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000
    plot_speedruns([record for record in records if record.values["entry"] == "short"], tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()
