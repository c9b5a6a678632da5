"""From samples and rewards to a batch, with a reward pool of given rewards."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.algorithms.grpo import GRPO
from r1jax.algorithms.ppo import PPO
from r1jax.checkpoints.model import Model
from r1jax.data.problems.problem import Problem
from r1jax.data.text.template import Template
from r1jax.rewards.scores import Scores
from r1jax.rl.config import RLConfig
from r1jax.rl.environment import Environment
from r1jax.rl.metrics import describe, token_spread
from r1jax.rl.rollouts import Groups, chosen, collect
from r1jax.rl.setup import make_setup
from r1jax.rl.step import batch_of
from r1jax.rl.train import step_keys
from r1jax.sampling.processors import Sampling
from r1jax.sampling.slots import Samples

CONFIG = RLConfig(prompts=2, group=4)


@dataclasses.dataclass(frozen=True)
class Letters:
    """A tokenizer whose ids are letters."""

    vocab_size: int = 97
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = tuple(range(30, 60))
    pad_id: int = 0
    chat_template: str | None = None

    def encode(self, text):
        return [ord(letter) % 97 for letter in text]

    def decode(self, ids):
        return "".join(chr(97 + i % 26) for i in ids)

    def decode_batch(self, rows):
        return [self.decode(row) for row in rows]


@dataclasses.dataclass
class Told:
    """A pool whose rewards are a function of the question and the position in its group."""

    reward: object
    names: tuple[str, ...] = ("told",)
    resolution: float = 0.0

    def score(self, problems, completions):
        values = np.array([self.reward(p, i % CONFIG.group) for i, p in enumerate(problems)], np.float32)
        return Scores(values[:, None], values, self.names, 0, 0, self.resolution)


def by_place(problem, place):
    return float(place)


def environment_of(reward):
    problems = [Problem(f"q{i}", "1", "number") for i in range(12)]
    template = Template("plain", "{question}", prefill="")
    return Environment(problems, template, Told(reward), Sampling(max_tokens=8), seed=5, prompt_width=3)


@pytest.fixture(scope="module")
def model(tiny_params, tiny_config):
    return Model(tiny_config, tiny_params, Letters())


def rolled_out(model, environment, config, step=0):
    """The rollout of a step, its advantages [P, G] and the batch that is made of them, on the host."""
    setup = make_setup(model, environment, config)
    attempts = config.algorithm.attempts
    problems = [environment.batch(step, config.prompts, attempt, attempts) for attempt in range(attempts)]
    found = collect(model.params, problems, step_keys(environment, step).samples, setup)
    advantages = config.algorithm.advantages(found.totals, found.groups.resolution, found.counts)
    return found, advantages, jax.device_get(batch_of(found, advantages, setup))


def groups_of(found):
    """The groups of a rollout, one by one."""
    return [found.groups.group(i) for i in range(len(found.groups.problems))]


def collected(model, reward=by_place, step=0, prompts=2, **settings):
    config = dataclasses.replace(CONFIG, prompts=prompts, algorithm=GRPO(**settings))
    return rolled_out(model, environment_of(reward), config, step)


def test_a_group_holds_one_question_and_its_own_samples(model):
    found, _, _ = collected(model)
    assert len(found.groups.problems) == found.sampled == 2 and found.attempts == 1
    for group in groups_of(found):
        assert group.prompt == model.tokenizer.encode(group.problem.question)
        for row, n, completion in zip(group.tokens, group.lengths, group.completions, strict=True):
            read = row[: n - completion.finished].tolist()  # without the end token
            assert completion.text == model.tokenizer.decode(read) and completion.tokens == n
        assert group.total.tolist() == [0, 1, 2, 3]
    assert found.tokens == sum(g.lengths.sum() for g in groups_of(found))


def test_a_step_repeats_itself_and_no_other(model):
    one, again, other = (groups_of(collected(model, step=step)[0]) for step in (3, 3, 4))
    np.testing.assert_array_equal([g.tokens for g in one], [g.tokens for g in again])
    assert [g.problem for g in one] != [g.problem for g in other]
    assert not np.array_equal([g.tokens for g in one], [g.tokens for g in other])


@pytest.mark.parametrize(
    ("settings", "want"),
    [
        ({}, np.array([-1.5, -0.5, 0.5, 1.5]) / np.sqrt(1.25)),
        ({"normalise_std": False}, [-1.5, -0.5, 0.5, 1.5]),
        ({"baseline": "leave_one_out"}, [-2, -2 / 3, 2 / 3, 2]),
    ],
)
def test_advantages_are_those_of_the_settings(model, settings, want):
    found, advantages, batch = collected(model, **settings)
    np.testing.assert_allclose(batch.advantages.reshape(2, 4), [want, want], rtol=1e-5)
    spread = describe(found, advantages, ("told",))["advantage_spread"]
    assert spread == pytest.approx(np.std([want, want]), rel=1e-5)


def test_the_batch_baseline_divides_by_the_spread_of_all(model):
    twice = {}

    def reward(problem, place):
        return float(place) * (1 + twice.setdefault(problem.question, len(twice)))

    _, _, batch = collected(model, reward, baseline="batch")
    centred = np.array([[-1.5, -0.5, 0.5, 1.5], [-3, -1, 1, 3]])
    np.testing.assert_allclose(batch.advantages.reshape(2, 4), centred / centred.std(), rtol=1e-5)


def test_overlong_completions_are_penalised(model):
    found, _, _ = collected(model, overlong_buffer=8)
    lengths = np.stack([g.lengths for g in groups_of(found)])
    fine = -lengths / 8
    assert len(np.unique(fine)) > 2
    np.testing.assert_allclose([g.total for g in groups_of(found)], np.arange(4) + fine)
    assert [g.rewards[:, 0].tolist() for g in groups_of(found)] == [[0, 1, 2, 3]] * 2  # as they were given


def test_groups_without_spread_are_replaced_and_do_not_count(model):
    apart = environment_of(by_place).batch(0, 2, 0, 2)[1]

    def only_one(problem, place):
        return float(place) if problem == apart else 1.0

    found, _, _ = collected(model, only_one, drop_equal_groups=True, max_resamples=1)
    assert found.attempts == 2 and found.sampled == 4 and found.equal == 3
    assert found.groups.problems[0] == apart and [g.spread for g in groups_of(found)] == [True, False]
    assert describe(found, np.zeros((2, 4)), ("told",))["unfilled_share"] == 0.5
    never, _, batch = collected(model, lambda problem, place: 1.0, drop_equal_groups=True, max_resamples=1)
    assert len(never.groups.problems) == 2 and not batch.mask.any()
    assert describe(never, np.zeros((2, 4)), ("told",))["unfilled_share"] == 1
    _, _, batch = collected(model, lambda problem, place: 1.0)
    assert batch.mask.any()


def test_sampling_ends_as_soon_as_the_batch_is_full(model):
    """DAPO's dynamic sampling, with more attempts than are needed."""
    environment = environment_of(by_place)
    apart = [environment.batch(0, 2, attempt, 10)[0] for attempt in (3, 5)]

    def few(problem, place):
        return float(place) if problem in apart else 1.0

    found, _, batch = collected(model, few, drop_equal_groups=True, max_resamples=9)
    assert found.attempts <= 6 and found.counts.all() and batch.mask.any(axis=1).all()
    assert {g.problem for g in groups_of(found)} <= set(apart)
    assert describe(found, np.zeros((2, 4)), ("told",))["unfilled_share"] == 0


def test_truncated_samples_are_left_out_of_the_loss_and_remain_in_the_advantages(model):
    environment = environment_of(by_place)
    short = dataclasses.replace(environment, sampling=Sampling(max_tokens=2))

    def made(algorithm):
        return rolled_out(model, short, dataclasses.replace(CONFIG, algorithm=algorithm))

    plain, advantages, batch = made(GRPO())
    truncated = plain.groups.truncated
    assert 0 < truncated.sum() < 8
    found, same, masked = made(GRPO(mask_truncated=True))
    np.testing.assert_array_equal(same, advantages)
    np.testing.assert_array_equal(masked.advantages, batch.advantages)
    np.testing.assert_array_equal(masked.mask.any(axis=1), ~truncated)
    np.testing.assert_array_equal(masked.mask[~truncated], batch.mask[~truncated])
    assert found.counts.all()  # the group counts, its truncated samples do not


def test_groups_of_several_attempts_keep_all_that_belongs_to_them():
    """On the devices or on the host, in an order that no attempt has."""
    rng = np.random.default_rng(0)

    def attempt(first):
        G, logprobs = 2, rng.normal(size=(6, 3)).astype(np.float32)
        samples = Samples(rng.integers(0, 9, (6, 3)), np.full(6, 3), np.zeros(6), jnp.asarray(logprobs), logprobs, 3)
        numbers = np.arange(first, first + 3)
        return Groups(
            problems=[f"problem {i}" for i in numbers],
            asked=[[i] for i in numbers],
            completions=[f"{i}.{j}" for i in numbers for j in range(G)],
            samples=samples,
            rewards=rng.random((6, 2)),
            totals=rng.random((3, G)),
            resolution=numbers / 10,
            spread=numbers % 2 == 0,
            kept=numbers % 3 == 0,
        )

    attempts = [attempt(0), attempt(3)]
    order = np.array([4, 0, 5])
    found = chosen(attempts, order)
    assert found.problems == ["problem 4", "problem 0", "problem 5"] and found.asked == [[4], [0], [5]]
    for i, number in enumerate(order):
        (one, at), group = divmod(number, 3), found.group(i)
        expected = attempts[one].group(at)
        for name in ("tokens", "rewards", "total"):
            np.testing.assert_array_equal(getattr(group, name), getattr(expected, name))
        assert group.completions == expected.completions and group.spread == expected.spread
        rows = slice(2 * i, 2 * i + 2), slice(2 * at, 2 * at + 2)
        for name in ("logprobs", "sampling_logprobs"):
            np.testing.assert_array_equal(
                getattr(found.samples, name)[rows[0]], getattr(attempts[one].samples, name)[rows[1]]
            )
    np.testing.assert_array_equal(found.resolution, order / 10)
    np.testing.assert_array_equal(found.kept, order % 3 == 0)
    assert chosen(attempts[:1], np.arange(3)) is attempts[0]


def test_ppo_needs_no_group(model):
    config = dataclasses.replace(CONFIG, prompts=4, group=1, algorithm=PPO())
    found, advantages, batch = rolled_out(model, environment_of(lambda problem, place: 3.0), config)
    assert batch.mask.any(axis=1).all() and batch.rewards.tolist() == advantages[:, 0].tolist() == [3.0] * 4
    row = describe(found, advantages, ("told",))
    assert row["reward"] == 3.0 and row.keys().isdisjoint({"equal_groups", "reward_spread"})


def test_the_spread_of_advantages_per_token_is_that_of_the_tokens_that_count():
    rng = np.random.default_rng(0)
    advantages, mask = rng.normal(3.0, 2.0, (5, 7)), rng.random((5, 7)) < 0.5
    for counted in (mask, mask & False):
        ((total, weight),) = token_spread(jnp.float32(advantages), jnp.asarray(counted)).values()
        assert float(total / weight) == pytest.approx(advantages[counted].std() if counted.any() else 0.0, rel=1e-5)


def test_dropped_groups_do_not_enter_the_deviation_of_the_batch(model):
    def reward(problem, place):
        return float(place) if int(problem.question[1:]) % 2 else 7.0

    settings = {"baseline": "batch", "drop_equal_groups": True}
    found, advantages, batch = collected(model, reward, prompts=8, max_resamples=0, **settings)
    counted = batch.mask.any(axis=1)
    assert 0 < counted.sum() < 32
    np.testing.assert_allclose(batch.advantages[counted].std(), 1.0, rtol=1e-5)
    assert describe(found, advantages, ("told",))["advantage_spread"] == pytest.approx(1.0, rel=1e-5)
    never, advantages, _ = collected(model, lambda problem, place: 1.0, **settings)
    assert describe(never, advantages, ("told",))["advantage_spread"] == 0.0


def test_spread_below_the_resolution_of_the_rewards_is_none(model):
    def noisy(problem, place):
        return 0.5 + 0.001 * place

    environment = environment_of(noisy)
    for resolution, spread in ((0.0, True), (0.004, False)):
        pool = dataclasses.replace(environment.pool, resolution=resolution)
        told = dataclasses.replace(environment, pool=pool)
        found, _, batch = rolled_out(model, told, CONFIG)
        assert [g.spread for g in groups_of(found)] == [spread] * 2
        assert batch.advantages.any() == spread and found.equal == 2 * (not spread)


def test_stages_of_one_seed_ask_and_sample_apart(model):
    environments = [dataclasses.replace(environment_of(by_place), stage=stage) for stage in ("zero", "r1")]
    one, other = (groups_of(rolled_out(model, environment, CONFIG)[0]) for environment in environments)
    assert not np.array_equal([g.tokens for g in one], [g.tokens for g in other])
    asked = [[p.question for step in range(3) for p in e.batch(step, 4, 0, 1)] for e in environments]
    assert asked[0] != asked[1] and sorted(asked[0]) == sorted(asked[1])


def test_figures_and_completions_of_a_step(model):
    found, advantages, _ = collected(model)
    row = describe(found, advantages, ("told",))
    lengths = np.concatenate([g.lengths for g in groups_of(found)])
    assert row["reward"] == row["reward_told"] == 1.5 and row["equal_groups"] == 0
    assert row["unfiltered_reward"] == 1.5 and row["filtered_groups"] == 0
    assert row["reward_spread"] == pytest.approx(np.sqrt(1.25))
    assert (row["length_min"], row["length_max"]) == (lengths.min(), lengths.max())
    assert row["truncated_share"] == pytest.approx(np.mean([g.truncated for g in groups_of(found)]))


def test_late_problems_take_their_share_of_a_step_s_prompts_once_there_are_some():
    late = tuple(Problem(f"late{i}", "1", "number") for i in range(3))
    environment = dataclasses.replace(environment_of(by_place), late_problems=late, late_from=2, late_share=0.25)

    def asked(step, size=8, attempt=0, attempts=1):
        return [problem.question for problem in environment.batch(step, size, attempt, attempts)]

    assert not any(question.startswith("late") for step in (0, 1) for question in asked(step))
    assert [question.startswith("late") for question in asked(2)] == [False] * 6 + [True] * 2
    seen = [question for step in range(2, 5) for question in asked(step)[6:]]
    assert set(seen) == {"late0", "late1", "late2"}  # three steps of two walk through the three twice
    # The others go on where they were: 8 + 8 + 6 + 6 + ... of the 12, and none falls behind.
    own = [question for step in range(20) for question in asked(step) if not question.startswith("late")]
    assert all(len(set(own[i : i + 12])) == 12 for i in range(0, len(own) - 12, 12))
    assert all(len(set(asked(step))) == 8 for step in range(20))
    plain = dataclasses.replace(environment, late_problems=())
    assert [p.question for p in plain.batch(1, 8, 0, 1)] == asked(1)
    assert asked(2, attempt=1, attempts=2) != asked(2, attempts=2)
