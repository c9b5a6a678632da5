"""The report of the recipe: figures, claims and warnings worked by hand, and which stages it may speak of."""

import base64
import dataclasses
import json
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from r1jax.pipeline.execute import execute_pipeline
from r1jax.pipeline.stage import Stage
from r1jax.report.comparison import summarise
from r1jax.report.html import fenced, to_html
from r1jax.report.recipe_run import MODELS, STUDENT_MODELS, write_report
from r1jax.report.recipe_screen import print_recipe
from r1jax.report.recipe_tables import answers_table, checkpoint, findings, hacking_watch, main_table


def evaluation(correct, language=1.0, readable=True, length=10, samples=4, names="abcde", **rewards):
    """What an evaluation stage returns, of 5 problems of which that share of the samples is right."""
    right = np.arange(5 * samples).reshape(5, samples) < round(5 * samples * correct)
    ones = np.ones((5, samples), bool)
    found = summarise(
        list(names),
        np.where(right, 0, 1),
        right,
        ones,
        ones * length,
        ~ones,
        ks=range(1, samples + 1),
        seed=0,
        readable=ones if readable else ~ones,
        rewards={name: ones * value for name, value in {"language": language, **rewards}.items()},
        accuracy_by_kind={"sum": correct},
    )
    return json.loads(json.dumps(dataclasses.asdict(found)))


def figures(correct, general=0.5, **more):
    answers = [{"question": "2|2?", "answer": "4", "completion": "<think>`x`</think>\n4", "correct": correct > 0.5}]
    return {
        "reasoning": evaluation(correct, **more),
        "general": evaluation(general, helpfulness=0.25),
        "reasoning_completions": answers,
        "general_completions": [],
    }


def model(label, correct, made=(), **more):
    return checkpoint(label, figures(correct, **more), made)


def cells(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line]


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


def test_claims_hold_fail_or_make_no_difference():
    lines = findings(
        {
            "base": model("base", 0.2),
            "zero": model("Zero", 0.8, language=0.6, length=20),
            "cold_start": model("cold", 0.8, language=1.0, length=10),
            "reasoning_rl": model("RL", 0.6),
            "distilled": model("SFT", 0.4, readable=False),
            "student_rl": model("RL alone", 0.5),
        }
    )
    told = dict(str(line).split(": **", 1) for line in lines)
    assert told["R1-Zero is right more often than the base"].startswith("yes** (accuracy: base 20.0, Zero 80.0, change")
    assert told["R1-Zero mixes languages more than the cold start"] == (
        "yes** (language: Zero 60.0, cold 100.0, change +40.0 [+40.0, +40.0])"
    )
    assert told["R1-Zero writes more than the cold start"] == (
        "yes** (length: Zero 20.0 tokens, cold 10.0 tokens, change -10.0 [-10.0, -10.0])"
    )
    assert told["The cold start costs accuracy against R1-Zero"].startswith("no difference here")
    assert not any("R1 is above" in claim or "language reward" in claim for claim in told)
    # One problem of five changed, as happens by chance: a third of all resamples leave it out.
    assert told["Reasoning RL wins accuracy back"].startswith("not told apart** (accuracy: cold 80.0, RL 60.0, change")
    assert told["Distillation beats RL on the student"].startswith("not told apart")


def test_a_claim_that_does_not_hold_is_told_apart_too():
    (line,) = findings({"student_rl": model("RL alone", 0.8), "distilled": model("SFT", 0.2)})
    assert line.verdict == "not here" and line.change.value == pytest.approx(-0.6)
    assert line.change.interval[1] < 0


def test_what_chance_may_have_made_is_not_called_equal():
    """As many right in all, but of other problems: equal by chance, and not known to be equal."""
    first, second = model("RL alone", 0.4), model("SFT", 0.4)
    orders = [first.reasoning.by_problem["pass_at_1"], second.reasoning.by_problem["pass_at_1"][::-1]]
    second.reasoning.by_problem["pass_at_1"] = orders[1]
    (line,) = findings({"student_rl": first, "distilled": second})
    assert orders[0] != orders[1] and line.change.value == 0 and line.verdict == "not told apart"


def test_models_that_answered_other_problems_are_not_compared():
    (line,) = findings({"student_rl": model("RL alone", 0.2), "distilled": model("SFT", 0.8, names="fghij")})
    assert str(line).endswith("**not comparable** (accuracy: RL alone 20.0, SFT 80.0, on other problems)")


def test_a_claim_without_its_figure_is_left_out():
    without = model("Zero", 0.2)
    without.reasoning.rewards.pop("language")
    claims = [line.claim for line in findings({"zero": without, "cold_start": model("cold", 0.2)})]
    assert claims and "R1-Zero mixes languages more than the cold start" not in claims


def row(step, score, own, elsewhere, length=30.0):
    return {
        "step": step,
        "reward_helpfulness": score,
        "accuracy_facts": own,
        "accuracy_self": own,
        "accuracy_sum": elsewhere,
        "length_mean": length,
    }


@pytest.mark.parametrize(
    ("last", "verdict"),
    [
        ({"score": 0.9, "own": 0.5, "elsewhere": 1.0}, "looks like reward hacking"),
        ({"score": 0.9, "own": 1.0, "elsewhere": 0.5}, "looks like reward hacking"),
        ({"score": 0.9, "own": 1.0, "elsewhere": 1.0, "length": 90.0}, "looks like reward hacking"),
        ({"score": 0.9, "own": 1.0, "elsewhere": 1.0, "length": 40.0}, "no sign"),
        ({"score": 0.4, "own": 0.5, "elsewhere": 1.0}, "no sign"),
    ],
)
def test_a_reward_that_rises_while_rules_or_length_go_astray_is_told(last, verdict):
    rows = [{"step": 0, "length_mean": 30.0}, *(row(i, 0.5, 1.0, 1.0) for i in range(1, 5))]
    rows += [row(i, **last) for i in range(5, 9)]
    text = hacking_watch(rows, {"helpfulness": ["facts", "self"]})
    assert verdict in text and f"its reward 0.500 -> {last['score']:.3f}" in text
    assert f"where it judges 100.0 -> {100 * last['own']:.1f}" in text
    assert hacking_watch(rows[:4], {"helpfulness": ["facts"]}) == ""
    assert "where it judges no figures, elsewhere" in hacking_watch(rows, {"helpfulness": ["none"]})


def test_answers_are_cells_whatever_they_hold():
    broken = model("three", 0.8)
    broken.answers["2|2?"] = ("a\rb\u2028<b>", True)
    assert cells(answers_table([broken], ["2|2?"]))[2] == ["three", "right: `a b <b>`"]
    text = answers_table([model("one", 0.8), model("two", 0.2)], ["2|2?"])
    head, _, one, two = cells(text)
    assert head == ["model", "`2¦2?`"]
    assert one == ["one", "right: `<think>'x'</think> 4`"] and two[1].startswith("wrong:")
    assert cells(answers_table([model("one", 0.8)], ["another?"]))[2] == ["one", "not asked"]


class Page(HTMLParser):
    """The tags of a page with their attributes, those that each is inside of, and the text of its code."""

    def __init__(self, text):
        super().__init__()
        self.found, self.inside, self.code = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes), list(self.inside)))
        if tag not in ("img", "meta", "br", "hr"):
            self.inside.append(tag)

    def handle_endtag(self, tag):
        assert tag == "img" or self.inside.pop() == tag

    def handle_data(self, data):
        self.code += data if "code" in self.inside else ""


def test_a_page_needs_no_other_file_and_fits_every_window(tmp_path):
    (tmp_path / "a.png").write_bytes(b"picture")
    completion = "<b>x</b>\n```\n| <table> ````"
    text = f"# A\n\n| a | b |\n| --- | --- |\n| 1 | `<table>` |\n\n![pass@k](a.png)\n\n{fenced(completion)}"
    page = to_html(text, "1 < 2", tmp_path)
    assert "<title>1 &lt; 2</title>" in page and "prefers-color-scheme:dark" in page
    found = Page(page)
    assert found.inside == []
    sources = [attributes["src"] for tag, attributes, _ in found.found if tag == "img"]
    assert sources == ["data:image/png;base64," + base64.b64encode(b"picture").decode()]
    assert not [tag for tag, attributes, _ in found.found if tag in ("link", "script") or "href" in attributes]
    assert [inside[-1] for tag, _, inside in found.found if tag == "table"] == ["div"]
    assert completion in found.code and "<table>" in found.code  # nothing of a completion is read as markup
    assert not [tag for tag, *_ in found.found if tag == "b"]


def stage(name, inputs=(), **given):
    return Stage(name, made, Settings(**given), {name: name for name in inputs})


@dataclasses.dataclass(frozen=True)
class Settings:
    correct: float = 0.5
    names: str = "abcde"
    routes: tuple[str, ...] = ("sum: accuracy format", "facts: helpfulness format", "safety: mine.py:kind format")


@dataclasses.dataclass(frozen=True)
class Seeded(Settings):
    seed: int = 7


def made(settings, inputs, folder):
    if folder.name.startswith("evaluation_"):
        return figures(settings.correct, names=settings.names)
    if folder.name in ("zero", "r1", "student_rl"):
        rows = [row(i, 0.5, 1.0, 1.0) | {"reward_kind": i / 9, "accuracy_safety": 1 - i / 9} for i in range(8)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    if folder.name == "helpfulness":
        return {"held_out_accuracy": 0.9, "held_out_guess": 0.5, "held_out": 10, "judgements": 90, "tokens": 7} | {
            "seconds": 1.0
        }
    if folder.name == "cold_start_data":
        counts = {"sampled": 50, "wrong": 20, "kept": 30, "generated": 10, "general": 0}
        return {"rows": 40, "counts": counts, "tokens": 5, "seconds": 1.0}
    return {"tokens": 10, "seconds": 1.0}


def graph(zero=0.8):
    stages = [stage("helpfulness")]
    for name, correct in (("zero", zero), ("cold_start_data", 0), ("cold_start", 0.6), ("r1", 0.9)):
        before = tuple(one.name for one in stages[1:] if not one.name.startswith("evaluation"))[-1:]
        stages.append(stage(name, (*before, *(["helpfulness"] if name == "r1" else [])), correct=correct))
        if name in MODELS:
            stages.append(stage(f"evaluation_{name}", (name,), correct=correct))
    return stages


def quiet(stages, out, **options):
    execute_pipeline(
        stages, out, report=lambda _: None, made_by={"command": "python r1.py", "device": "1 x toaster"}, **options
    )


def test_a_run_with_a_student_is_reported_from_its_manifests(tmp_path):
    quiet(graph(), tmp_path)
    student = tmp_path / "students" / "small"
    names = {"student": 0.1, "distilled": 0.7, "student_rl": 0.3}
    stages = [stage(f"{e}{name}", correct=c) for name, c in names.items() for e in ("", "evaluation_")]
    execute_pipeline(
        stages, student, report=lambda _: None, made_by={"command": "python distill.py", "device": "2 x kettle"}
    )
    write_report(tmp_path)
    report = (tmp_path / "report.md").read_text()
    table = [line for line in report.partition("Shares in percent")[0].splitlines() if line.startswith("| ")]
    labels = [cell[0] for cell in cells("\n".join(table[2:]))]
    assert labels == ["R1-Zero", "1 cold start", "5 R1", *(f"small: {STUDENT_MODELS[n][0]}" for n in names)]
    assert "    python r1.py\n    python distill.py\n" in report
    assert "1 x toaster; 2 x kettle" in report
    assert "helpfulness: 90.0% right on 10 held-out judgements" in report and "who does not look: 50.0%" in report
    assert "40 rows: 75.0% of the model's own samples, 25.0% written by rules" in report
    assert "helpfulness: no sign of reward hacking" in report and "kind: looks like reward hacking" in report
    assert "Distillation beats RL on the student: **yes**" in report
    page = (tmp_path / "report.html").read_text()
    for picture in ("curves", "pass-at-k", "pass-at-1"):
        assert base64.b64encode((tmp_path / f"{picture}.png").read_bytes()).decode() in page
        assert f"]({picture}.png)" in report
    summary = json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)  # NaN is no JSON
    assert "by_problem" not in json.dumps(summary)
    (finding,) = [one for one in summary["findings"] if one["claim"].startswith("Distillation")]
    assert finding["verdict"] == "yes" and finding["change"]["value"] == pytest.approx(0.4)
    assert summary["stages"]["zero"]["settings"]["correct"] == 0.8
    assert set(summary["students"]["small"]) == {one.name for one in stages}


def test_a_student_that_answered_other_problems_is_named(tmp_path):
    quiet(graph(), tmp_path)
    out = tmp_path / "students" / "small"
    names = {"distilled": ("abcde", 0.7), "student_rl": ("fghij", 0.3)}
    stages = [stage(f"{e}{name}", correct=c, names=n) for name, (n, c) in names.items() for e in ("", "evaluation_")]
    execute_pipeline(stages, out, report=lambda _: None)
    write_report(tmp_path)
    report = (tmp_path / "report.md").read_text()
    assert "On other problems, and not to be compared with R1-Zero: small: student with RL alone." in report
    assert "Distillation beats RL on the student: **not comparable**" in report


def test_pictures_name_the_model_and_the_seed(tmp_path):
    stages = [dataclasses.replace(one, settings=Seeded(one.settings.correct)) for one in graph()]
    execute_pipeline(
        stages, tmp_path, report=lambda _: None, made_by={"command": "r1.py", "device": "1", "model": "toy"}
    )
    write_report(tmp_path)
    assert "<title>R1 recipe · toy · seed 7</title>" in (tmp_path / "report.html").read_text()


def test_models_that_were_made_from_an_older_stage_are_not_reported(tmp_path):
    quiet(graph(), tmp_path)
    quiet(graph(zero=0.7), tmp_path, until="evaluation_zero", force=True)
    write_report(tmp_path)
    report = (tmp_path / "report.md").read_text()
    assert "| R1-Zero |" in report and "| 5 R1 |" not in report and "| 1 cold start |" not in report


def test_without_a_model_there_is_no_report(tmp_path):
    quiet(graph(), tmp_path, until="helpfulness")
    write_report(tmp_path)
    assert not (tmp_path / "report.md").exists()


def test_the_main_figures_are_printed_with_the_path_of_the_report(tmp_path, capsys):
    quiet(graph(), tmp_path)
    print_recipe(write_report(tmp_path), tmp_path, Console(width=160))
    lines = capsys.readouterr().out.splitlines()
    shown = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in lines if line.startswith("│")}
    assert shown == {"R1-Zero": "80.0", "1 cold start": "60.0", "5 R1": "90.0"}
    assert lines[-1] == f"{tmp_path}: report.html, report.md, summary.json, a folder per stage"
    assert write_report(tmp_path / "none") == []
    print_recipe([], tmp_path, Console())
    assert "no report" in capsys.readouterr().out
