"""Training with PRIME: process rewards that are logged, resuming, and meshes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.algorithms.prime import PRIME
from r1jax.errors import UserError
from r1jax.models.transformer import forward
from tests.rl.test_learned import MODEL, Places, train

PRIME_ = PRIME(prm_learning_rate=3e-3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prime") / "whole"
    return *train(folder, algorithm=PRIME_), folder


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
    assert len(rows) == 2
    checked = 0
    for row in rows:
        texts, values = row["token_texts"], row["token_values"]["process_reward"]
        assert "".join(texts) == row["completion"] and len(texts) == len(values) == row["tokens"]
        if not row["completion"].isascii() or row["truncated"] is False:  # its ids are not known from its text
            continue
        tokens = jnp.array([[256, *row["question"].encode(), *row["completion"].encode()]])
        ours, reference = (
            jax.nn.log_softmax(forward(p, tokens, MODEL))[0, :-1]
            for p in (rest["learned"]["prm"]["params"], rest["reference"])
        )
        n, after = len(values), tokens[0, 1:]
        expected = 0.05 * (ours - reference)[jnp.arange(len(after)), after][-n:]
        np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-6)
        checked += 1
    assert checked


def test_prime_resumes_with_the_same_bits(whole, tmp_path):
    with pytest.raises(KeyError):
        train(tmp_path, Places(fail_at=2), algorithm=PRIME_)
    rows, saved = train(tmp_path, algorithm=PRIME_)
    assert rows == whole[0]
    jax.tree.map(np.testing.assert_array_equal, saved, whole[1])
    assert completions_of(tmp_path) == completions_of(whole[2])


@pytest.mark.parametrize("mesh", ["2x1", "1x2", "2x2"])
def test_meshes_give_the_same_process_rewards(whole, tmp_path, mesh):
    rows, _ = train(tmp_path, mesh=mesh, algorithm=PRIME_, steps=1)
    for name in ("prm_loss", "prm_reward_correct", "loss", "gradient_norm"):
        assert rows[0][name] == pytest.approx(whole[0][0][name], abs=1e-4), name
    for row, expected in zip(completions_of(tmp_path), completions_of(whole[2])[:2], strict=True):
        values, known = (one["token_values"]["process_reward"] for one in (row, expected))
        assert row["token_texts"] == expected["token_texts"]
        np.testing.assert_allclose(values, known, atol=1e-4)


def test_a_reward_that_is_missing_is_named_before_training(tmp_path):
    class Unnamed(Places):
        names = ("format",)

    with pytest.raises(UserError, match="PRIME learns from the reward accuracy, which is not among the rewards format"):
        train(tmp_path, Unnamed(), algorithm=PRIME_)
    assert not (tmp_path / "metrics.jsonl").exists()
