"""Problems: their answers, the wall between training and held-out, files and batches."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import warnings
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from r1jax.data.problems.dataset import (
    ProblemsConfig,
    arithmetic,
    countdown,
    gym,
    load_problems,
    problem_batch,
    warn_of_repeats,
)
from r1jax.data.problems.problem import Problem
from r1jax.data.text.numbers import parse_number
from r1jax.errors import UserError


def write_lines(path: Path, *rows: Any) -> str:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", 42),
        (" -7. ", -7),
        ("\N{MINUS SIGN}7", -7),
        ("+3", 3),
        ("1,234", 1234),
        ("1,234,567.5", Fraction(2469135, 2)),
        ("3.0", 3),
        (".25", Fraction(1, 4)),
        ("2/4", Fraction(1, 2)),
        ("-1 / 3", Fraction(-1, 3)),
        ("7!", 7),
        ("12,34", None),
        ("1/0", None),
        ("", None),
        (".", None),
        ("four", None),
        ("3 apples", None),
        ("1 2", None),
        ("1e3", 1000),
        ("\N{ARABIC-INDIC DIGIT THREE}", None),
        ("9" * 5000, None),
    ],
)
def test_numbers_are_read_as_people_write_them(text: str, value: Fraction | int | None) -> None:
    assert parse_number(text) == value


@pytest.mark.parametrize(("digits", "operations", "terms"), [(1, "+*", 2), (2, "+-", 2), (3, "-*", 3), (6, "+-*", 4)])
def test_arithmetic_follows_its_grade(digits: int, operations: str, terms: int) -> None:
    problems = load_problems(ProblemsConfig("arithmetic", None, digits, operations, terms, 300, 30))
    assert (len(problems.train) == 300 or digits == 1) and problems.held_out
    for problem in problems.train + problems.held_out:
        words = problem.question.split(" ")
        assert int(problem.answer) == eval(problem.question)  # Python's own arithmetic
        assert len(words[::2]) == terms and set(words[1::2]) <= set(operations)
        assert all(len(number) == digits for number in words[::2])
    assert {sign for p in problems.train for sign in p.question if sign in "+-*"} == set(operations)


def test_a_small_space_is_listed_whole() -> None:
    problems = load_problems(ProblemsConfig(digits=1, operations="+*"))
    questions = sorted(p.question for p in problems.train + problems.held_out)
    assert questions == sorted(f"{a} {sign} {b}" for a in range(10) for b in range(10) for sign in "+*")


def test_a_large_space_is_sampled_without_repeats() -> None:
    problems = load_problems(ProblemsConfig(digits=3, operations="+", train_size=2000))
    assert len(set(problems.train)) == 2000


def commuted(question: str) -> set[str]:
    """All orders of the numbers of a sum or of a product, written without looking at the library's way."""
    numbers, sign = question.split(" ")[::2], question.split(" ")[1]
    return {f" {sign} ".join(order) for order in itertools.permutations(numbers)}


@pytest.mark.parametrize(("operations", "terms"), [("+", 2), ("*", 2), ("+", 3)])
def test_no_form_of_a_held_out_problem_is_ever_trained_on(operations: str, terms: int) -> None:
    train, held_out = set(), set()
    for seed, sizes, digits in itertools.product((0, 1, 2), ((50, 50), (2000, 500)), (1, 2)):
        config = ProblemsConfig("arithmetic", None, digits, operations, terms, *sizes, seed=seed)
        problems = load_problems(config)
        train |= {p.question for p in problems.train}
        held_out |= {p.question for p in problems.held_out}
    assert not train & set.union(*map(commuted, held_out))
    assert all(map(arithmetic.is_held_out, held_out)) and not any(map(arithmetic.is_held_out, train))


def test_terms_of_either_sign_may_change_places() -> None:
    for a, b, c in itertools.product(range(10, 40), range(10, 20), (7, 21)):
        sides = {
            arithmetic.is_held_out(question)
            for question in (f"{a} * {b} - {c} + 5", f"{b} * {a} + 5 - {c}", f"5 - {c} + {a} * {b}")
        }
        assert len(sides) == 1
    # What is worked for b - a is the work for a - b.
    differences = [
        (arithmetic.is_held_out(f"{a} - {b}"), arithmetic.is_held_out(f"{b} - {a}"))
        for a in range(60)
        for b in range(a)
    ]
    assert all(x == y for x, y in differences) and {x for x, _ in differences} == {True, False}


def test_the_split_is_the_same_for_ever() -> None:
    # Written down once: with another split, problems that an older run trained on would be held out.
    held_out = [f"{a} + {b}" for a in range(10) for b in range(a, 10) if arithmetic.is_held_out(f"{a} + {b}")]
    assert held_out == ["0 + 8", "1 + 8", "2 + 5", "2 + 7", "3 + 4", "3 + 6", "5 + 5", "9 + 9"]


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_the_share_is_kept(share: float) -> None:
    questions = [f"{a} + {b}" for a in range(200) for b in range(a, 200)]  # 20,100
    count = sum(arithmetic.is_held_out(question, share) for question in questions)
    assert abs(count / len(questions) - share) < 0.02  # five standard deviations


def test_only_arithmetic_has_a_side() -> None:
    for question in ("3 + x", "3 +", "+ 3", "3 + 4 = ?", ""):
        with pytest.raises(ValueError, match="whole numbers"):
            arithmetic.is_held_out(question)


@pytest.mark.parametrize(
    ("expression", "solved"),
    [
        ("(3 + 4) * 5", True),
        ("5*(3+4)", True),
        ("5 \N{MULTIPLICATION SIGN} (4 + 3)", True),
        ("5 * 3 + 4 * 5", False),  # 35, but with 5 twice
        ("3 + 4 * 5", False),  # 23: products go first
        ("35", False),  # not among the numbers
        ("(3 + 4) * 5 = 35", False),
        ("(3 + 4) * 5)", False),
        ("((3 + 4) * 5", False),
        ("(3 + 4) 5", False),
        ("3 / (4 - 4)", False),
        ("(3 + 4) ** 5", False),
        ("__import__('os')", False),
        ("", False),
        ("(" * 5000, False),
    ],
)
def test_countdown_expressions(expression: str, solved: bool) -> None:
    assert countdown.solves(expression, [3, 4, 5], 35) is solved


def test_countdown_steps_may_be_fractions_and_numbers_may_repeat() -> None:
    assert countdown.solves("8 / (3 - 8 / 3)", [3, 3, 8, 8], 24)
    assert not countdown.solves("8 / (3 - 8 / 3)", [3, 8, 8], 24)
    assert not countdown.solves("4 * 6", [4, 6], 24, operations="+-")


@pytest.mark.parametrize(("digits", "operations", "terms"), [(1, "+-", 2), (2, "+-*/", 4), (3, "+*", 6)])
def test_countdown_problems_have_a_solution_with_all_their_numbers(digits: int, operations: str, terms: int) -> None:
    problems = load_problems(ProblemsConfig("countdown", None, digits, operations, terms, 100, 20))
    for problem in problems.train + problems.held_out:
        target, *numbers = map(int, re.findall(r"\d+", problem.question))
        assert eval(problem.answer) == target  # every step is a whole number, so floats are exact
        assert Counter(map(int, re.findall(r"\d+", problem.answer))) == Counter(numbers)
        assert len(numbers) == terms and max(numbers) < 10**digits and target not in numbers
        assert set(re.findall(r"[-+*/]", problem.answer)) <= set(operations)
        assert countdown.solves(problem.answer, **json.loads(problem.metadata))


def test_countdown_keeps_held_out_numbers_out_in_any_order() -> None:
    def form(problem: Problem) -> tuple[Any, ...]:
        data = json.loads(problem.metadata)
        return data["target"], *sorted(data["numbers"])

    config = ProblemsConfig("countdown", digits=1, terms=3, train_size=2000, held_out_size=500)
    sets = [load_problems(dataclasses.replace(config, seed=seed)) for seed in (0, 1)]
    train = {form(p) for s in sets for p in s.train}
    held_out = {form(p) for s in sets for p in s.held_out}
    assert len(held_out) > 20 and not train & held_out


def test_gym_tasks_come_by_name_with_their_own_scorer() -> None:
    config = ProblemsConfig("gym:chain_sum", train_size=60, held_out_size=20)
    sets = [load_problems(dataclasses.replace(config, seed=seed)) for seed in (0, 1)]
    train = {p.question for s in sets for p in s.train}
    held_out = {p.question for s in sets for p in s.held_out}
    assert len(train) > 100 and len(held_out) > 30 and not train & held_out
    problem = sets[0].train[0]
    assert problem.kind == "chain_sum"
    assert gym.score(problem.answer, problem.metadata) == 1
    assert gym.score("12345678", problem.metadata) < 0.1


def test_gym_scorers_get_back_the_very_entry() -> None:
    # This scorer wants tuples, which plain JSON would turn into lists.
    _, problem = next(gym.generate("rearc", seed=0))
    assert gym.score(problem.answer, problem.metadata) == 1


def test_a_gym_answer_that_its_scorer_cannot_read_is_wrong() -> None:
    _, problem = next(gym.generate("prime_factorization", seed=0))
    assert gym.score("no number", problem.metadata) == 0
    assert gym.score(problem.answer, problem.metadata) == 1


def test_files_are_read_with_their_columns(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "answer": i, "note": "ignored"} for i in range(40)]
    rows[7] |= {"kind": "algebra", "checker": "math", "answer": "x+1"}
    lines = write_lines(tmp_path / "sums.jsonl", *rows, "")
    parquet = tmp_path / "sums.parquet"
    full = [{"kind": None, "checker": None, **row, "answer": str(row["answer"])} for row in rows]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(full), parquet)
    expected = {Problem(f"q{i}", str(i), "sums") for i in range(40) if i != 7} | {
        Problem("q7", "x+1", "algebra", "math")
    }
    for source in (lines, str(parquet)):
        problems = load_problems(ProblemsConfig(source, held_out_share=0.3))
        assert len(problems.train + problems.held_out) == 40
        assert set(problems.train + problems.held_out) == expected


def test_rows_without_extra_columns_take_the_config(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "words.jsonl", *({"prompt": f"q{i}", "answer": "yes"} for i in range(40)))
    problems = load_problems(ProblemsConfig(source, held_out_share=0.3, checker="exact"))
    assert {(p.kind, p.checker) for p in problems.train} == {("words", "exact")}


def test_a_file_says_the_language_of_its_questions_and_is_read_again_when_it_changed(tmp_path: Path) -> None:
    lines = [{"prompt": f"q{i}", "answer": i, "language": "zh" if i % 2 else None} for i in range(40)]
    source = write_lines(tmp_path / "words.jsonl", *lines)
    config = ProblemsConfig(source, held_out_share=0.3)
    assert {(int(p.answer) % 2, p.language) for p in load_problems(config).train} == {(0, ""), (1, "zh")}
    write_lines(tmp_path / "words.jsonl", *(line | {"language": "en"} for line in lines))
    os.utime(source, ns=(0, 0))
    assert {p.language for p in load_problems(config).train} == {"en"}


def test_a_part_of_a_file_is_drawn_by_the_seed(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "many.jsonl", *({"prompt": f"q{i}", "answer": i} for i in range(200)))
    parts = [load_problems(ProblemsConfig(source, train_size=20, held_out_size=3, seed=seed)) for seed in (0, 0, 1)]
    assert [(len(part.train), len(part.held_out)) for part in parts] == [(20, 3)] * 3
    assert parts[0] == parts[1] and set(parts[0].train) != set(parts[2].train)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"prompt": "a", ', "line 2, character 17: not JSON"),
        ("[1, 2]", "line 2: write an object"),
        ({"prompt": "a"}, "line 2: no column 'answer'"),
        ({"answer": "1"}, "line 2: no column 'prompt'"),
        ({"prompt": " ", "answer": "1"}, "line 2: column 'prompt' is ' '"),
        ({"prompt": "a", "answer": [1]}, "line 2: column 'answer' is [1]: write text or a number"),
        ({"prompt": "a", "answer": True}, "line 2: column 'answer' is True: write text or a number"),
        ({"prompt": "a", "answer": "one"}, "line 2: column 'answer' is 'one', not a number"),
        ({"prompt": "a", "answer": "1", "checker": "gym"}, "line 2: column 'checker' is 'gym'"),
        ({"prompt": "a", "answer": "1", "kind": 3}, "line 2: column 'kind' is 3"),
        ({"prompt": "a", "answer": "1", "language": ["zh"]}, "line 2: column 'language' is ['zh']"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, row: Any, message: str) -> None:
    source = write_lines(tmp_path / "data.jsonl", {"prompt": "a", "answer": "1"}, row)
    with pytest.raises(UserError) as error:
        load_problems(ProblemsConfig(source))
    assert f"{source}, {message}" in str(error.value) and "\n" not in str(error.value)


def test_a_wrong_parquet_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["a", "b"], "answer": ["1", None]}), path)
    with pytest.raises(UserError, match=r"data\.parquet, row 2: no column 'answer'"):
        load_problems(ProblemsConfig(str(path)))
    path.write_text("no parquet")
    with pytest.raises(UserError, match="not a readable parquet file"):
        load_problems(ProblemsConfig(str(path)))


def test_a_held_out_file_is_used_whole(tmp_path: Path) -> None:
    train = write_lines(tmp_path / "train.jsonl", *({"prompt": f"q{i}", "answer": i} for i in range(30)))
    test = write_lines(tmp_path / "test.jsonl", *({"prompt": f"t{i}", "answer": i} for i in range(10)))
    problems = load_problems(ProblemsConfig(train, held_out_source=test))
    assert {p.question for p in problems.train} == {f"q{i}" for i in range(30)}
    assert {p.question for p in problems.held_out} == {f"t{i}" for i in range(10)}
    with pytest.raises(UserError, match=r"30 problems are in .*train\.jsonl and in .*train\.jsonl"):
        load_problems(ProblemsConfig(train, held_out_source=train))


def test_a_generator_keeps_to_its_side_of_another_source(tmp_path: Path) -> None:
    sums = write_lines(tmp_path / "sums.jsonl", {"prompt": "a", "answer": 1})
    evaluated = load_problems(ProblemsConfig(sums, held_out_source="arithmetic"))
    assert all(arithmetic.is_held_out(p.question) for p in evaluated.held_out)
    trained = load_problems(ProblemsConfig("arithmetic", held_out_source=sums))
    assert not any(arithmetic.is_held_out(p.question) for p in trained.train)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "arithmetics"}, "'arithmetics': write arithmetic, countdown, word-problems, general, gym:NAME"),
        ({"source": "gym:chain_sums"}, "did you mean chain_sum"),
        ({"source": "gym:composite"}, "cannot make 'composite'"),
        ({"source": "missing.jsonl"}, "no file missing.jsonl"),
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


def test_files_that_give_nothing_are_told_apart_with_the_flag_that_mends_it(tmp_path: Path) -> None:
    empty, blank = write_lines(tmp_path / "empty.jsonl"), write_lines(tmp_path / "blank.jsonl", "", " ")
    table = str(tmp_path / "empty.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"prompt": pyarrow.array([], "string"), "answer": []}), table)
    few = write_lines(tmp_path / "few.jsonl", {"prompt": "a", "answer": 1})
    missing = str(tmp_path / "nope.jsonl")
    expected = [
        *((ProblemsConfig(path), f"{path} holds no rows: give --problems.source") for path in (empty, blank, table)),
        (ProblemsConfig(few, empty), f"{empty} holds no rows: give --problems.held-out-source"),
        (ProblemsConfig(empty, few), f"{empty} holds no rows: give --problems.source"),
        (ProblemsConfig(missing), f"no file {missing}: give --problems.source"),
        (ProblemsConfig(few, missing), f"no file {missing}: give --problems.held-out-source"),
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
    }
    assert set(changes) == {field.name for field in dataclasses.fields(ProblemsConfig)}
    for name, (config, value) in changes.items():
        assert load_problems(dataclasses.replace(config, **{name: value})) != load_problems(config), name


PROBLEMS = tuple(Problem(str(i), str(i), "test") for i in range(30))


def numbers(*args: Any, **kwargs: Any) -> list[int]:
    return [int(problem.question) for problem in problem_batch(PROBLEMS, *args, **kwargs)]


def test_batches_walk_through_epochs_without_repeats() -> None:
    walk = [n for step in range(12) for n in numbers(step, 5, seed=3)]
    first, second = walk[:30], walk[30:]
    assert sorted(first) == sorted(second) == list(range(30))
    assert first != second and first != list(range(30))


def test_a_batch_depends_on_its_arguments_alone() -> None:
    assert numbers(1000, 7, seed=3) == numbers(1000, 7, seed=3)
    assert numbers(4, 7, seed=3) != numbers(4, 7, seed=4)


@pytest.mark.parametrize("size", [1, 7, 16, 29, 30])
def test_a_step_holds_no_problem_twice_and_none_falls_behind(size: int) -> None:
    """Also at the edges of epochs, of which 30 problems have one within a step for most sizes."""
    asked: Counter[int] = Counter({i: 0 for i in range(30)})
    for step in range(60):
        batch = numbers(step, size, seed=1)
        assert len(set(batch)) == size
        asked.update(batch)
        assert max(asked.values()) - min(asked.values()) <= 1
    assert numbers(0, size, seed=1) != numbers(0, size, seed=2)


@pytest.mark.parametrize("size", [4, 7, 10])
def test_attempts_of_a_step_are_distinct_and_each_walks_through_all(size: int) -> None:
    """First attempts are the walk without others, so that asking again or not leaves no problem behind."""
    seen: list[Counter[int]] = [Counter({i: 0 for i in range(30)}) for _ in range(3)]
    for step in range(60):
        batches = [numbers(step, size, seed=3, attempt=a, attempts_per_step=3) for a in range(3)]
        assert batches[0] == numbers(step, size, seed=3)
        assert len({n for batch in batches for n in batch}) == 3 * size
        for counter, batch in zip(seen, batches, strict=True):
            counter.update(batch)
    assert all(max(counter.values()) - min(counter.values()) <= 2 for counter in seen)


def test_a_walk_goes_on_when_steps_change_their_size() -> None:
    asked: Counter[int] = Counter({i: 0 for i in range(30)})
    for step in range(50):
        batch = numbers(step, 8, seed=1) if step < 9 else numbers(step, 3, seed=1, earlier=[8] * 9)
        assert len(set(batch)) == len(batch)
        asked.update(batch)
        assert max(asked.values()) - min(asked.values()) <= 1


def test_fewer_problems_than_a_step_asks_for_are_all_asked_and_told() -> None:
    asked = Counter(numbers(3, 70, seed=0))
    assert set(asked) == set(range(30)) and max(asked.values()) - min(asked.values()) == 1
    with pytest.warns(UserWarning, match="asks for 70 problems and there are 30.*lower rl.prompts"):
        warn_of_repeats(PROBLEMS, 70, "rl.prompts")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_repeats(PROBLEMS, 30, "rl.prompts")
