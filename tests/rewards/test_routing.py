"""Rewards weighted by the kind of problem."""

import numpy as np
import pytest

from r1jax.data.problems.problem import Problem
from r1jax.data.text.template import find_template
from r1jax.errors import UserError
from r1jax.rewards import Completion
from r1jax.rewards.pool import RewardPool
from r1jax.rewards.routing import RoutedRewards, check_kinds, parse_routes, rule_specs

R1 = find_template("r1")
SUM = Problem("What is 37 + 48?", "85", "sum", language="en")
CHAT = Problem("Who are you?", "R1", "self", "contains", language="en")


class Half:
    """A batch reward that gives 0.5 and records the problems it scores."""

    name = "helpfulness"

    def __init__(self):
        self.seen = []

    def score(self, problems, completions):
        self.seen += [problem.question for problem in problems]
        return np.full(len(problems), 0.5, np.float32)


def completion(text):
    return Completion(text=text, tokens=9, limit=72, finished=True, template=R1)


def test_routes_are_read():
    assert parse_routes(("sum, story: accuracy language=0.5", "self: helpfulness")) == {
        "sum": {"accuracy": 1.0, "language": 0.5},
        "story": {"accuracy": 1.0, "language": 0.5},
        "self": {"helpfulness": 1.0},
    }


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("sum accuracy",), "write KIND,KIND: REWARD"),
        (("sum:",), "write KIND,KIND: REWARD"),
        (("sum: accuracy=x",), "weight 'x' of accuracy"),
        (("sum: accuracy", "sum: format"), "'sum' has two routes"),
    ],
)
def test_wrong_routes_are_refused_in_one_line(texts, message):
    with pytest.raises(UserError, match=message):
        parse_routes(texts)


def test_unknown_kinds_and_rewards_are_refused_at_the_start():
    routes = parse_routes(("sum: accuracy",))
    with pytest.raises(UserError, match="unknown kind of problem in the routes 'self'"):
        check_kinds([SUM, CHAT], routes)
    with pytest.raises(UserError, match="unknown reward 'helpfulnes'"):
        rule_specs(parse_routes(("self: helpfulnes",)), ["helpfulness"])


def test_each_kind_has_its_own_weights(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("from r1jax.rewards import reward\n@reward\ndef short(problem, completion):\n    return 0.25\n")
    routes = parse_routes(("sum: accuracy=2 format", f"self: helpfulness=3 language {file}:short=4"))
    model = Half()
    with RewardPool(rule_specs(routes, ["helpfulness"]), 1, 20.0) as pool:
        rewards = RoutedRewards(routes, pool, [model])
        right, mixed = "<think>I add.</think><answer>85</answer>", "<think>I am 我.</think><answer>I am R1</answer>"
        scores = rewards.score([SUM, CHAT], [completion(right), completion(mixed)])
    assert scores.names == ("accuracy", "format", "language", "short", "helpfulness")
    np.testing.assert_allclose(scores.values[0], [1, 1, 1, np.nan, np.nan])
    np.testing.assert_allclose(scores.values[1], [1, 1, 2 / 3, 0.25, 0.5], rtol=1e-6)
    np.testing.assert_allclose(scores.total, [2 + 1, 3 * 0.5 + 2 / 3 + 4 * 0.25], rtol=1e-6)
    assert model.seen == [CHAT.question]
    np.testing.assert_array_equal(scores.resolution, [0, 0])


def test_the_resolution_of_a_total_is_the_weighted_sum_of_its_models():
    model = Half()
    model.resolution = 0.25
    routes = parse_routes(("sum: accuracy", "self: helpfulness=-3 accuracy"))
    with RewardPool(rule_specs(routes, ["helpfulness"]), 1, 20.0) as pool:
        scores = RoutedRewards(routes, pool, [model]).score([SUM, CHAT], [completion("a"), completion("b")])
    np.testing.assert_allclose(scores.resolution, [0, 0.75])
