"""Checkpoints that a critic starts from: one that fits, and one error line for each that does not."""

import dataclasses

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from r1jax.algorithms.grpo import GRPO
from r1jax.algorithms.ppo import PPO
from r1jax.checkpoints.model import Model
from r1jax.checkpoints.native import write_model
from r1jax.data.problems.dataset import ProblemsConfig
from r1jax.errors import UserError
from r1jax.models.config import ModelConfig
from r1jax.recipe.make_stage import make_stage
from r1jax.recipe.reasoning_rl import ReasoningRLSettings, reasoning_rl_stage
from r1jax.recipe.starts import check_starts, load_starts, start_inputs
from r1jax.rewards.config import VerifierConfig
from r1jax.rl.config import RLConfig
from r1jax.sampling.processors import Sampling
from r1jax.tokenizer import ByteTokenizer
from r1jax.training.loop import SaveConfig
from tests.helpers.training import random_params

POLICY = ModelConfig(vocab_size=259, hidden_size=8, intermediate_size=8, num_layers=1, num_heads=1, num_kv_heads=1)
CRITIC = dataclasses.replace(POLICY, head="scalar", context_length=512, dtype="bfloat16", tie_embeddings=False)


class Swapped(ByteTokenizer):
    """The ids of small and capital letters in exchange."""

    def decode(self, ids):
        return super().decode(ids).swapcase()


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory):
    """The folder of a reward model, and its weights."""
    folder = tmp_path_factory.mktemp("starts") / "helpfulness"
    params = random_params(CRITIC, 1)
    write_model(folder, CRITIC, ByteTokenizer())
    with ocp.StandardCheckpointer() as writer:
        writer.save((folder / "3" / "params").absolute(), params)
    return folder, params


def ppo(folder, **settings):
    return RLConfig(algorithm=PPO(critic=str(folder)), **settings)


def test_a_critic_starts_from_a_reward_model_with_its_head(reward_model):
    folder, params = reward_model
    rl = ppo(folder)
    policy = Model(POLICY, random_params(POLICY), ByteTokenizer())
    assert start_inputs(rl) == {"critic": folder}
    starts = load_starts(rl, policy, {"critic": folder})
    assert starts.keys() == {"critic"}
    jax.tree.map(np.testing.assert_array_equal, starts["critic"], params)


def test_a_critic_that_starts_from_the_policy_and_grpo_read_no_checkpoint():
    for algorithm in (PPO(), GRPO()):
        rl = RLConfig(algorithm=algorithm)
        assert start_inputs(rl) == {}
        check_starts(rl, POLICY, ByteTokenizer())


@pytest.mark.parametrize(
    ("policy", "tokenizer", "line"),
    [
        (dataclasses.replace(POLICY, hidden_size=16), ByteTokenizer(), r"has hidden size 8 and the policy 16: give a"),
        (dataclasses.replace(POLICY, num_layers=2), None, "has num layers 1 and the policy 2"),
        (dataclasses.replace(POLICY, vocab_size=300), ByteTokenizer(), "has vocab size 259 and the policy 300"),
        (dataclasses.replace(POLICY, vocab_size=200), None, "has vocab size 259 and the policy 200"),
        (dataclasses.replace(POLICY, qk_norm=True), None, "has qk norm False and the policy True"),
        (POLICY, Swapped(), "has another vocabulary than the policy: give a model with the policy's tokenizer"),
    ],
)
def test_a_reward_model_that_does_not_fit_is_one_line(reward_model, policy, tokenizer, line):
    folder, _ = reward_model
    with pytest.raises(UserError, match=f"critic={folder} {line}"):
        check_starts(ppo(folder), policy, tokenizer)
    check_starts(ppo(folder), dataclasses.replace(POLICY, vocab_size=300), None)  # the policy does not exist yet


def test_a_language_model_or_no_model_is_no_critic(tmp_path):
    write_model(tmp_path / "base", POLICY, ByteTokenizer())
    with pytest.raises(UserError, match=r"base is a language model, which has no value head: give the folder of a rew"):
        check_starts(ppo(tmp_path / "base"), POLICY, ByteTokenizer())
    for check in (start_inputs, lambda rl: check_starts(rl, POLICY, None)):
        with pytest.raises(UserError, match=f"^critic: {tmp_path}/missing does not exist"):
            check(ppo(tmp_path / "missing"))
    with pytest.raises(UserError, match="critic is empty: give policy or the folder"):
        ppo("")


def test_the_reward_model_is_an_input_of_the_stage(reward_model):
    """Another reward model in the folder is then noticed, as it is for the policy."""
    folder, _ = reward_model
    settings = ReasoningRLSettings(
        rl=ppo(folder),
        problems=ProblemsConfig(),
        template="think",
        sampling=Sampling(max_tokens=8),
        verifier=VerifierConfig(),
        seed=0,
        save=SaveConfig(),
    )
    stage = make_stage("r1-zero", reasoning_rl_stage, settings, {"policy": "pretrain"}, POLICY, "1x1")
    assert stage.reads == {"policy": "pretrain", "critic": folder}
