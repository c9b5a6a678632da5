"""Training with PRIME: process rewards that are logged, resuming, and meshes."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.algorithms.prime import PRIME
from r1jax.checkpoints.model import Model
from r1jax.errors import UserError
from r1jax.models.transformer import forward, param_specs
from r1jax.rl import step as step_module
from r1jax.rl.batch import build_batch
from r1jax.rl.config import RLConfig
from r1jax.rl.setup import make_setup
from r1jax.rl.state import init_rl_state
from r1jax.rl.step import learn
from r1jax.sampling.sampler import Samples
from r1jax.sharding import make_mesh, param_shardings, place
from r1jax.tokenizer import ByteTokenizer
from tests.rl import test_learned
from tests.rl.test_learned import MODEL, START, Places, environment_of, train

PRIME_ = PRIME(prm_learning_rate=3e-3)
FIRST = 0x4E00


class Distinct(ByteTokenizer):
    """Each id has a character of its own, so that ids can be read from texts."""

    def decode(self, ids):
        return "".join(chr(FIRST + id) for id in ids)

    def decode_batch(self, rows):
        return [self.decode(row) for row in rows]


@pytest.fixture(scope="module", autouse=True)
def distinct():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_learned, "ByteTokenizer", Distinct)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory, distinct):
    folder = tmp_path_factory.mktemp("prime") / "whole"
    return *train(folder, algorithm=PRIME_, minibatches=1), folder


def completions_of(folder):
    return [json.loads(line) for line in (folder / "completions.jsonl").read_text().splitlines()]


def test_the_process_reward_model_learns(whole):
    rows, (params, rest), _ = whole
    # Half of the completions are correct, by their place, and in the first update the model is the reference.
    assert rows[0]["prm_loss"] == pytest.approx(np.log(2), abs=0.01)
    assert {"prm_accuracy", "prm_reward_correct", "prm_reward_wrong"} <= rows[0].keys()
    assert all(row["filtered_groups"] == 0 and row["unfiltered_reward"] == 0.5 for row in rows)
    assert set(rest["learned"]) == {"prm"} and not np.array_equal(
        rest["learned"]["prm"]["params"]["embedding"], params["embedding"]
    )


def test_process_rewards_are_written_beside_the_tokens_that_they_belong_to(whole):
    """The saved models give the process rewards of the last step, which are of the model after its updates."""
    _, (_, rest), folder = whole
    rows = [row for row in completions_of(folder) if row["step"] == 2]
    log_policy = jax.jit(lambda params, tokens: jax.nn.log_softmax(forward(params, tokens, MODEL)))
    assert len(rows) == 2
    for row in rows:
        texts, values = row["token_texts"], row["token_values"]["process_reward"]
        assert "".join(texts) == row["completion"] and len(texts) == len(values) == row["tokens"]
        ids = [ord(text) - FIRST if text else 257 for text in texts]
        assert all(texts[:-1]) and row["truncated"] == (ids[-1] != 257)
        tokens = jnp.array([[256, *row["question"].encode(), *ids]])
        ours, reference = (
            log_policy(p, tokens)[0, -len(ids) - 1 : -1] for p in (rest["learned"]["prm"]["params"], rest["reference"])
        )
        expected = 0.05 * (ours - reference)[jnp.arange(len(ids)), jnp.array(ids)]
        np.testing.assert_allclose(values, expected, rtol=2e-3, atol=1e-6)
        assert max(map(abs, values)) > 1e-4


def test_truncated_completions_that_are_left_out_have_no_values_per_token(whole, tmp_path):
    train(tmp_path, algorithm=dataclasses.replace(PRIME_, mask_truncated=True), minibatches=1, steps=1)
    for folder, left_out in ((whole[2], False), (tmp_path, True)):
        rows = [row for row in completions_of(folder) if row["truncated"]]
        assert rows and not any(("token_values" in row) == left_out for row in rows)


def test_prime_resumes_with_the_same_bits(whole, tmp_path):
    with pytest.raises(KeyError):
        train(tmp_path, Places(fail_at=2), algorithm=PRIME_, minibatches=1)
    rows, saved = train(tmp_path, algorithm=PRIME_, minibatches=1)
    assert rows == whole[0]
    jax.tree.map(np.testing.assert_array_equal, saved, whole[1])
    assert completions_of(tmp_path) == completions_of(whole[2])


RIGHT = np.arange(8) % 2.0


def learned_on(mesh, monkeypatch):
    """One step with an update of the process reward model on a mesh: metrics and process rewards.

    The policy is not updated; test_learned.py has its update on a mesh.
    """
    nothing = {"loss": (jnp.zeros(()), jnp.ones(()))}
    monkeypatch.setattr(step_module, "update", lambda state, *_: (state, nothing, {}))
    rng, mesh = np.random.default_rng(0), make_mesh(mesh)
    lengths, noise = np.array([4, 2, 3, 4, 1, 4, 2, 3]), rng.normal(-5, 0.1, (8, 4)).astype(np.float32)
    samples = Samples(rng.integers(0, 256, (8, 4)), lengths, np.zeros(8, np.int32), noise, noise, np.int32(4))
    with jax.set_mesh(mesh):
        params = place(START(), param_shardings(param_specs(MODEL), mesh))
        config = RLConfig(steps=3, prompts=2, group=4, learning_rate=1e-3, algorithm=PRIME_)  # as the training above
        setup = make_setup(Model(MODEL, params, ByteTokenizer()), environment_of(Places()), config)
        prompts, rules = [[256, 97]] * 4 + [[256, 98]] * 4, {"accuracy": RIGHT}
        batch = build_batch(prompts, samples, setup.longest, rewards=RIGHT, rule_rewards=rules, advantages=RIGHT - 0.5)
        _, metrics, values = learn(init_rl_state(params, setup), batch, jax.random.key(0), setup)
        return metrics, jax.device_get(values["process_reward"])


def test_a_mesh_gives_the_same_process_rewards(monkeypatch):
    """On 2x2, which splits rows and weights."""
    (metrics, values), (found, other) = (learned_on(mesh, monkeypatch) for mesh in ("1x1", "2x2"))
    scores = values.sum(axis=1)
    assert scores[RIGHT == 1].min() > scores[RIGHT == 0].max()  # the model is updated before it is read
    for name in ("prm_loss", "prm_accuracy", "prm_gradient_norm"):
        assert found[name] == pytest.approx(metrics[name], abs=1e-5), name
    np.testing.assert_allclose(other, values, atol=1e-5)


def test_a_reward_that_is_missing_is_named_before_training(tmp_path):
    class Unnamed(Places):
        names = ("format",)

    with pytest.raises(UserError, match="PRIME learns from the reward accuracy, which is not among the rewards format"):
        train(tmp_path, Unnamed(), algorithm=PRIME_)
    assert not (tmp_path / "metrics.jsonl").exists()
