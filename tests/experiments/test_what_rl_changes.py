"""The study of what RL changes, from folders of runs with known outcomes."""

from __future__ import annotations

import dataclasses
import json

import pytest

from r1jax.data.problems.dataset import load_problems
from r1jax.evaluation.rl_change import rl_change
from r1jax.evaluation.summary import Evaluation
from r1jax.report.rl_change import read_study
from r1jax.rl.config import RLConfig
from tests.helpers.commands import call
from tests.helpers.runs import PROBLEMS, evaluated, write_run

BEFORE, OTHER = (0, 0, 0, 2, 4, 8), (0, 0, 1, 2, 4, 8)
AFTER = ((0, 4, 8, 8, 8, 8), (0, 8, 8, 8, 0, 8))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    return [write_run(out / f"seed{i}", i, (BEFORE, OTHER)[i], AFTER[i]) for i in range(2)]


def test_the_study_of_two_runs_is_readable_from_its_file(folders, tmp_path):
    status, stdout, stderr = call("what_rl_changes.py", *folders, "--out", tmp_path, "--samples=8")
    assert status == 0, stderr
    study = read_study(tmp_path)
    pairs = [
        tuple(Evaluation.from_json(json.loads(json.dumps(evaluated(one, 8)))) for one in pair)
        for pair in zip((BEFORE, OTHER), AFTER, strict=True)
    ]
    assert study.change == rl_change([(a, b) for a, b in pairs], ["base", "base"])
    assert study.seeds == (0, 1) and study.model == "test"
    questions = [problem.question for problem in load_problems(PROBLEMS).held_out]
    assert sorted(study.questions) == sorted(questions)
    found = study.change.solvability
    assert (found.became, found.lost, found.by_chance) == ((2, 1), (0, 1), 0.5)
    assert {study.questions[at] for at in found.never_before} == set(questions[:2])
    page = (tmp_path / "report.md").read_text()
    assert "The claim is" in page and "refuted" in page and "by chance alone" in page
    assert "| pass@8, % |" in page and "| maj@8, % |" in page and "| entropy, nats per token | 0.500" in page
    assert f"| {questions[1]} | 4, 8 |" in page and f"| {questions[0]} |" not in page
    assert (tmp_path / "report.html").read_text().count("data:image/png") == 2
    assert "The claim is" in " ".join(stdout.split())


def test_wrong_runs_end_in_one_line(folders, tmp_path):
    others = dataclasses.replace(PROBLEMS, operations="-")
    few = write_run(tmp_path / "few", 2, BEFORE, BEFORE, samples=16)
    different = write_run(tmp_path / "different", 2, BEFORE, BEFORE, problems=others)
    hot = write_run(tmp_path / "hot", 2, BEFORE, BEFORE, temperature=0.5)
    longer = write_run(tmp_path / "longer", 2, BEFORE, BEFORE, rl=RLConfig(steps=99))
    unfinished = write_run(tmp_path / "unfinished", 2, BEFORE, BEFORE)
    (unfinished / "evaluation_after" / "manifest.json").unlink()
    programs = write_run(tmp_path / "programs", 2, BEFORE, BEFORE)
    for path in programs.glob("evaluation_*/manifest.json"):
        manifest = json.loads(path.read_text())
        manifest["figures"]["reasoning"]["maj_at"] = {}
        path.write_text(json.dumps(manifest))
    cases = [
        ((), "no runs: give"),
        ((tmp_path / "nowhere",), "no folder"),
        ((tmp_path,), "is no finished run of R1-Zero, since its stage evaluation_before is missing"),
        ((unfinished,), "its stage evaluation_after is missing"),
        ((folders[0], "--samples=256"), "8 samples per problem and 256 are required"),
        ((folders[0], different), "evaluated different problems"),
        ((folders[0], few), "has 16 samples per problem"),
        ((folders[0], hot), "was evaluated at temperature 0.5"),
        ((programs,), "has no majority votes, since tests judge its problems"),
        ((folders[0], longer), "have different rl.steps: give runs that differ in the seed alone"),
    ]
    for arguments, message in cases:
        status, stdout, stderr = call("what_rl_changes.py", *arguments, "--out", tmp_path / "out")
        assert (status, stdout) == (2, "") and message in stderr and len(stderr.strip().splitlines()) == 1, stderr
    assert not (tmp_path / "out").exists()
