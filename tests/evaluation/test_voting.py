"""Classes of equivalent answers, worked by hand for each checker, through the worker processes."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from r1jax.checkpoints.model import Model
from r1jax.data.problems import gym
from r1jax.data.problems.problem import Problem
from r1jax.data.text.template import find_template
from r1jax.evaluation.estimators import maj_at_k
from r1jax.evaluation.evaluate import EvaluationConfig, evaluate
from r1jax.evaluation.voting import vote_classes
from r1jax.rewards import Completion
from r1jax.rewards.config import parse_rewards
from r1jax.rewards.pool import RewardPool
from r1jax.rewards.process import Outcome, WorkerProcess
from r1jax.sampling.processors import Sampling


@pytest.fixture(scope="module")
def pool():
    with RewardPool(parse_rewards(["accuracy"]), workers=2, deadline=3.0) as pool:
        yield pool


def classes(problem, answers, pool):
    """The classes of answers to one problem, judged by the problem's own checker."""
    scores = pool.check([problem] * len(answers), [answer or "" for answer in answers])
    return vote_classes([problem], [answers], np.nan_to_num(scores)[None] > 0.5, pool)[0].tolist()


def test_a_vote_counts_values_and_not_spellings(pool):
    half = Problem("1/2?", r"\frac{1}{2}", "algebra", "math")
    found = classes(half, [r"\frac{1}{2}", "0.5", r"\dfrac12", "3", "3"], pool)
    assert found == [0, 0, 0, 1, 1]
    assert maj_at_k(np.array([found]), 5)[0] == 1


@pytest.mark.parametrize(
    ("problem", "answers", "expected"),
    [
        # Wrong spellings are one vote too, or the right answer would win too often.
        (
            Problem("?", "7", "k", "math"),
            ["7", r"\frac{1}{3}", r"\dfrac13", "1/3", "x+1", "1+x", "x+2", "8", "8.0"],
            [0, 2, 2, 2, 3, 3, 4, 1, 1],
        ),
        (
            Problem("?", "1000", "k", "number"),
            ["1,000", "1e3x", "5", "5.0", "10/2", None, " "],
            [0, 2, 1, 1, 1, -1, -1],
        ),
        (Problem("?", "Paris", "k", "exact"), ["Paris ", "Rome", " Rome", "rome"], [0, 1, 1, 2]),
        # By "contains" B is in A and in C, and neither of these is in the other: the shortest leads.
        (
            Problem("?", "12", "k", "contains"),
            ["It is 12.", "12, I think", "It is 13.", "13", "13, I think", "14"],
            [0, 0, 1, 1, 1, 2],
        ),
        (
            Problem("?", "3+4", "k", "countdown", json.dumps({"numbers": [3, 4, 5], "target": 7})),
            ["3+4", "4 + 3", "3+5", "5+3", "9-1", "3+", "3 +", "5+2"],
            [0, 0, 1, 1, 1, 2, 3, 4],
        ),
    ],
)
def test_classes_by_hand(problem, answers, expected, pool):
    found = classes(problem, answers, pool)
    assert [[a == b for b in found] for a in found] == [[a == b for b in expected] for a in expected]
    assert [c in (0, -1) and c for c in found] == [c in (0, -1) and c for c in expected]


def test_classes_do_not_depend_on_the_order_of_the_samples(pool):
    problem = Problem("?", "12", "k", "contains")
    answers = ["12", "a 13", "13 b", "13", "a 13 b", "1", "41", "14"]
    first = dict(zip(answers, classes(problem, answers, pool), strict=True))
    for seed in range(3):
        shuffled = np.random.default_rng(seed).permutation(answers).tolist()
        assert dict(zip(shuffled, classes(problem, shuffled, pool), strict=True)) == first


def test_a_task_of_the_gym_compares_wrong_answers_by_its_own_scorer(pool):
    _, problem = next(gym.generate("gsm_symbolic", 0))
    wrong = str(int(problem.answer) + 1)
    assert classes(problem, [problem.answer, wrong, f"{wrong}.0", "no number"], pool) == [0, 1, 1, 2]


class Words:
    """A tokenizer with the methods that an evaluation calls."""

    bos_id, eos_ids = None, (0,)

    def encode(self, text):
        return [1] * len(text.split())


def test_an_evaluation_votes_by_value_and_keeps_figures_by_problem(pool, monkeypatch):
    half, third = (Problem(f"1/{n}?", rf"\frac{{1}}{{{n}}}", "algebra", "math") for n in (2, 3))
    answers = [[r"\frac{1}{2}", "0.5", r"\dfrac12", "3", "3"], ["3", "3.0", r"\frac{6}{2}", r"\dfrac13", "1/3"]]
    texts = [f"<think>.</think><answer>{answer}</answer>" for row in answers for answer in row]
    template = find_template("think")
    completions = [Completion(text, 9, 9, True, template) for text in texts]
    # The second problem's samples have 4 tokens; what follows the last token is padding.
    logprobs, lengths = np.log(np.full((10, 128), 0.5)), np.array([2] * 5 + [4] * 5)
    logprobs[5:, 3] = np.log(0.125)
    samples = SimpleNamespace(lengths=lengths, sampling_logprobs=logprobs)
    monkeypatch.setattr("r1jax.evaluation.evaluate.sample", lambda *_, **__: samples)
    monkeypatch.setattr("r1jax.evaluation.evaluate.completions_from_samples", lambda *_: completions)
    model, config = Model(None, None, Words()), EvaluationConfig(samples=5)
    found, _ = evaluate(model, [half, third], template, pool, Sampling(), config, 0)
    assert found.maj_at[5] == 0.5 and found.by_problem["maj_at_5"] == (1.0, 0.0)
    assert found.by_problem["pass_at_1"] == pytest.approx((0.6, 0.4))
    # Of ten triples three of the first problem hold both wrong answers, and three of the second's both right ones.
    assert found.maj_at[3] == pytest.approx((0.7 + 0.3) / 2)
    assert len(set(found.problems)) == 2
    # The completions say 9 tokens each: a problem's entropy is its surprisal over these.
    assert found.by_problem["entropy"] == pytest.approx((2 / 9 * np.log(2), 6 / 9 * np.log(2)), abs=5e-5)
    assert found.entropy == found.figures()["entropy"] == pytest.approx(4 / 9 * np.log(2), abs=5e-5)
    again, _ = evaluate(model, [half, third], template, pool, Sampling(), config, 1)
    assert again.problems == found.problems  # the same in every run


def test_part_credit_for_an_answer_that_holds_the_right_one_is_no_right_answer(pool):
    """The task scores "-401" for -40 with 0.75, as any text that contains the answer."""
    problem = next(p for _, p in gym.generate("chain_sum", 0) if len(p.answer) > 2)
    texts = [f"<think>.</think><answer>{answer}</answer>" for answer in (problem.answer, problem.answer + "1")]
    completions = [Completion(text, 9, 9, True, find_template("think")) for text in texts]
    scores = pool.score([problem] * 2, completions)
    assert scores.values[1, 0] > 0.5 and scores.correct.tolist() == [True, False]


def test_an_answer_that_takes_too_long_has_no_score(pool, monkeypatch):
    in_time = WorkerProcess.receive

    def receive(self):
        second, outcome = self.numbers == range(1, 2), in_time(self)
        return Outcome(outcome.values[:0], "timeout") if second and outcome else outcome

    monkeypatch.setattr(WorkerProcess, "receive", receive)
    found = pool.check([Problem("?", "7", "k", "math")] * 3, ["7", "7.0", "8"])
    np.testing.assert_array_equal(found, [1, np.nan, 0])


class Slow:
    """A scorer by equality without case that times out on the answer "slow" and counts its calls."""

    def __init__(self):
        self.asked = 0

    def check(self, problems, answers):
        slow = ["slow" in (p.answer, a) for p, a in zip(problems, answers, strict=True)]
        self.asked += sum(slow)
        same = [p.answer.lower() == a.lower() for p, a in zip(problems, answers, strict=True)]
        return np.where(slow, np.nan, same).astype(np.float32)


def test_an_answer_that_cannot_be_judged_in_time_is_asked_about_once_and_is_a_vote_of_its_own():
    scorer = Slow()
    answers = ["7", "slow", "slow", "a", "A", "b", "c", "d", "B"]
    found = vote_classes([Problem("?", "7", "k", "math")], [answers], np.array([[True] + [False] * 8]), scorer)[0]
    alike = {tuple(np.flatnonzero(found == one)) for one in found}
    assert alike == {(0,), (1, 2), (3, 4), (5, 8), (6,), (7,)} and scorer.asked == 1


def test_each_problem_is_voted_on_by_itself(pool):
    problems = [Problem("?", "7", "k", "number"), Problem("?", "8", "k", "number")]
    found = vote_classes(problems, [["7", "8"], ["7", "8"]], np.array([[True, False], [False, True]]), pool)
    assert (found == 0).tolist() == [[True, False], [False, True]] and (found >= 0).all()
    assert maj_at_k(found, 2).tolist() == [0.5, 0.5]
