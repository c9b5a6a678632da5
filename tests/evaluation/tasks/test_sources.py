from __future__ import annotations

import json

import pytest

from r1jax.data.formats.sources import HUB
from r1jax.data.problems.dataset import ProblemsConfig, load_problems
from r1jax.data.problems.problem import Problem
from r1jax.errors import UserError
from r1jax.evaluation.tasks.sources import Source, find_sources, read_source
from r1jax.evaluation.tasks.table import TASKS, find_tasks, for_problems

ROWS = [{"question": f"What is {i} + {i}?", "answer": f"#### {2 * i}"} for i in range(5)]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def source_of(task, *data, **problems):
    return find_sources(find_tasks([task]), [str(one) for one in data], ProblemsConfig(**problems))[task]


@pytest.mark.parametrize(
    "name", ["gsm8k/main/test-00000-of-00001.jsonl", "gsm8k/test.jsonl", "gsm8k.jsonl", "gsm8k_test.jsonl"]
)
def test_a_file_is_found_by_its_usual_names_in_the_first_folder_that_has_one(tmp_path, name) -> None:
    path = write(tmp_path / "b" / name, ROWS)
    (tmp_path / "a").mkdir()
    found = source_of("gsm8k", tmp_path / "a", tmp_path / "b", tmp_path / "none")
    assert found == Source((path,))
    assert [one.answer for one in read_source(TASKS["gsm8k"], found, None)] == ["0", "2", "4", "6", "8"]
    assert len(read_source(TASKS["gsm8k"], found, 2)) == 2


def test_shards_are_read_in_order_and_a_folder_of_the_task_may_be_given(tmp_path) -> None:
    paths = [write(tmp_path / "gsm8k" / f"test-{i}.jsonl", ROWS[i : i + 1]) for i in (1, 0)]
    for data in (tmp_path, tmp_path / "gsm8k", f"gsm8k={tmp_path}"):
        assert source_of("gsm8k", data).files == (paths[1], paths[0])
    assert source_of("gsm8k", tmp_path, f"gsm8k={paths[0]}").files == (paths[0],)


def test_each_published_task_has_a_name_on_the_hub() -> None:
    published = [task for task in TASKS.values() if task.problem]
    assert {"gsm8k", "math500", "aime24", "gpqa", "mmlu", "humaneval", "mbpp", "livecodebench"} == {
        task.name for task in published
    }
    for task in published:
        assert find_sources([task], [HUB], ProblemsConfig())[task.name] == Source(rows=task.hub)
    assert source_of("gsm8k", HUB, "gsm8k=hf:me/mine:part/train").rows == "hf:me/mine:part/train"


def test_a_missing_file_names_the_command_that_gets_it(tmp_path) -> None:
    with pytest.raises(UserError, match=r"no file of aime24 in .*aime24/data/train\*") as caught:
        source_of("aime24", tmp_path)
    command = f"`hf download HuggingFaceH4/aime_2024 --repo-type dataset --local-dir {tmp_path}/aime24`"
    assert command in str(caught.value)
    assert "--data hf: to read hf:HuggingFaceH4/aime_2024/train" in str(caught.value)
    with pytest.raises(UserError, match="nowhere"):
        read_source(TASKS["gsm8k"], source_of("gsm8k", "gsm8k=nowhere.jsonl"), None)


def test_an_empty_file_and_other_columns_are_named(tmp_path) -> None:
    task = TASKS["gsm8k"]
    with pytest.raises(UserError, match="holds no problems of gsm8k: get it with"):
        read_source(task, Source((write(tmp_path / "empty.jsonl", []),)), None)
    with pytest.raises(UserError, match=r"other\.jsonl, line 1: no column 'answer' .*only 'q', 'a': give"):
        read_source(task, Source((write(tmp_path / "other.jsonl", [{"q": "?", "a": "!"}]),)), None)


@pytest.mark.parametrize("name", ["arithmetic", "countdown", "word-problems"])
def test_generated_problems_are_those_that_training_holds_out(name) -> None:
    source, task = source_of(name, digits=1, operations="+"), TASKS[name]
    whole = load_problems(ProblemsConfig(source=name, digits=1, operations="+"))
    found = read_source(task, source, None)
    assert tuple(found) == whole.held_out
    assert read_source(task, source, 3) == found[:3]
    with pytest.raises(UserError, match=f"--data {name}=x: the problems are generated"):
        source_of(name, f"{name}=x")


def test_problems_of_the_user_are_a_task(tmp_path) -> None:
    path = write(tmp_path / "own.jsonl", [{"prompt": f"{i} + 1?", "answer": i + 1} for i in range(60)])
    source = source_of("problems", source=str(path))
    assert source.generated is not None and source.generated.source == str(path)
    assert 0 < len(read_source(TASKS["problems"], source, None)) < 30


def test_a_task_asks_for_programs_if_tests_judge_its_problems() -> None:
    task, sums = TASKS["problems"], [Problem("1 + 1?", "2", "k")]
    programs = [Problem("Write f.", "", "k", "code", '{"asserts": ["assert f()"]}')]
    assert for_problems(task, sums) == task and for_problems(TASKS["mbpp"], programs) == TASKS["mbpp"]
    asked = for_problems(task, programs)
    assert (asked.form, asked.request, asked.name) == ("code", TASKS["mbpp"].request, "problems")
    with pytest.raises(UserError, match="problems: 1 of 2 problems ask for programs and the others for answers: put"):
        for_problems(task, programs + sums)


def test_names_of_tasks_are_separated_by_spaces_or_commas() -> None:
    assert [task.name for task in find_tasks(["gsm8k,aime24", "gym:leg_counting", "gsm8k"])] == [
        "gsm8k",
        "aime24",
        "gym:leg_counting",
    ]
    with pytest.raises(UserError, match="no tasks: give --tasks some of gsm8k, math500"):
        find_tasks([" ,"])
    with pytest.raises(UserError, match="unknown task 'gsm8': did you mean gsm8k"):
        find_tasks(["gsm8"])
    with pytest.raises(UserError, match="unknown task in --data 'gsm': did you mean gsm8k"):
        source_of("gsm8k", "gsm=here.jsonl")
    generated = source_of("gym:leg_counting").generated
    assert generated is not None and generated.source == "gym:leg_counting"


def test_the_original_archive_of_mmlu_has_no_line_of_names(tmp_path) -> None:
    folder = tmp_path / "mmlu" / "data" / "test"
    folder.mkdir(parents=True)
    (folder / "law_test.csv").write_text('"Which,\none?",1,1,"b, c",d,B\nHow many?,0,1,2,3,D\n')
    (folder / "algebra_test.csv").write_text("question,A,B,C,D,answer\nWhat is x?,0,1,2,3,A\n")
    (tmp_path / "mmlu" / "data" / "dev").mkdir()
    (tmp_path / "mmlu" / "data" / "dev" / "law_dev.csv").write_text("No?,0,1,2,3,D\n")
    source = source_of("mmlu", tmp_path)
    found = read_source(TASKS["mmlu"], source, None)
    assert [(one.kind, one.answer) for one in found] == [("algebra", "A"), ("law", "B"), ("law", "D")]
    assert found[1].question == "Which,\none?\n\n(A) 1\n(B) 1\n(C) b, c\n(D) d"
    assert found == read_source(TASKS["mmlu"], source_of("mmlu", f"mmlu={folder}"), None)
    (folder / "law_test.csv").write_text("Which?,a,b,c,d,E\n")
    with pytest.raises(UserError, match=r"law_test.csv, line 1: column 'answer' is 'E'"):
        read_source(TASKS["mmlu"], source, None)
