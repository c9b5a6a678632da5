from __future__ import annotations

from r1jax.report.recipe_tables import answers_table, main_table
from tests.report.helpers import cells, model


def test_the_table_holds_each_figure_in_its_column():
    made = [{"tokens": 1000, "seconds": 2.0}, {"tokens": 234, "seconds": 3.4}]
    rows = cells(main_table([model("one", 0.2, made, length=12), model("two", 1.0, language=0.5, samples=16)]))
    head, _, one, two = rows
    table = [dict(zip(head, row, strict=True)) for row in (one, two)]
    assert [row["model"] for row in table] == ["one", "two"]
    assert [row["sum"] for row in table] == ["20.0", "100.0"]
    assert table[0]["pass@1 [95%]"].startswith("20.0 [0.0, ") and table[1]["pass@1 [95%]"] == "100.0 [100.0, 100.0]"
    assert "pass@4" in head and "maj@4" in head  # what both have samples for
    assert [row["pass@4"] for row in table] == ["20.0", "100.0"]
    assert [row["language"] for row in table] == ["100.0", "50.0"]
    assert [row["readable and correct"] for row in table] == ["20.0", "100.0"]
    assert [row["length"] for row in table] == ["12.0", "10.0"]
    assert [row["general tasks"] for row in table] == ["50.0", "50.0"]
    assert [row["helpfulness"] for row in table] == ["0.250", "0.250"] and table[0]["harmlessness"] == ""
    assert [row["tokens"] for row in table] == ["1,234", "0"] and [row["seconds"] for row in table] == ["5", "0"]


def test_eight_samples_are_compared_where_there_are_more():
    head = cells(main_table([model("one", 0.2, samples=16), model("two", 0.3, samples=12)]))[0]
    assert "pass@8" in head and "maj@8" in head


def test_answers_are_cells_whatever_they_hold():
    broken = model("three", 0.8)
    broken.answers["2|2?"] = ("a\rb\u2028<b>", True)
    assert cells(answers_table([broken], ["2|2?"]))[2] == ["three", "right: `a b <b>`"]
    text = answers_table([model("one", 0.8), model("two", 0.2)], ["2|2?"])
    head, _, one, two = cells(text)
    assert head == ["model", "`2¦2?`"]
    assert one == ["one", "right: `<think>'x'</think> 4`"] and two[1].startswith("wrong:")
    assert cells(answers_table([model("one", 0.8)], ["another?"]))[2] == ["one", "not asked"]
