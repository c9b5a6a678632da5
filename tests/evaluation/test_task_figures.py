from __future__ import annotations

import typing

import numpy as np
import pytest

from r1jax.data.problems.problem import Checker, Problem
from r1jax.evaluation.records import Record, read_records
from r1jax.evaluation.task_figures import judge_samples, task_evaluation
from r1jax.evaluation.task_samples import Drawn
from r1jax.evaluation.tasks.prompts import task_template
from r1jax.rewards import Completion
from r1jax.rewards.scores import Scores

TEMPLATE = task_template("boxed", "Go.", chat=True)
PROBLEMS = [Problem(f"What is {i} + 1?", str(i + 1), "odd" if i % 2 else "even") for i in range(3)]


class Halves:
    """A scorer that gives each completion half of the score and loses the first of each call."""

    names = ("other", "accuracy")

    def score(self, problems, completions):
        values = np.tile(np.float32([1, 0.5]), (len(problems), 1))
        return Scores(values, values[:, 0], self.names, timeouts=1, crashes=0)

    def check(self, problems, answers):
        return np.array([float(p.answer == a) for p, a in zip(problems, answers, strict=True)], np.float32)


def drawn(place, text, finished=True):
    return Drawn(place, Completion(text, 7, 9, finished, TEMPLATE), 7, 0.25)


def record(problem, sample, answer, correct=False):
    return Record(
        problem, sample, "", answer, correct, float(correct), answer is not None, 10 * problem + 10, True, 2.5
    )


def test_samples_are_judged_in_order_and_late_answers_are_counted_in_a_warning(tmp_path) -> None:
    path = tmp_path / "completions.jsonl"
    parts = iter([[drawn((0, 0), r"\boxed{1}"), drawn((0, 1), "2 apples", finished=False)], [drawn((2, 0), "")]])
    with pytest.warns(UserWarning, match=r"gsm8k: 2 answers were not judged .* raise --verifier.deadline"):
        judge_samples(parts, PROBLEMS, TEMPLATE, Halves(), path, "gsm8k", total=6, done=3)
    assert read_records(path) == [
        Record(0, 0, r"\boxed{1}", "1", False, 0.5, True, 7, True, 0.25),
        Record(0, 1, "2 apples", "2", False, 0.5, False, 7, False, 0.25),
        Record(2, 0, "", None, False, 0.5, False, 7, True, 0.25),
    ]


def test_a_program_is_judged_without_the_reasoning_around_it(tmp_path) -> None:
    """A scorer that reads the last block of a text would else judge one in the reasoning."""
    judged = []

    class Programs(Halves):
        def score(self, problems, completions):
            judged.extend((one.text, one.template.tags) for one in completions)
            return super().score(problems, completions)

    block = "```python\n{}()\n```"
    thought = f"<think>\n{block.format('bad')}\n"
    texts = [f"{thought}</think>\n{block.format('good')}", thought, "    go"]
    problem = Problem("Write it.", "", "k", typing.cast(Checker, "code"))
    own, named = (task_template("code", "Go.", chat=True, named=name) for name in (None, "r1"))
    completions = [Completion(text, 7, 9, True, own) for text in texts]
    completions.append(Completion("<think></think><answer>go</answer>", 7, 9, True, named))
    parts = [[Drawn((0, i), one, 7, None) for i, one in enumerate(completions)]]
    with pytest.warns(UserWarning, match="1 answers"):
        judge_samples(parts, [problem], own, Programs(), tmp_path / "completions.jsonl", "mbpp", 4, 0)
    assert judged == [("good()", False), ("", False), ("    go", False), ("go", False)]


def test_a_failing_source_of_samples_leaves_those_that_have_come(tmp_path) -> None:
    def failing():
        yield [drawn((0, 0), r"\boxed{1}")]
        raise RuntimeError("lost")

    path = tmp_path / "completions.jsonl"
    with pytest.raises(RuntimeError, match="lost"):
        judge_samples(failing(), PROBLEMS, TEMPLATE, Halves(), path, "gsm8k", total=6, done=0)
    assert [one.place for one in read_records(path)] == [(0, 0)]


def test_the_figures_are_means_over_problems_and_kinds() -> None:
    records = [record(i, j, str(i + 1 - j), correct=j == 0 and i > 0) for i in range(3) for j in range(2)]
    found = task_evaluation(PROBLEMS, records, 2, Halves(), seed=0, votes=True)
    assert found.pass_at == pytest.approx({1: 1 / 3, 2: 2 / 3})
    assert found.maj_at == pytest.approx({2: 1 / 3})  # ties with one wrong answer, twice
    assert found.accuracy_by_kind == {"even": 1 / 4, "odd": 1 / 2}
    assert found.mean_length == 20
    without = task_evaluation(PROBLEMS, records, 2, Halves(), seed=0, votes=False)
    assert without.maj_at == {} and "maj_at_2" not in without.by_problem
    assert without.pass_at == found.pass_at
    single = task_evaluation(PROBLEMS, records[::2], 1, Halves(), seed=0, votes=True)
    assert single.pass_at == pytest.approx({1: 2 / 3}) and single.maj_at == {}
