"""Reward rules by hand, and the reading of their configuration."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from r1jax.data.problems import gym
from r1jax.data.problems.problem import Problem
from r1jax.data.text.template import TEMPLATES
from r1jax.errors import UserError
from r1jax.rewards.base import Completion, reward
from r1jax.rewards.config import RewardSpec, VerifierConfig, load_rewards, parse_rewards
from r1jax.rewards.rules import accuracy, format, length

SUM = Problem("37 + 48", "85", "arithmetic")


def completion(text: str, template: str = "think", tokens: int = 5) -> Completion:
    return Completion(text, tokens, limit=20, finished=True, template=TEMPLATES[template])


def answered(answer: str) -> Completion:
    return completion(f"<think>hm</think><answer>{answer}</answer>")


@pytest.mark.parametrize(
    ("expected", "answer", "right"),
    [
        ("85", "85", True),
        ("85", " 85. ", True),
        ("85", "85.0", True),
        ("85", "170/2", True),
        ("1234", "1,234", True),
        ("1,234", "1234", True),
        ("0.5", "1/2", True),
        ("-5", "\N{MINUS SIGN}5", True),
        ("85", "-85", False),
        ("85", "8 5", False),
        ("85", "about 85", False),
        ("0.3333", "1/3", False),
        ("9007199254740993", "9007199254740992", False),  # equal as floats
        ("85", "", False),
        ("100000", "1e5", True),
        ("5", "1e5", False),
        ("6", "10^6", False),
        ("18", "18 cm^2", True),
        ("2", "18 cm^2", False),
        ("5", "1,2345", False),
        ("5 km", "5 m", False),
        ("18 dollars", "$18", True),
        ("1.5", "1 1/2", True),
        ("50", "50%", True),
        ("0.5", "50%", True),
        ("5", "50%", False),
        ("0.00002", "2e-05", True),
        ("1e20", "100000000000000000000", True),
    ],
)
def test_numbers_are_compared_by_value(expected: str, answer: str, right: bool) -> None:
    assert accuracy(Problem("q", expected, "test", "number"), answered(answer)) == right


@pytest.mark.parametrize(
    ("expected", "answer", "right"),
    [
        ("1/2", r"\frac{2}{4}", True),
        ("x^2 + 2x + 1", "(x+1)^2", True),
        (r"$\sqrt{8}$", r"2\sqrt{2}", True),
        ("12", r"\boxed{12}", True),
        (r"\{1, 2\}", r"\{2, 1\}", True),
        ("(1, 2)", "(2, 1)", False),
        ("x^2 + 1", "x^2 - 1", False),
        ("12", "13", False),
        ("12", "", False),
        ("12", r"\frac{", False),
    ],
)
def test_mathematics_is_compared_by_meaning(expected: str, answer: str, right: bool) -> None:
    assert accuracy(Problem("q", expected, "test", "math"), answered(answer)) == right


def test_exact_answers_are_compared_letter_by_letter() -> None:
    problem = Problem("q", "Paris\n", "test", "exact")
    assert accuracy(problem, answered(" Paris ")) == 1
    assert accuracy(problem, answered("paris")) == 0


def test_countdown_answers_are_any_solution() -> None:
    metadata = json.dumps({"numbers": [3, 4, 5], "target": 35, "operations": "+-*/"})
    problem = Problem("q", "(3 + 4) * 5", "countdown", "countdown", metadata)
    assert accuracy(problem, answered("5 * (4 + 3)")) == 1
    assert accuracy(problem, answered("35")) == 0


def test_gym_answers_are_judged_by_their_task() -> None:
    _, problem = next(gym.generate("spell_backward", seed=0))
    assert accuracy(problem, answered(problem.answer)) == 1
    # This task gives part credit for the letters in place, as no rule of ours would.
    assert 0 < accuracy(problem, answered(problem.answer[:-1] + "#")) < 1


def test_no_answer_is_a_wrong_answer() -> None:
    assert accuracy(SUM, completion("<think>85</think>")) == 0
    assert accuracy(SUM, completion("<think>85</think><answer>85</answer><answer>85</answer>")) == 0
    assert accuracy(Problem("q", "", "test", "exact"), completion("<think>85</think>")) == 0
    assert accuracy(SUM, completion("85", template="number")) == 1


@pytest.mark.parametrize(("template", "text"), [("number", "it is 8"), ("steps", "7 + 8 = 15. The answer is 8")])
def test_a_number_that_the_length_limit_may_have_cut_is_no_answer(template: str, text: str) -> None:
    cut = Completion(text, tokens=20, limit=20, finished=False, template=TEMPLATES[template])
    assert accuracy(Problem("q", "8", "test"), cut) == 0
    assert accuracy(Problem("q", "8", "test"), dataclasses.replace(cut, finished=True)) == 1
    assert accuracy(Problem("q", "8", "test"), dataclasses.replace(cut, text=f"{text}, so")) == 1


def test_a_repeated_question_is_no_answer() -> None:
    for text in ("0 + 3 = RIVANT", "0 + 3 = ", "0 + 3", "0+3", "3 + 0 = ?", "What is 0 + 3?", "0 plus 3 is"):
        assert accuracy(Problem("0 + 3", "3", "arithmetic"), completion(text, "number")) == 0, text
    for text in ("0 + 3 = 3", "3", "The answer is 3.", "It is **3**", "0 + 3 is 3"):
        assert accuracy(Problem("0 + 3", "3", "arithmetic"), completion(text, "number")) == 1, text


def test_a_story_told_again_is_no_answer() -> None:
    story = "Tom has 0 apples and gets 3 more. How many now?"
    assert accuracy(Problem(story, "3", "story"), completion(story, "number")) == 0
    assert accuracy(Problem(story, "3", "story"), completion(f"{story} RIVANT", "number")) == 0
    assert accuracy(Problem(story, "3", "story"), completion(f"{story} He has 3", "number")) == 1
    assert accuracy(Problem("3", "3", "test"), completion("3", "number")) == 1


def test_format_is_the_template_s() -> None:
    assert format(SUM, answered("a cat")) == 1
    assert format(SUM, completion("85")) == 0
    assert format(SUM, completion("85", template="number")) == 1
    assert format(SUM, completion("a cat", template="number")) == 0


def test_length_costs_tokens_and_not_characters() -> None:
    assert length(SUM, completion("long " * 100, tokens=5)) == -0.25
    assert length(SUM, completion("", tokens=20)) == -1


OWN = """
from __future__ import annotations

import dataclasses
from r1jax.rewards import Completion, Problem, reward

@dataclasses.dataclass
class Bounds:
    longest: int = 10

def helper(problem, completion):
    return 1.0

@reward
def brevity(problem: Problem, completion: Completion) -> float:
    return float(completion.tokens < Bounds().longest)
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    path = tmp_path / "math.py"  # a name that must not get in the way of the module math
    path.write_text(OWN)
    return str(path)


def test_specs_are_names_files_and_weights(own: str) -> None:
    specs = parse_rewards(["accuracy", "length=-1e-2", f"{own}:brevity=0.5"])
    assert specs == (
        RewardSpec("accuracy", None, 1.0),
        RewardSpec("length", None, -0.01),
        RewardSpec("brevity", own, 0.5),
    )
    rewards = load_rewards(specs)
    assert [r(SUM, completion("", tokens=10)) for r in rewards] == [0.0, -0.5, 0.0]
    assert [r(SUM, completion("", tokens=9)) for r in rewards] == [0.0, -0.45, 1.0]
    import math as module

    assert module is math and "brevity" not in vars(module)


def test_files_are_found_from_the_current_folder(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(own).parent)
    assert parse_rewards(["math.py:brevity"]) == (RewardSpec("brevity", own, 1.0),)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["acuracy"], "unknown reward 'acuracy': did you mean accuracy?"),
        (["zebra"], "unknown reward 'zebra': known are accuracy, format, language, length"),
        (["accuracy", "accuracy=2"], "two rewards are named 'accuracy'"),
        ([], "no rewards"),
        (["accuracy="], "reward 'accuracy=': write NAME"),
        ([""], "reward '': write NAME"),
        (["accuracy=many"], "weight many is not a finite number"),
        (["accuracy=nan"], "weight nan is not a finite number"),
        (["accuracy=inf"], "weight inf is not a finite number"),
        (["/missing/mine.py:brevity"], "rewards file /missing/mine.py does not exist"),
    ],
)
def test_a_wrong_reward_is_one_clear_line(texts: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_rewards(texts)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": 0}, "workers 0"),
        ({"deadline": 0.0}, "deadline 0.0"),
        ({"deadline": -1.0}, "deadline -1.0"),
        ({"deadline": math.nan}, "deadline nan"),
        ({"deadline": math.inf}, "deadline inf"),
    ],
)
def test_wrong_workers_are_one_clear_line(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        VerifierConfig(**settings)


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        (OWN, "brevty", "'brevty': did you mean brevity?"),
        (OWN, "helper", "write @reward (from r1jax.rewards) above helper"),
        ("x = 1\n", "brevity", "'brevity': known are none"),
        ("x = 1\nimport no_such_module\n", "brevity", "line 2: ModuleNotFoundError"),
        ("raise ValueError('two\\nlines')\n", "brevity", "line 1: ValueError: two lines"),
        ("import sys\nsys.exit(3)\n", "brevity", "line 2: SystemExit: 3"),
        ("x = 1\n\nx = (\n", "brevity", "line 3: SyntaxError"),
        (
            "from r1jax.rewards import reward\n@reward\ndef brevity(text):\n    return 1\n",
            "brevity",
            "reward 'brevity' must take (problem, completion)",
        ),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path: Path, source: str, name: str, message: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(source)
    with pytest.raises(UserError) as error:
        parse_rewards([f"{path}:{name}"])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_reward_is_still_the_function() -> None:
    @reward
    def constant(problem: Problem, completion: Completion) -> float:
        return 0.25

    assert constant.name == "constant" and constant(SUM, completion("")) == 0.25
