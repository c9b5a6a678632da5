"""PRIME: a worked example, loops in float64, and the effect of each setting."""

import math
from functools import partial

import jax
import numpy as np
import pytest

from r1jax.algorithms.interface import RolloutTokens
from r1jax.algorithms.prime import PRIME, process_advantages
from r1jax.algorithms.table import ALGORITHMS
from r1jax.errors import UserError
from r1jax.rl.config import RLConfig, check_rules


@partial(jax.jit, static_argnums=0)
def prepared(algorithm, rollout):
    return algorithm.prepare(rollout)


@partial(jax.jit, static_argnums=0)
def model_loss(algorithm, output, mask, targets):
    return algorithm.learned_loss("prm", output, mask, targets)


def test_advantages_by_hand():
    """Two completions of one question; beta 0.5, no discount."""
    mask = np.array([[True, True], [True, False]])
    # log(pi_prm / pi_ref) of the tokens: 0.4, -0.2 and 0.6. Times beta: 0.2, -0.1 and 0.3.
    output, reference = np.float32([[[-0.6, -1.2], [-0.4, 9.0]], [[-1.0, -1.0], [-1.0, 0.0]]])
    rollout = rollout_of(output, reference, mask, rewards=np.float32([1.0, 0.0]), group=2)
    advantages, targets = prepared(PRIME(prm_beta=0.5), rollout)
    # Means: m_1 = 0.05 and m_2 = 0.3; each is the baseline of the other.
    # Completion 1: 0.2 - 0.3 = -0.1 and -0.1 - 0.3 = -0.4, summed from each token on: -0.5 and -0.4.
    # Completion 2: 0.3 - 0.05 = 0.25. Outcomes: 1 - 0 and 0 - 1.
    np.testing.assert_allclose(advantages, [[0.5, 0.6], [-0.75, 0.0]], atol=1e-6)
    # Summed rewards 0.1 and 0.3; losses -log sigmoid(0.1) = 0.6444 and -log sigmoid(-0.3) = 0.8544.
    loss, count, metrics = model_loss(PRIME(prm_beta=0.5), output, mask, targets["prm"])
    assert (float(loss), float(count)) == (pytest.approx(0.6444 + 0.8544, abs=1e-4), 2.0)
    assert [float(x) for x in metrics["accuracy"]] == [1.0, 2.0]  # both sums are positive, one label is
    correct = targets["prm"] | {"labels": np.ones(2, np.float32)}
    start = model_loss(PRIME(prm_beta=0.5), reference + np.float32(1e-7), mask, correct)[2]
    assert [float(x) for x in start["accuracy"]] == [1.0, 2.0]  # two halves, since the sums may be rounding
    assert [float(x) for x in metrics["reward_correct"]] == [pytest.approx(0.1), 2.0]
    assert [float(x) for x in metrics["reward_wrong"]] == [pytest.approx(0.3), 1.0]
    np.testing.assert_allclose(
        jax.jit(PRIME(prm_beta=0.5).token_values)(rollout)["process_reward"], [[0.2, -0.1], [0.3, 0]], rtol=1e-6
    )


def rollout_of(output, reference, mask, rewards, group, labels=None):
    outcome = np.asarray(rewards).reshape(-1, group)
    advantages = PRIME().advantages(outcome, np.zeros(len(outcome)), np.ones(len(outcome), bool)).reshape(-1)
    return RolloutTokens(
        mask=mask,
        rewards=rewards,
        rule_rewards={"accuracy": rewards if labels is None else labels},
        advantages=np.float32(advantages),
        policy_logprobs=np.zeros(mask.shape, np.float32),
        reference_logprobs=reference,
        outputs={"prm": output},
        group=group,
    )


def random_rollout(seed=0, P=3, G=4, T=7):
    rng = np.random.default_rng(seed)
    starts, lengths = rng.integers(0, 3, P * G), rng.integers(1, 5, P * G)
    lengths[5] = 0  # a completion that does not count, in a group that does
    place = np.arange(T)
    mask = (place >= starts[:, None]) & (place < (starts + lengths)[:, None])
    output, reference = rng.normal(-2, 1, (2, P * G, T)).astype(np.float32)
    rewards, labels = (
        rng.uniform(0, 2, P * G).astype(np.float32),
        rng.choice([0.0, 0.25, 1.0], P * G).astype(np.float32),
    )
    labels[7] = np.nan
    return rollout_of(output, reference, mask, rewards, group=G, labels=labels)


def reference_of(rollout, algorithm):
    """Advantages and the summed loss, token by token in float64."""
    ours, theirs = (np.asarray(x, np.float64) for x in (rollout.outputs["prm"], rollout.reference_logprobs))
    mask, G = np.asarray(rollout.mask), rollout.group
    rewards = [
        [algorithm.prm_beta * (ours[i, t] - theirs[i, t]) for t in np.flatnonzero(mask[i])] for i in range(len(mask))
    ]
    loss, labels = 0.0, np.asarray(rollout.rule_rewards["accuracy"], np.float64)
    for row, y in zip(rewards, labels, strict=True):
        if row and not math.isnan(y):
            p = 1 / (1 + math.exp(-sum(row)))
            loss -= y * math.log(p) + (1 - y) * math.log(1 - p)
    if algorithm.normalise_process:
        largest = max(abs(sum(row[t:])) for row in rewards for t in range(len(row)))
        rewards = [[r / largest for r in row] for row in rewards]
    found, outcome = np.zeros(mask.shape), np.asarray(rollout.rewards, np.float64)
    for i, row in enumerate(rewards):
        group = [j for j in range(i // G * G, i // G * G + G) if j != i]
        others = [sum(rewards[j]) / len(rewards[j]) for j in group if rewards[j]]
        term = outcome[i] - sum(outcome[j] for j in group) / (G - 1)
        for k, t in enumerate(np.flatnonzero(mask[i])):
            later = range(k, len(row))
            process = sum(algorithm.gamma ** (s - k) * (row[s] - sum(others) / len(others)) for s in later)
            found[i, t] = term + algorithm.process_weight * process
    return found, loss


@pytest.mark.parametrize(
    "settings",
    [{}, {"gamma": 0.7, "process_weight": 3.0}, {"gamma": 0.0}, {"normalise_process": True, "prm_beta": 2.0}],
)
def test_advantages_and_loss_are_those_of_loops(settings):
    algorithm, rollout = PRIME(**settings), random_rollout()
    advantages, targets = prepared(algorithm, rollout)
    expected, loss = reference_of(rollout, algorithm)
    np.testing.assert_allclose(advantages, expected, atol=2e-5)
    got, count, _ = model_loss(algorithm, rollout.outputs["prm"], rollout.mask, targets["prm"])
    assert float(got) == pytest.approx(loss, rel=1e-5) and float(count) == 10  # of 12, one is empty, one has no label


def test_a_constant_process_reward_gives_no_advantage_whatever_the_lengths():
    mask = np.arange(6) < np.array([[1], [6], [3]])
    found = jax.jit(process_advantages, static_argnums=2)(np.float32(np.where(mask, 0.3, 0.0)), mask, 3, 1.0)
    np.testing.assert_allclose(found, 0.0, atol=1e-6)


def test_prompts_that_are_too_hard_or_too_easy_are_filtered():
    right = np.arange(5) < np.array([[0], [1], [3], [4], [5]])
    rules = {"accuracy": right.astype(np.float32)}
    rewards, spread = rules["accuracy"], np.array([False, True, True, True, False])
    assert PRIME().keeps(rewards, spread, rules).tolist() == [False, True, True, True, False]  # 0.2 and 0.8 are kept
    narrow = PRIME(accuracy_low=0.3, accuracy_high=0.7)
    assert narrow.keeps(rewards, spread, rules).tolist() == [False, False, True, False, False]
    assert not PRIME().keeps(rewards, ~spread, rules).any()
    assert PRIME(drop_equal_groups=False).keeps(rewards, spread, rules).all()
    assert not PRIME().keeps(rewards, spread, {"accuracy": rewards * np.nan}).any()
    assert PRIME().attempts == 4 and PRIME(drop_equal_groups=False).attempts == 1


def test_the_name_brings_the_settings_of_the_paper():
    prime = ALGORITHMS["prime"]
    assert isinstance(prime, PRIME) and prime.needs_reference and prime.fixed_reference
    assert (prime.prm_beta, prime.gamma, prime.beta, prime.eps_low, prime.eps_high) == (0.05, 1.0, 0.0, 0.2, 0.2)
    assert (prime.accuracy_low, prime.accuracy_high, prime.baseline) == (0.2, 0.8, "leave_one_out")
    (model,) = prime.learned.values()
    assert (model.head, model.updated) == ("logprob", "before")
    assert model.learning_rate is None and model.learning_rate_factor == 1e-6 / 5e-7  # of the two models in the paper
    assert next(iter(PRIME(prm_learning_rate=0.5).learned.values())).learning_rate == 0.5


def test_what_prime_cannot_work_with_is_refused():
    for settings in ({"accuracy_low": 0.9}, {"accuracy_high": 1.2}):
        with pytest.raises(UserError, match="must be in this order and at most 1"):
            PRIME(**settings)
    with pytest.raises(UserError, match=r"gamma=1\.5 must be at most 1"):
        PRIME(gamma=1.5)
    with pytest.raises(UserError, match="reference-every=3: this algorithm keeps the first reference"):
        RLConfig(reference_every=3, algorithm=PRIME())
    with pytest.raises(UserError, match="at least 2"):
        RLConfig(group=1, algorithm=PRIME())
    with pytest.raises(UserError, match=r"PRIME learns from the reward accuracy, .* format, length: add accuracy"):
        check_rules(PRIME(), ("length", "format"))
    check_rules(PRIME(), ("length", "accuracy"))
