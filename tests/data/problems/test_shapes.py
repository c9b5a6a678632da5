"""Problem sets in the shapes that are published: their questions, answers, kinds and checkers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from r1jax.data.problems.dataset import ProblemsConfig, check_problems, load_problems
from r1jax.data.problems.files import read_problems
from r1jax.data.problems.problem import Problem
from r1jax.data.problems.shapes import placed_answer, recognise
from r1jax.errors import UserError
from r1jax.rewards.code.tests import read_tests
from tests.data.helpers import write_lines
from tests.helpers.hub import Hub

ASKED = [{"role": "user", "content": "What is 6 * 7?"}]
SYSTEM = {"role": "system", "content": "You are careful."}
END = r" or its part after #### or in \boxed"  # "~" in the names of shapes below
REPLIED = [{"role": "assistant", "content": "So it is #### 42"}]


@pytest.mark.parametrize(
    ("row", "shape", "expected"),
    [
        (
            {"question": "Q?", "answer": "It is <<6*7=42>>42.\n#### 1,042"},
            "gsm8k (question: question, answer: answer after ####)",
            Problem("Q?", "1,042", "data", "number"),
        ),
        (
            {
                "problem": "Q?",
                "level": "Level 5",
                "type": "Counting & Probability",
                "solution": r"So $\boxed{\frac{1}{2}}$.",
            },
            r"MATH (question: problem, answer: solution in \boxed, kind: type)",
            Problem("Q?", r"\frac{1}{2}", "Counting-Probability", "math"),
        ),
        (
            {"problem": "Q?", "solution": "...", "answer": "7", "subject": "Algebra", "level": 2, "unique_id": "x"},
            "MATH (question: problem, answer: answer~, kind: subject)",
            Problem("Q?", "7", "Algebra", "math"),
        ),
        (  # TRL, as text, as messages, and with an answer to compare with
            {"prompt": "Q?", "completion": r"It is \boxed{x+1}"},
            "TRL (question: prompt, answer: completion~)",
            Problem("Q?", "x+1", "data", "math"),
        ),
        (
            {"prompt": ASKED, "completion": REPLIED},
            "TRL (question: prompt, answer: completion~)",
            Problem("What is 6 * 7?", "42", "data", "number"),
        ),
        (
            {"prompt": ASKED, "solution": "$42$"},
            "TRL (question: prompt, answer: solution~)",
            Problem("What is 6 * 7?", "$42$", "data", "number"),
        ),
        (
            {"prompt": [SYSTEM, *ASKED], "ground_truth": "x"},
            "TRL (question: prompt, answer: ground_truth~)",
            Problem("What is 6 * 7?", "x", "data", "math"),
        ),
        (
            {"prompt": ASKED, "answer": 42},
            "TRL (question: prompt, answer: answer~)",
            Problem("What is 6 * 7?", "42", "data", "number"),
        ),
        (
            {
                "data_source": "openai/gsm8k",
                "prompt": ASKED,
                "ability": "math",
                "reward_model": {"style": "rule", "ground_truth": "42"},
                "extra_info": {"split": "train", "index": 0},
            },
            "verl (question: prompt, answer: reward_model.ground_truth~, kind: data_source)",
            Problem("What is 6 * 7?", "42", "openai/gsm8k", "number"),
        ),
        (
            {"prompt": ASKED, "reward_model": {"ground_truth": ["\\sqrt{2}"]}},
            "verl (question: prompt, answer: reward_model.ground_truth~)",
            Problem("What is 6 * 7?", r"\sqrt{2}", "data", "math"),
        ),
        (  # DeepMath, NuminaMath, Open-R1, AIME
            {
                "question": "Q?",
                "final_answer": "\\pi",
                "difficulty": 5.0,
                "topic": "Calculus -> Limits",
                "r1_solution_1": "",
            },
            "question and final_answer (question: question, answer: final_answer~, kind: topic)",
            Problem("Q?", r"\pi", "Calculus-Limits", "math"),
        ),
        (
            {"source": "olympiads", "problem": "Q?", "solution": r"Thus $\boxed{5}$", "messages": []},
            r"problem and solution (question: problem, answer: solution in \boxed, kind: source)",
            Problem("Q?", "5", "olympiads", "math"),
        ),
        (
            {"problem": "Q?", "solution": "s", "answer": "5", "problem_type": "Algebra", "source": "amc"},
            "problem and answer (question: problem, answer: answer~, kind: problem_type)",
            Problem("Q?", "5", "Algebra", "number"),
        ),
        (
            {"ID": "2024-I-1", "Problem": "Q?", "Solution": "s", "Answer": 33},
            "Problem and Answer (question: Problem, answer: Answer~)",
            Problem("Q?", "33", "data", "number"),
        ),
        (
            {"prompt": "Q?", "answer": "42", "kind": "a kind"},
            "prompt and answer (question: prompt, answer: answer, kind: kind)",
            Problem("Q?", "42", "a kind", "number"),
        ),
        (
            {"prompt": "Q?", "answer": "so #### 42"},
            "prompt and answer (question: prompt, answer: answer~, kind: kind)",
            Problem("Q?", "42", "data", "number"),
        ),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv", ".tsv"])
def test_a_shape_is_recognised(tmp_path: Path, row: dict[str, Any], shape: str, expected: Problem, suffix: str) -> None:
    path = tmp_path / f"data{suffix}"
    if suffix == ".jsonl":
        write_lines(path, row)
    elif suffix != ".parquet":  # lists and objects as JSON, or as Python writes them
        text = json.dumps if suffix == ".csv" else repr
        with path.open("w", newline="") as stream:
            writer = csv.writer(stream, "excel" if suffix == ".csv" else "excel-tab")
            writer.writerows([row, [text(v) if isinstance(v, list | dict) else v for v in row.values()]])
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    found = read_problems(str(path), "number")
    assert str(found.shape) == shape.replace("~", END)
    assert found.problems == ((expected.question, expected),)
    if expected.checker == "math":  # a checker that is asked for is used
        assert read_problems(str(path), "exact").problems[0][1].checker == "exact"


CODE = [
    (
        {"task_id": "HumanEval/1", "prompt": "def f():\n", "entry_point": "f", "test": "def check(c): assert c() == 1"},
        "HumanEval (question: prompt, tests: test)",
        ("humaneval", {"asserts": ["assert f() == 1"], "setup": "", "prefix": "def f():\n", "entry_point": "f"}),
    ),
    (
        {"task_id": 2, "text": "Write f.", "code": "def f(): return 1", "test_list": ["assert f() == 1"]},
        "MBPP (question: text, tests: test_list)",
        ("mbpp", {"asserts": ["assert f() == 1"], "setup": "", "entry_point": "f"}),
    ),
    (
        {"task_id": 2, "prompt": "Write f.", "test_list": ["assert f() == 1"], "test_imports": ["import os"]},
        "MBPP (question: prompt, tests: test_list)",
        ("mbpp", {"asserts": ["assert f() == 1"], "setup": "import os", "entry_point": ""}),
    ),
    (
        {
            "question_content": "Add.",
            "difficulty": "very hard",
            "public_test_cases": '[{"input": "1", "output": "2", "testtype": "stdin"}]',
            "private_test_cases": "[]",
        },
        "LiveCodeBench (question: question_content, tests: public_test_cases, kind: difficulty)",
        ("very-hard", {"tests": [{"input": "1", "output": "2"}]}),
    ),
    (
        {
            "data_source": "taco",
            "prompt": ASKED,
            "reward_model": {"ground_truth": '{"inputs": ["1"], "outputs": ["2"]}'},
        },
        "verl (question: prompt, answer: reward_model.ground_truth~, kind: data_source)",
        ("taco", {"tests": [{"input": "1", "output": "2"}]}),
    ),
]


@pytest.mark.parametrize(("row", "shape", "expected"), CODE)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_rows_with_tests_are_problems_of_code(tmp_path: Path, row: Any, shape: str, expected: Any, suffix: str) -> None:
    path = tmp_path / f"data{suffix}"
    if suffix == ".jsonl":
        write_lines(path, row)
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    found = read_problems(str(path), "number")
    assert str(found.shape) == shape.replace("~", END)
    ((key, problem),) = found.problems
    assert (problem.checker, problem.kind, json.loads(problem.metadata)) == ("code", *expected)
    assert key == problem.question and read_tests(problem.metadata).count == 1
    assert found.problems == read_problems(str(path), "exact").problems  # tests are not compared as text


def test_a_verl_file_may_hold_programs_and_answers(tmp_path: Path) -> None:
    truths = ("42", '["assert f() == 1"]', "[0, 1)", '{"inputs": ["1"], "outputs": ["2"]}')
    rows = [{"prompt": f"q{i}", "reward_model": {"ground_truth": truth}} for i, truth in enumerate(truths)]
    found = read_problems(write_lines(tmp_path / "data.jsonl", *rows), "number")
    assert [(p.checker, p.answer) for _, p in found.problems] == [
        ("number", "42"),
        ("code", ""),
        ("math", "[0, 1)"),
        ("code", ""),
    ]
    rows[1]["reward_model"] = {"ground_truth": '{"inputs": [1], "outputs": []}'}
    path = write_lines(tmp_path / "wrong.jsonl", *rows)
    with pytest.raises(UserError, match=r"wrong\.jsonl, line 2: column 'reward_model\.ground_truth' has no output for"):
        read_problems(path, "number")
    assert read_problems(path, "number", skip_unreadable=True).skipped == 1


def test_columns_that_the_user_names_replace_the_tests_of_code(tmp_path: Path) -> None:
    row, _, (_, tests) = CODE[0]
    path = write_lines(tmp_path / "data.jsonl", row | {"gold": "5", "area": "Set Theory"})
    ((_, problem),) = read_problems(path, "number", ("answer=gold",)).problems
    assert (problem.question, problem.answer, problem.checker) == (row["prompt"], "5", "number")
    ((_, problem),) = read_problems(path, "number", ("kind=area",)).problems
    assert (problem.kind, json.loads(problem.metadata)) == ("Set-Theory", tests)


def test_columns_of_another_shape_are_named_by_the_user(tmp_path: Path) -> None:
    row = {"Q": "Q?", "info": {"gold": r"\boxed{6}", "area": "Set Theory"}, "answer": "wrong"}
    path = write_lines(tmp_path / "data.jsonl", row)
    columns = ("prompt=Q", "answer=info.gold", "kind=info.area")
    found = read_problems(path, "number", columns)
    assert found.problems == (("Q?", Problem("Q?", "6", "Set-Theory", "number")),)
    columns_of = "(question: Q, answer: info.gold~, kind: info.area)".replace("~", END)
    assert str(found.shape) == f"prompt and answer, changed by --problems.columns {columns_of}"
    assert read_problems(path, "exact", columns[:2]).problems[0][1] == Problem("Q?", "6", "data", "exact")
    gsm8k = write_lines(tmp_path / "gsm8k.jsonl", {"question": "Q?", "answer": "#### 5", "level": 3})
    assert read_problems(gsm8k, "number", ("kind=level",)).problems[0][1] == Problem("Q?", "5", "3", "number")


@pytest.mark.parametrize(
    ("row", "columns", "message"),
    [
        (
            {"instruction": "a", "output": "b"},
            (),
            "no column 'prompt': it has instruction, output: name yours with --pro",
        ),
        (
            {"prompt": "a", "text": "b"},
            (),
            "no column 'answer': it has prompt, text: name yours with --problems.columns",
        ),
        ({"Q": "a", "A": {"x": 1}}, ("prompt=Q", "answer=A.y"), "no column 'A.y': it has Q, A.x"),
        ({"Q": "a"}, ("prompt=Q",), "no column 'answer': it has Q: name"),
        (
            {"instruction": "Add.", "input": "1 1", "answer": "2"},
            (),
            "no column 'prompt': it has instruction, input, a",
        ),
        ({"question": "a", "answer": None}, (), "it has question, answer (empty): name yours"),
        ({"prompt": '[{"role": "user", ', "answer": "1"}, (), "column 'prompt' has messages that are not JSON: "),
        (
            {"images": [{"bytes": "x"}], "problem": "a", "answer": "1"},
            (),
            "column 'images' has images, which the models",
        ),
        (
            {"prompt": [*ASKED, *REPLIED, *ASKED], "answer": "1"},
            (),
            "column 'prompt' has messages of the roles user, assis",
        ),
        (
            {"prompt": [{"role": "user", "content": [{"type": "image"}]}], "answer": "1"},
            (),
            "has parts of the types image",
        ),
        ({"question": "a", "answer": "####"}, (), "column 'answer' is '', which is empty"),
        (
            {"problem": "a", "solution": "by symmetry"},
            (),
            r"column 'solution' has no \boxed{}, where its answer should",
        ),
        (
            {"prompt": ASKED, "reward_model": {"ground_truth": {"tests": 1}}},
            (),
            "'reward_model.ground_truth' is {'tests'",
        ),
        ({"prompt": ASKED, "completion": [*REPLIED, *REPLIED]}, (), "column 'completion' is [{'role'"),
    ],
)
def test_a_row_that_has_no_problem_is_named(tmp_path: Path, row: Any, columns: tuple[str, ...], message: str) -> None:
    path = write_lines(tmp_path / "data.jsonl", row)
    with pytest.raises(UserError) as error:
        read_problems(path, "number", columns)
    text = str(error.value)
    assert text.startswith(f"{path}, line 1: ") and message in text and "\n" not in text


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("question=Q",), "--problems.columns question=Q: write FIELD=COLUMN with a field of prompt, answer, kind"),
        (("prompt",), "--problems.columns prompt: write FIELD=COLUMN"),
        (("prompt=a", "prompt=b"), "--problems.columns names prompt twice"),
    ],
)
def test_wrong_columns_are_refused(columns: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError) as error:
        check_problems(ProblemsConfig(columns=columns))
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        (r"\boxed{1} and \boxed{2}", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}}$.", r"\frac{1}{\sqrt{2}}"),
        (r"\fbox {a}", "a"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{[1, 2\}}", r"[1, 2\}"),
        (r"\boxed{1", None),
        ("1", None),
    ],
)
def test_the_last_box_with_balanced_braces_is_read(text: str, boxed: str | None) -> None:
    assert placed_answer(text, "boxed") == boxed


def test_unreadable_rows_are_left_out_when_asked_and_counted(tmp_path: Path) -> None:
    rows = [{"problem": f"Q{i}?", "solution": rf"\boxed{{{i}}}" if i % 4 else "a proof"} for i in range(1, 41)]
    path = write_lines(tmp_path / "data.jsonl", *rows)
    with pytest.raises(UserError, match=r"line 4: column 'solution' has no .*, or add --problems\.skip-unreadable"):
        load_problems(ProblemsConfig(path))
    problems = load_problems(ProblemsConfig(path, held_out_share=0.3, skip_unreadable=True))
    assert len(problems.train + problems.held_out) == 30
    (note,) = problems.notes
    assert note.startswith(f"problems: 30 of {path} in the shape problem and solution") and "10 rows left out" in note


def test_a_split_of_the_source_is_held_out(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here" / "test").mkdir(parents=True)  # a folder with the name of the split
    monkeypatch.chdir(tmp_path / "here")

    def lines(split: str, numbers: range) -> str:
        return "\n".join(json.dumps({"question": f"{split} {i}?", "answer": f"#### {i}"}) for i in numbers)

    splits = {f"main/{name}.jsonl": lines(name, range(8)) for name in ("train", "test")}
    hub.add("datasets/org/set", splits)
    for name, text in splits.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for source, held_out in (
        ("hf:org/set:main", "test"),
        ("hf:org/set", "hf:org/set:main/test"),
        (f"{tmp_path}:main", "test"),
        (f"{tmp_path}/main/train.jsonl", f"{tmp_path}/main/test.jsonl"),
    ):
        problems = load_problems(ProblemsConfig(source, held_out_source=held_out))
        assert {p.question for p in problems.train} == {f"train {i}?" for i in range(8)}
        assert {p.question for p in problems.held_out} == {f"test {i}?" for i in range(8)}
        assert len(problems.notes) == 2
    for source, held_out, message in (
        ("hf:org/set:main", "dev", r"hf:org/set:main has no split 'dev': it has test, train$"),
        (f"{tmp_path}/main/train.jsonl", "dev", r"train\.jsonl is a file and has no split 'dev': give the path"),
        ("arithmetic", "dev", "problems from 'dev': write arithmetic"),
    ):
        with pytest.raises(UserError, match=message):
            load_problems(ProblemsConfig(source, held_out_source=held_out))


def test_a_few_problems_on_both_sides_are_only_held_out(tmp_path: Path) -> None:
    train = write_lines(tmp_path / "train.jsonl", *({"prompt": f"q{i}", "answer": i} for i in range(30)))
    test = write_lines(tmp_path / "test.jsonl", *({"prompt": f"q{i}", "answer": i} for i in range(28, 40)))
    problems = load_problems(ProblemsConfig(train, held_out_source=test))
    assert len(problems.train) == 28 and len(problems.held_out) == 12
    assert not {p.question for p in problems.train} & {p.question for p in problems.held_out}
    assert problems.notes[2] == f"2 problems of {test} are in {train}, too, and are not trained on"
    few = write_lines(tmp_path / "few.jsonl", {"prompt": "q30", "answer": 30})
    with pytest.raises(UserError, match=r"1 problems are in .*few\.jsonl and in .*test\.jsonl \('q30'\): remove them"):
        load_problems(ProblemsConfig(few, held_out_source=test))


def test_the_first_row_decides() -> None:
    assert recognise({"question": "a", "answer": "b"}, "x").name == "question and answer"
    assert recognise({"question": "a", "answer": "#### 1"}, "x").name == "gsm8k"
