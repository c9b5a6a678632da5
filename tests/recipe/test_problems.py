"""The files of problems as inputs of stages, and what a run prints of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from r1jax.data.problems.dataset import ProblemsConfig, load_problems
from r1jax.data.text.template import find_template
from r1jax.errors import UserError
from r1jax.recipe.problems import problem_files, problems_opening
from tests.helpers.hub import Hub
from tests.helpers.paths import FIXTURES


def gsm8k(numbers: range) -> str:
    return "\n".join(json.dumps({"question": f"How many is {i}?", "answer": f"#### {i}"}) for i in numbers)


def test_the_first_prompt_is_printed_as_the_model_reads_it(tmp_path: Path) -> None:
    for name, numbers in (("train", range(12)), ("test", range(20, 25))):
        (tmp_path / f"{name}.jsonl").write_text(gsm8k(numbers))
    problems = load_problems(ProblemsConfig(str(tmp_path), held_out_source="test"))
    first = problems.train[0]
    lines = problems_opening(problems, find_template("think"), str(FIXTURES / "llama_tied")).split("\n")
    assert lines[:3] == [
        f"problems: 12 of {tmp_path} in the shape gsm8k (question: question, answer: answer after ####)",
        f"problems: 5 of {tmp_path}/test in the shape gsm8k (question: question, answer: answer after ####)",
        "problems: 12 for training, 5 held out",
    ]
    assert lines[3] == f"first prompt (answer: {first.answer}, checker: number, kind: {tmp_path.name}):"
    assert "\n".join(lines[4:]) == f"{first.question}\n<think>"
    assert problems_opening(load_problems(ProblemsConfig()), find_template("think"), "pretrain") == ""


def test_data_sets_are_inputs_by_their_files_folders_and_snapshots(hub: Hub, tmp_path: Path) -> None:
    commit = hub.add("datasets/org/set", {"train.jsonl": gsm8k(range(9)), "test.jsonl": gsm8k(range(9))}).commit
    (tmp_path / "train.jsonl").write_text(gsm8k(range(9)))
    files = problem_files(ProblemsConfig("hf:org/set", held_out_source="test"), "general_")
    assert {role: path.name for role, path in files.items()} == dict.fromkeys(
        ("general_problems", "general_held_out"), commit
    )
    assert problem_files(ProblemsConfig(f"{tmp_path}/train")) == {"problems": tmp_path}
    assert problem_files(ProblemsConfig(f"{tmp_path}/train.jsonl")) == {"problems": tmp_path / "train.jsonl"}
    assert problem_files(ProblemsConfig("arithmetic")) == {}
    with pytest.raises(UserError, match="has no data set org/none"):
        problem_files(ProblemsConfig("hf:org/none"))
