"""Models that an algorithm trains beside the policy: PPO's critic, and a process reward model of a test algorithm."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from r1jax.algorithms.grpo import GRPO
from r1jax.algorithms.interface import LearnedModel
from r1jax.algorithms.ppo import PPO
from r1jax.checkpoints.model import Model
from r1jax.data.problems.problem import Problem
from r1jax.data.text.template import Template
from r1jax.errors import UserError
from r1jax.models.config import ModelConfig
from r1jax.models.transformer import param_specs
from r1jax.rewards.scores import Scores
from r1jax.rl.config import RLConfig
from r1jax.rl.environment import Environment
from r1jax.rl.learned import make_learners
from r1jax.rl.setup import make_setup
from r1jax.rl.state import init_rl_state, rl_shapes
from r1jax.rl.train import train_policy
from r1jax.sampling.processors import Sampling
from r1jax.sharding import init_params, make_mesh, param_shardings, place
from r1jax.tokenizer import ByteTokenizer
from r1jax.training.loop import SaveConfig, TrainingLoop

MODEL = ModelConfig(
    vocab_size=259, hidden_size=16, intermediate_size=32, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=8
)
START = functools.cache(lambda: jax.device_get(init_params(param_specs(MODEL), jax.random.key(0))))
PROBLEMS = tuple(Problem(letter, letter, "letters", "exact") for letter in "abcdef")
TEMPLATE = Template("bare", "{question}", prefill="", tags=False)
CHAT = "{% for m in messages %}{{ m.content }}{% endfor %}"


@dataclasses.dataclass(frozen=True)
class ActorCritic(PPO):
    """PPO, and beside its critic a reward model of log-probabilities that learns the outcome."""

    critic_learning_rate: float | None = 1e-2
    beta: float = 0.05
    judge_updated: str = "after"

    learned = property(
        lambda self: {**super().learned, "judge": LearnedModel("logprob", 1e-3, 2, updated=self.judge_updated)}
    )

    def prepare(self, rollout):
        advantages, targets = super().prepare(rollout)
        group = rollout.rewards.reshape(-1, rollout.group)
        good = (group > group.mean(axis=1, keepdims=True)).reshape(-1)
        return advantages, {**targets, "judge": {"good": good, "reference": rollout.reference_logprobs}}

    def token_loss(self, tokens):
        loss, metrics, maxima = super().token_loss(tokens)
        return loss, {**metrics, "advantage": tokens.advantages}, maxima

    def learned_loss(self, name, output, mask, targets):
        if name == "critic":
            return super().learned_loss(name, output, mask, targets)
        score = jnp.where(mask, output - targets["reference"], 0.0).sum(axis=1)
        counts = mask.any(axis=1)
        loss = -jax.nn.log_sigmoid(jnp.where(targets["good"], score, -score))
        count = counts.sum().astype(jnp.float32)
        score_metric = jnp.abs(score).sum(), count
        return jnp.where(counts, loss, 0.0).sum(), count, {"score": score_metric}


class Places:
    """Rewards of 0 and 1 by position; call number ``fail_at`` raises, in place of a kill."""

    names = ("accuracy",)

    def __init__(self, fail_at=None):
        self.calls, self.fail_at, self.checked = 0, fail_at, []

    def check(self, problems, answers):
        self.checked.append((tuple(problems), tuple(answers)))
        return np.zeros(len(problems), np.float32)

    def score(self, problems, completions):
        if self.calls == self.fail_at:
            raise KeyError("killed")
        self.calls += 1
        values = (np.arange(len(problems)) % 2).astype(np.float32)
        return Scores(values[:, None], values, self.names, 0, 0)


def environment_of(pool):
    return Environment(PROBLEMS, TEMPLATE, pool, Sampling(max_tokens=4), 0, 2, stage="r1-zero")


def train(folder, pool=None, mesh="1x1", algorithm=None, **settings):
    """Trains on a mesh, for three steps by default: the rows of metrics, and the two parts of the last checkpoint."""
    plain = {"steps": 3, "prompts": 2, "group": 4, "minibatches": 2, "learning_rate": 1e-3}
    config = RLConfig(**(plain | settings), algorithm=algorithm or ActorCritic())
    mesh = make_mesh(mesh)
    with jax.set_mesh(mesh):
        params = place(START(), param_shardings(param_specs(MODEL), mesh))
        model = Model(MODEL, params, ByteTokenizer(CHAT))
        train_policy(model, environment_of(pool or Places()), config, SaveConfig(every=1), folder)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    with ocp.StandardCheckpointer() as reader:
        saved = [reader.restore((folder / str(config.steps) / part).absolute()) for part in ("params", "rest")]
    measured = [{name: value for name, value in row.items() if "second" not in name and name != "time"} for row in rows]
    return measured, jax.device_get(saved)


@pytest.fixture(scope="module")
def pool():
    return Places()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, pool):
    return train(tmp_path_factory.mktemp("learned") / "whole", pool)


def test_workers_check_answers_once_so_that_they_load_early(whole, pool):
    assert pool.checked == [(PROBLEMS, tuple("abcdef"))] and pool.calls == 3


def test_learned_models_are_trained_and_logged_and_saved(whole):
    rows, (params, rest) = whole
    assert rows[0]["critic_loss"] == pytest.approx(0.25, abs=0.1)  # half of the rewards are 1, and values begin at 0
    assert rows[0]["critic_value_mean"] == 0 < rows[1]["critic_value_mean"] < rows[2]["critic_value_mean"]
    assert rows[0]["critic_return_mean"] == pytest.approx(0.5, abs=0.2)
    assert rows[0]["critic_explained_variance"] == pytest.approx(0, abs=1e-5)  # of a constant
    assert all(row["critic_explained_variance"] < 0.5 and 0 <= row["critic_clip_share"] <= 1 for row in rows)
    assert rows[-1]["critic_loss"] < 0.8 * rows[0]["critic_loss"]
    # The advantages per token are whitened, and not the rewards, whose deviation is 0.5.
    assert [row["advantage_spread"] for row in rows] == pytest.approx([1.0] * 3, abs=1e-4)
    assert rows[0]["judge_loss"] == pytest.approx(np.log(2), abs=0.01) and rows[0]["judge_gradient_norm"] > 0
    assert {"critic_gradient_norm", "critic_empty_updates"} <= rows[0].keys()
    assert (
        rest["learned"]["critic"]["params"]["score"].any() and "unembedding" not in rest["learned"]["critic"]["params"]
    )
    assert set(rest) == {"step", "opt_state", "reference", "learned"} and set(rest["learned"]) == {"critic", "judge"}
    # The judge starts from the policy and learns something else.
    judge = rest["learned"]["judge"]["params"]
    assert judge.keys() == params.keys() and not np.array_equal(judge["embedding"], params["embedding"])
    assert [int(rest["learned"][name]["step"]) for name in rest["learned"]] == [3, 3]


def test_a_training_that_was_killed_resumes_with_the_same_bits(whole, tmp_path):
    with pytest.raises(KeyError):
        train(tmp_path, Places(fail_at=2))
    rows, saved = train(tmp_path)
    assert rows == whole[0]
    jax.tree.map(np.testing.assert_array_equal, saved, whole[1])


def test_a_training_resumes_on_another_mesh(whole, tmp_path):
    with pytest.raises(KeyError):
        train(tmp_path, Places(fail_at=2))
    rows, saved = train(tmp_path, mesh="2x2")
    assert rows[:2] == whole[0][:2]
    for name in ("critic_loss", "judge_loss", "loss", "critic_gradient_norm"):
        assert rows[2][name] == pytest.approx(whole[0][2][name], abs=1e-4), name
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-2), saved, whole[1])


class Judged(ActorCritic):
    """The advantages are what the judge has learned."""

    def prepare(self, rollout):
        gain = rollout.outputs["judge"] - rollout.reference_logprobs
        return jnp.where(rollout.mask, jnp.abs(gain), 0.0), super().prepare(rollout)[1]


def learned_once(updated, folder):
    """Metrics and checkpoint of steps with two updates."""
    return train(folder, algorithm=Judged(judge_updated=updated), steps=2)


def test_a_model_is_updated_before_or_after_the_policy(tmp_path):
    (before, _), (after, _) = (learned_once(when, tmp_path / when) for when in ("before", "after"))
    assert after[0]["advantage"] == 0.0 and before[0]["advantage"] > 1e-4  # at first, the judge is the reference
    assert after[1]["advantage"] > 1e-4
    assert before[0]["judge_loss"] == pytest.approx(after[0]["judge_loss"], abs=1e-6)  # the same rows and targets
    assert before[0]["judge_score"] == pytest.approx(after[0]["judge_score"], abs=1e-6)


def test_a_critic_starts_from_the_weights_that_are_given():
    model = Model(MODEL, jax.tree.map(jnp.asarray, START()), ByteTokenizer(CHAT))
    scalar = dataclasses.replace(MODEL, head="scalar")
    critic = init_params(param_specs(scalar), jax.random.key(1))
    setup = make_setup(model, environment_of(Places()), RLConfig(algorithm=PPO(critic="elsewhere")))
    state = init_rl_state(model.params, setup, {"critic": critic})
    jax.tree.map(np.testing.assert_array_equal, state.learned["critic"].params, critic)
    state = init_rl_state(model.params, setup)
    assert not state.learned["critic"].params["score"].any()
    np.testing.assert_array_equal(state.learned["critic"].params["embedding"], model.params["embedding"])


def test_a_learned_model_has_optimiser_settings_of_its_own():
    @dataclasses.dataclass(frozen=True)
    class Tuned(ActorCritic):
        learned = property(
            lambda self: {"critic": LearnedModel("value", 1.0, schedule="linear", max_grad_norm=0.5, weight_decay=0.0)}
        )

    policy = {"schedule": "cosine", "weight_decay": 0.1, "b2": 0.95, "warmup_steps": 7}
    learner = make_learners(RLConfig(algorithm=Tuned(), **policy), MODEL, 0, "rl")["critic"]
    own = {"learning_rate": 1.0, "schedule": "linear", "max_grad_norm": 0.5, "weight_decay": 0.0, "warmup_steps": 0}
    assert {name: getattr(learner.settings, name) for name in own} == own
    assert learner.settings.b2 == 0.95 and learner.settings.param_dtype == "float32"


def test_rewards_of_each_rule_reach_the_algorithm(tmp_path):
    asked = []

    @dataclasses.dataclass(frozen=True)
    class Selective(ActorCritic):
        attempts = 2

        def keeps(self, rewards, spread, rule_rewards):
            asked.append({name: values.shape for name, values in rule_rewards.items()})
            return rule_rewards["accuracy"].mean(axis=1) > 0.9  # never

        def prepare(self, rollout):
            assert rollout.rule_rewards["accuracy"].shape == rollout.rewards.shape
            return super().prepare(rollout)

    with pytest.warns(
        UserWarning, match=r"fewer than rl.prompts=2 groups to learn from in 2 attempts.*rl.max-resamples"
    ):
        rows, _ = train(tmp_path, algorithm=Selective())
    assert [row["unfilled_share"] for row in rows] == [1.0] * 3
    assert asked == [{"accuracy": (2, 4)}] * 6
    assert [row["rollout_attempts"] for row in rows] == [2.0] * 3 and rows[0]["empty_updates"] == 1.0


def same_metrics(one, other):
    """The metrics of a step on two meshes, of the critic in full; sums in another order differ by rounding."""
    names = {name for name in other if name.startswith("critic_")} | {"judge_loss", "loss", "advantage", "reward"}
    assert len(names) > 9
    for name in names:
        assert one[name] == pytest.approx(other[name], abs=1e-4), name


def test_a_mesh_gives_the_same_models_and_splits_them(whole, tmp_path):
    rows, saved = train(tmp_path, mesh="2x2")
    same_metrics(rows[0], whole[0][0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-2), saved, whole[1])
    mesh = make_mesh("2x2")
    with jax.set_mesh(mesh):
        model = Model(MODEL, START(), ByteTokenizer(CHAT))
        setup = make_setup(model, environment_of(Places()), RLConfig(algorithm=ActorCritic()))
        state, shapes = init_rl_state(model.params, setup), rl_shapes(setup)
        for leaf, shape in zip(jax.tree.leaves(state), jax.tree.leaves(shapes), strict=True):
            assert leaf.sharding.is_equivalent_to(shape.sharding, leaf.ndim) and leaf.dtype == shape.dtype
        moments = [m for m in jax.tree.leaves(state.learned["critic"].opt_state) if m.size > 200]
        assert moments and all(m.addressable_shards[0].data.size == m.size // 4 for m in moments)


def test_without_learned_models_checkpoints_and_batches_hold_nothing_of_them():
    model = Model(MODEL, jax.tree.map(jnp.asarray, START()), ByteTokenizer(CHAT))
    setup = make_setup(model, environment_of(Places()), RLConfig(algorithm=GRPO()))
    state = init_rl_state(model.params, setup)
    assert not setup.learners and not state.learned
    assert set(state.saved()[1]) == {"step", "opt_state"}


def test_the_settings_of_an_algorithm_are_checked():
    with pytest.raises(UserError, match=r"critic-learning-rate=-1\.0 must be at least 0"):
        ActorCritic(critic_learning_rate=-1.0)
    with pytest.raises(UserError, match="critic-learning-rate=inf is not a finite number"):
        ActorCritic(critic_learning_rate=np.inf)
    with pytest.raises(UserError, match="at least 2"):
        RLConfig(group=1)

    class Fixed(GRPO):
        fixed_reference = True

    with pytest.raises(UserError, match="reference-every=3: this algorithm keeps the first reference"):
        RLConfig(reference_every=3, algorithm=Fixed(beta=0.1))


def test_a_loop_frees_the_weights_that_it_starts_from(tmp_path):
    model = Model(MODEL, init_params(param_specs(MODEL), jax.random.key(0)), ByteTokenizer(CHAT))
    setup = make_setup(model, environment_of(Places()), RLConfig())
    with TrainingLoop(tmp_path, "rl", 1, SaveConfig()) as loop:
        state = loop.start(rl_shapes(setup), lambda: init_rl_state(model.params, setup), model.params)
    assert all(weight.is_deleted() for weight in jax.tree.leaves(model.params))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))
