"""Training and held-out problems of every source."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from r1jax.data.problems import arithmetic
from r1jax.data.problems.dataset import ProblemsConfig, load_problems
from r1jax.errors import UserError
from tests.data.helpers import write_lines


def test_the_seed_decides_which_part_of_a_file_is_used(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "many.jsonl", *({"prompt": f"q{i}", "answer": i} for i in range(200)))
    parts = [load_problems(ProblemsConfig(source, train_size=20, held_out_size=3, seed=seed)) for seed in (0, 0, 1)]
    assert [(len(part.train), len(part.held_out)) for part in parts] == [(20, 3)] * 3
    assert parts[0] == parts[1] and set(parts[0].train) != set(parts[2].train)


def test_a_held_out_file_is_used_whole(tmp_path: Path) -> None:
    train = write_lines(tmp_path / "train.jsonl", *({"prompt": f"q{i}", "answer": i} for i in range(30)))
    test = write_lines(tmp_path / "test.jsonl", *({"prompt": f"t{i}", "answer": i} for i in range(10)))
    problems = load_problems(ProblemsConfig(train, held_out_source=test))
    assert {p.question for p in problems.train} == {f"q{i}" for i in range(30)}
    assert {p.question for p in problems.held_out} == {f"t{i}" for i in range(10)}
    with pytest.raises(UserError, match=r"30 problems are in .*train\.jsonl and in .*train\.jsonl"):
        load_problems(ProblemsConfig(train, held_out_source=train))


def test_the_split_by_share_depends_on_each_question_alone(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "answer": i} for i in range(60)]

    def held_out(*rows: dict[str, Any]) -> set[str]:
        problems = load_problems(ProblemsConfig(write_lines(tmp_path / "a.jsonl", *rows), held_out_share=0.3))
        sides = [
            {p.question.strip().replace("\r\n", "\n") for p in side} for side in (problems.train, problems.held_out)
        ]
        assert not sides[0] & sides[1]
        return sides[1]

    first = held_out(*rows)
    assert 5 < len(first) < 30
    assert held_out(*reversed(rows)) == first
    more = held_out(*({"prompt": f"new {i}", "answer": 0} for i in range(30)), *rows)
    assert {question for question in more if question.startswith("q")} == first
    assert held_out(*rows, *rows, *({"prompt": f" q{i}\n", "answer": i} for i in range(60))) == first
    assert held_out(*({"prompt": f"{i}{end}b", "answer": i} for i in range(60) for end in ("\n", "\r\n")))


def test_repeated_questions_are_counted_in_the_note(tmp_path: Path) -> None:
    once = [{"prompt": f"q{i}", "answer": i} for i in range(30)]
    again = [{"prompt": "q1", "answer": 1}, {"prompt": "q2 ", "answer": 5}]
    notes = [
        load_problems(ProblemsConfig(write_lines(tmp_path / f"{i}.jsonl", *rows))).notes[0].partition("kind)")[2]
        for i, rows in enumerate((once, once + again[:1], once + again))
    ]
    assert notes == ["", "; 30 different questions", "; 30 different questions, 1 of them with several answers"]


def test_white_space_does_not_hide_a_held_out_question(tmp_path: Path) -> None:
    train = write_lines(tmp_path / "train.jsonl", *({"prompt": f"q{i} ", "answer": i} for i in range(30)))
    test = write_lines(tmp_path / "test.jsonl", *({"prompt": f"q{i}", "answer": i} for i in range(28, 40)))
    assert len(load_problems(ProblemsConfig(train, held_out_source=test)).train) == 28


def test_a_generator_keeps_its_split_beside_another_source(tmp_path: Path) -> None:
    sums = write_lines(tmp_path / "sums.jsonl", {"prompt": "a", "answer": 1})
    evaluated = load_problems(ProblemsConfig(sums, held_out_source="arithmetic"))
    assert all(arithmetic.is_held_out(p.question) for p in evaluated.held_out)
    trained = load_problems(ProblemsConfig("arithmetic", held_out_source=sums))
    assert not any(arithmetic.is_held_out(p.question) for p in trained.train)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"source": "arithmetics"},
            "'arithmetics': write arithmetic, countdown, word-problems, stories, general, code, gym",
        ),
        ({"source": "gym:chain_sums"}, "did you mean chain_sum"),
        ({"source": "gym:composite"}, "cannot make 'composite'"),
        ({"source": "missing.jsonl"}, "no file missing.jsonl"),
        ({"source": "/dev/zero"}, "problems from '/dev/zero': write"),
        ({"source": ""}, "problems from '': write"),
        ({"source": "hf:a/b/train[:9]"}, r"b/train\[:9\]: slices are not read: give --problems.source without"),
        ({"held_out_source": "test[9%:]"}, "slices are not read: give --problems.held-out-source without"),
        ({"digits": 7}, "digits 7"),
        ({"terms": 5}, "terms 5"),
        ({"operations": "+/"}, r"operations '\+/'"),
        ({"operations": ""}, "operations ''"),
        ({"source": "countdown", "digits": 4}, "digits 4"),
        ({"source": "countdown", "terms": 7}, "terms 7"),
        ({"source": "countdown", "operations": "%"}, "operations '%'"),
        ({"source": "countdown", "digits": 1, "terms": 6, "operations": "/"}, "gives no train problems"),
        ({"held_out_share": 0.0}, "held_out_share 0.0"),
        ({"held_out_share": 1.0}, "held_out_share 1.0"),
        ({"train_size": 0}, "train_size 0"),
        ({"held_out_size": -1}, "held_out_size -1"),
    ],
)
def test_a_wrong_source_is_one_clear_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        load_problems(ProblemsConfig(**changes))
    assert "\n" not in str(error.value)


def test_files_without_problems_are_refused_with_the_flag_to_change(tmp_path: Path) -> None:
    empty, blank = write_lines(tmp_path / "empty.jsonl"), write_lines(tmp_path / "blank.jsonl", "", " ")
    table = str(tmp_path / "empty.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"prompt": pyarrow.array([], "string"), "answer": []}), table)
    few = write_lines(tmp_path / "few.jsonl", {"prompt": "a", "answer": 1})
    pipe = str(tmp_path / "pipe.jsonl")
    os.mkfifo(pipe)
    missing = str(tmp_path / "nope.jsonl")
    expected = [
        *((ProblemsConfig(path), f"{path} holds no rows: give --problems.source") for path in (empty, blank, table)),
        (ProblemsConfig(few, empty), f"{empty} holds no rows: give --problems.held-out-source"),
        (ProblemsConfig(empty, few), f"{empty} holds no rows: give --problems.source"),
        (ProblemsConfig(missing), f"no file {missing}: give --problems.source"),
        (ProblemsConfig(few, missing), f"no file {missing}: give --problems.held-out-source"),
        (ProblemsConfig(few, pipe), f"{pipe} is not a regular file: give --problems.held-out-source"),
        (ProblemsConfig("nope"), "as --problems.source"),
        (ProblemsConfig(few), "raise --problems.held-out-share from 0.1, or give --problems.held-out-source"),
    ]
    for config, message in expected:
        with pytest.raises(UserError) as error:
            load_problems(config)
        assert message in str(error.value) and "grade" not in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"holds no rows: give --general\.source"):
        load_problems(ProblemsConfig(empty), "--general")


def test_every_field_of_the_config_changes_the_problems(tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "a.jsonl", *({"prompt": f"q{i}", "answer": i} for i in range(40)))
    more = write_lines(tmp_path / "b.jsonl", {"prompt": "t", "answer": 1})
    in_file = ProblemsConfig(lines, held_out_share=0.3)
    sums = ProblemsConfig(train_size=100, held_out_size=20)
    spare = write_lines(tmp_path / "c.jsonl", *({"prompt": f"q{i}", "answer": i, "b": -i} for i in range(40)))
    gaps = write_lines(tmp_path / "d.jsonl", {"prompt": "t", "answer": 1}, {"prompt": "u", "answer": None})
    changes: dict[str, tuple[ProblemsConfig, Any]] = {
        "source": (sums, "countdown"),
        "held_out_source": (in_file, more),
        "digits": (sums, 3),
        "operations": (sums, "*"),
        "terms": (sums, 3),
        "train_size": (in_file, 5),
        "held_out_size": (in_file, 2),
        "held_out_share": (in_file, 0.8),
        "checker": (in_file, "exact"),
        "seed": (sums, 1),
        "columns": (ProblemsConfig(spare, held_out_share=0.3), ("answer=b",)),
        "skip_unreadable": (dataclasses.replace(in_file, held_out_source=gaps), True),
    }
    assert set(changes) == {field.name for field in dataclasses.fields(ProblemsConfig)}
    for name, (config, value) in changes.items():
        assert outcome(dataclasses.replace(config, **{name: value})) != outcome(config), name


def outcome(config: ProblemsConfig) -> tuple[object, ...] | str:
    try:
        problems = load_problems(config)
    except UserError as error:
        assert config.held_out_source and "no column 'answer'" in str(error)
        return str(error)
    return problems.train, problems.held_out
