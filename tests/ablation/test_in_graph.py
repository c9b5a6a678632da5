"""An arm of a program against the ordinary loop with the same seed and settings."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from r1jax.ablation.in_graph import make_loop
from r1jax.ablation.spec import Evaluation, LoopSpec, number_names
from r1jax.algorithms.grpo import GRPO
from r1jax.algorithms.ppo import PPO
from r1jax.algorithms.prime import PRIME
from r1jax.errors import UserError
from r1jax.evaluation.evaluate import EvaluationConfig, evaluate
from r1jax.rewards.config import parse_rewards
from r1jax.rewards.rules import RULES
from r1jax.rewards.scores import Scores
from r1jax.rl.config import RLConfig
from r1jax.rl.environment import Environment
from r1jax.rl.train import train_policy
from r1jax.sampling.processors import Sampling
from r1jax.training.loop import SaveConfig
from tests.ablation.helpers import HELD_OUT, TEMPLATE, TOKENIZER, TRAIN, tiny_model

SAMPLING = Sampling(max_tokens=10)
REWARDS = parse_rewards(("accuracy", "format", "length=0.5"))
STEPS = 4
# Two values of each number: those of an arm with all terms, and of one in which 0 turns them off.
NUMBERS = {
    "rl.learning-rate": (2e-2, 1e-2),
    "rl.weight-decay": (0.1, 0.0),
    "rl.max-grad-norm": (0.1, 0.0),
    "rl.reference-every": (1, 0),
    "rl.overlong-buffer": (4, 0),
    "rl.eps-low": (0.2, 0.1),
    "rl.eps-high": (0.2, 0.4),
    "rl.beta": (0.1, 0.0),
    "rl.entropy": (0.01, 0.0),
    "rl.normalise-std": (1, 0),
    "rl.importance-cap": (1.0, 0.0),
    "sampling.temperature": (1.0, 0.7),
    "rewards.length": (0.5, 1.0),
}
GRPO_SPEC = LoopSpec(
    RLConfig(
        steps=STEPS,
        prompts=3,
        group=4,
        minibatches=2,
        schedule="cosine",
        eps=1e-4,
        algorithm=GRPO(beta=0.5, drop_equal_groups=True),
    ),
    SAMPLING,
    TEMPLATE,
    REWARDS,
    varied=tuple(NUMBERS),
    evaluation=Evaluation(samples=3, temperature=0.9),
)
SEEDS = (5, 6)


class InThisProcess:
    """The rules in place of a pool, without worker processes."""

    def __init__(self, rewards):
        self.names, self.weights = tuple(r.name for r in rewards), np.array([r.weight for r in rewards], np.float32)

    def score(self, problems, completions):
        pairs = zip(problems, completions, strict=True)
        values = np.array([[RULES[name](p, c) for name in self.names] for p, c in pairs], np.float32)
        return Scores(values, values @ self.weights, self.names, 0, 0)

    def check(self, problems, answers):
        return np.zeros(len(problems), np.float32)


def ordinary(spec, arm, folder, numbers=NUMBERS):
    """Metrics by name [steps] and weights of the ordinary loop with the settings of an arm."""
    value = {name.rpartition(".")[2].replace("-", "_"): numbers[name][arm] for name in spec.varied}
    rewards = tuple(dataclasses.replace(r, weight=value.pop(r.name, r.weight)) for r in spec.rewards)
    sampling = dataclasses.replace(spec.sampling, temperature=value.pop("temperature", 1.0))
    own = {field.name for field in dataclasses.fields(spec.rl.algorithm)}
    algorithm = dataclasses.replace(spec.rl.algorithm, **{k: v for k, v in value.items() if k in own})
    rl = dataclasses.replace(spec.rl, algorithm=algorithm, **{k: v for k, v in value.items() if k not in own})
    width = max(len(TEMPLATE.prompt_ids(p, TOKENIZER)) for p in TRAIN)
    environment = Environment(TRAIN, TEMPLATE, InThisProcess(rewards), sampling, SEEDS[arm], width)
    model = train_policy(tiny_model(), environment, rl, SaveConfig(), folder)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = {name for row in rows for name in row}
    # A mean over nothing is null in the file.
    values = {name: [np.nan if row.get(name) is None else row[name] for row in rows] for name in names}
    return values, model.params


def assert_same(states, metrics, arm, wanted, weights):
    """Compares the metrics that both have, which are returned, and the weights."""
    shared = set(metrics) & set(wanted)
    of_host = {name for name in wanted if name.startswith(("seconds", "verifier_"))}
    assert set(wanted) - shared == {*of_host, "step", "time", "tokens_per_second"}
    for name in sorted(shared):
        there = ~np.isnan(wanted[name])  # the accuracy of a kind is written if a step has several kinds
        got = np.asarray(metrics[name])[arm][there]
        if name.startswith("sampler_gap"):  # the size of rounding errors
            assert max(got) < 1e-5
        else:
            np.testing.assert_allclose(got, np.array(wanted[name])[there], rtol=1e-3, atol=1e-5, err_msg=name)
    for a, b in zip(jax.tree.leaves(states.rl.policy.params), jax.tree.leaves(weights), strict=True):
        np.testing.assert_allclose(a[arm], b, atol=1e-4)
    return shared


@pytest.fixture(scope="module")
def trained():
    loop = make_loop(tiny_model(), TRAIN, GRPO_SPEC, HELD_OUT)
    states, first = loop.run(loop.start(NUMBERS, SEEDS), NUMBERS, 0, STEPS // 2)
    states, second = loop.run(states, NUMBERS, STEPS // 2, STEPS // 2)
    return loop, states, {name: np.concatenate([first[name], second[name]], axis=1) for name in first}


@pytest.mark.parametrize("arm", [0, 1])
def test_an_arm_is_the_ordinary_run(arm, trained, tmp_path):
    """Also if the program runs in two parts."""
    _, states, metrics = trained
    wanted, weights = ordinary(GRPO_SPEC, arm, tmp_path)
    shared = assert_same(states, metrics, arm, wanted, weights)
    assert len(shared) > 25 and {"reward_accuracy", "accuracy_more", "tokens", "rollout_attempts"} < shared
    assert {"unfiltered_reward", "filtered_groups", "unfilled_share", "truncated_share"} < shared
    assert ("kl" in wanted) == (arm == 0)
    assert 0 < np.mean(wanted["reward_accuracy"]) < np.mean(wanted["reward_format"]) < 1
    assert min(wanted["rollout_attempts"]) < max(wanted["rollout_attempts"])
    assert states.rl.step.tolist() == [STEPS, STEPS]


def test_the_evaluation_is_the_ordinary_one(trained):
    loop, states, _ = trained
    found = loop.evaluate(states)
    how = GRPO_SPEC.evaluation
    config = EvaluationConfig(samples=how.samples, temperature=how.temperature)
    for arm, seed in enumerate(SEEDS):
        params = jax.tree.map(lambda x, arm=arm: x[arm], states.rl.policy.params)
        model = dataclasses.replace(tiny_model(), params=params)
        want, _ = evaluate(model, HELD_OUT, TEMPLATE, InThisProcess(REWARDS), SAMPLING, config, seed, how.name)
        assert found["accuracy"][arm] == pytest.approx(want.pass_at[1])
        assert found["format"][arm] == pytest.approx(want.format_rate)
        assert found["truncated_share"][arm] == pytest.approx(want.truncated_share)
    assert found["correct"].shape == (2, len(HELD_OUT), how.samples)


# An algorithm with learned models, its rewards, numbers of an arm, and metrics that it adds. The critic's learning rate
# follows the policy's. Groups are dropped without further attempts, and PRIME's arm leaves truncated samples out, too.
WITH_MODELS = {
    "ppo": (
        ("format",),
        PPO(drop_equal_groups=True, max_resamples=0),
        {"beta": 0.1, "gamma": 0.9, "gae-lambda": 0.8, "whiten": 1, "value-clip": 0.05},
        {"critic_loss", "critic_explained_variance", "kl"},
    ),
    "prime": (
        ("accuracy",),
        PRIME(mask_truncated=True, max_resamples=0, prm_learning_rate=1e-3),
        {"accuracy-low": 0, "gamma": 0.9, "process-weight": 2, "prm-beta": 0.5, "prm-learning-rate": 2e-2},
        {"prm_loss", "prm_accuracy", "prm_reward_correct"},
    ),
}


@pytest.mark.parametrize("name", WITH_MODELS)
def test_an_arm_of_an_algorithm_with_models_is_the_ordinary_run(name, tmp_path):
    rewards, algorithm, values, added = WITH_MODELS[name]
    numbers = {"rl.learning-rate": (1e-2, 2e-2), **{f"rl.{key}": (0, value) for key, value in values.items()}}
    rl = dataclasses.replace(GRPO_SPEC.rl, steps=2, algorithm=algorithm)
    spec = dataclasses.replace(GRPO_SPEC, rl=rl, rewards=parse_rewards(rewards), varied=tuple(numbers))
    loop = make_loop(tiny_model(), TRAIN, spec)
    states, metrics = loop.run(loop.start(numbers, SEEDS), numbers, 0, 2)
    wanted, weights = ordinary(spec, 1, tmp_path, numbers)
    shared = assert_same(states, metrics, 1, wanted, weights)
    assert {*added, "filtered_groups", "unfiltered_reward", "unfilled_share"} < shared
    assert np.isfinite([wanted[key][-1] for key in added]).all()
    assert max(wanted["unfilled_share"]) > 0 and 0 < min(wanted["truncated_share"]) < 1


def test_memory_is_that_of_all_arms(trained):
    loop, states, _ = trained
    state = sum(x.nbytes for x in jax.tree.leaves(states))
    assert 2 * state < loop.bytes_of(2, STEPS // 2) < 100 * state  # more than weights before and after an update


def test_numbers_are_the_settings_that_act_by_arithmetic():
    names = set(number_names(GRPO_SPEC))
    assert set(NUMBERS) < names
    assert names.isdisjoint({"rl.group", "rl.loss", "rl.drop-equal-groups", "rl.steps", "sampling.top-p"})


@pytest.mark.parametrize(
    "varied, values, message",
    [
        (("rl.group",), {"rl.group": (4, 8)}, "rl.group"),
        (("rl.beta",), {"rl.beta": (0.1, 0.2, 0.3)}, "rl.beta has 3 values for 2 arms"),
        (("rl.beta",), {"rl.beta": (0.1, -0.2)}, "beta=-0.2.* must be at least 0"),
        (("rl.beta",), {}, "rl.beta"),
        (("rl.normalise-std",), {"rl.normalise-std": (0, 0.5)}, "0 or 1"),
        (("sampling.temperature",), {"sampling.temperature": (1, 0)}, "above 0"),
        (("rl.overlong-buffer",), {"rl.overlong-buffer": (1, 99)}, "overlong-buffer=99"),
        (("rl.gamma",), {"rl.gamma": (1, 1.5)}, "gamma=1.5 must be at most 1"),
        (("rl.whiten",), {"rl.whiten": (0, 2)}, "0 or 1"),
    ],
)
def test_wrong_values_are_refused(varied, values, message):
    rl = RLConfig(prompts=2, group=4, algorithm=PPO()) if varied[0] in ("rl.gamma", "rl.whiten") else GRPO_SPEC.rl
    with pytest.raises(UserError, match=message):
        make_loop(tiny_model(), TRAIN, dataclasses.replace(GRPO_SPEC, rl=rl, varied=varied)).start(values, SEEDS)


@pytest.mark.parametrize(
    "algorithm, rewards, message",
    [
        (PRIME(), ("format",), "PRIME learns from the reward accuracy"),
        (PPO(critic="runs/judge"), ("accuracy",), r"rl.critic=runs/judge: .* leave rl.critic out"),
    ],
)
def test_an_algorithm_without_its_rewards_or_models_is_refused(algorithm, rewards, message):
    rl = RLConfig(prompts=2, group=4, algorithm=algorithm)
    with pytest.raises(UserError, match=message):
        make_loop(tiny_model(), TRAIN, LoopSpec(rl, SAMPLING, TEMPLATE, parse_rewards(rewards)))


def test_an_algorithm_without_a_form_in_a_program_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Branching(GRPO):
        strength: float = 1.0

        def keeps(self, rewards, spread, rule_rewards):
            return np.asarray(rewards).mean(axis=1) > 0 if self.strength else spread

    spec = dataclasses.replace(GRPO_SPEC, rl=RLConfig(prompts=2, group=4, algorithm=Branching()), varied=())
    with pytest.raises(UserError, match=r"Branching .* ordinary loop"):
        make_loop(tiny_model(), TRAIN, spec).bytes_of(2)
