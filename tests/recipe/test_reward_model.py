"""Reward models: losses by hand, learning, resume, export, and scores beside the policy."""

import dataclasses
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.algorithms.reward_model_losses import pairwise_loss, pointwise_loss
from r1jax.checkpoints.huggingface import save_huggingface
from r1jax.checkpoints.load import load
from r1jax.checkpoints.model import Model
from r1jax.data.formats.preferences import Labelled, Pair
from r1jax.data.problems.problem import Problem, key_is_held_out
from r1jax.data.text.conversations import judged_ids
from r1jax.data.text.template import find_template
from r1jax.errors import UserError
from r1jax.models.config import ModelConfig
from r1jax.models.transformer import forward, hidden_states, param_specs, scores
from r1jax.recipe import reward_models as stage
from r1jax.recipe.reward_models import RewardModelConfig, check_reward_model, scalar_model, train_reward_model
from r1jax.rewards import Completion
from r1jax.rewards import model as model_reward
from r1jax.rewards.model import ModelReward
from r1jax.sharding import init_params, make_mesh, param_shardings
from r1jax.tokenizer import ByteTokenizer
from r1jax.training.loop import SaveConfig, Stopped

FIXTURES = Path(__file__).parents[1] / "fixtures"
CHAT = "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}<eos>{% else %}|{% endif %}{% endfor %}"
CONFIG = ModelConfig(
    vocab_size=259,
    hidden_size=32,
    intermediate_size=64,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    head_dim=16,
    tie_embeddings=False,
)
SCORES = jax.jit(scores, static_argnums=3)
PAIRS = [Pair(f"{i}?", "yes", "nonono") for i in range(24)]
LABELLED = [Labelled(f"{i}?", *(("yes", True) if i % 2 else ("nonono", False))) for i in range(24)]
TRAINING = RewardModelConfig(epochs=6, batch=8, width=16, held_out_share=0.25, learning_rate=1e-2)


def language_model():
    return Model(CONFIG, init_params(param_specs(CONFIG), jax.random.key(0)), ByteTokenizer(CHAT))


def train(folder, judgements, config=TRAINING, every=50):
    model, figures = train_reward_model(language_model(), judgements, config, SaveConfig(every=every), 0, folder)
    return dataclasses.replace(model, params=jax.device_get(model.params)), figures


@pytest.fixture(scope="module")
def helpful(tmp_path_factory):
    return train(tmp_path_factory.mktemp("helpful"), PAIRS)


def test_the_losses_are_the_formulas_and_leave_out_what_does_not_count():
    better, worse = jnp.array([1.0, -2.0, 5.0]), jnp.array([0.5, 1.0, 9.0])
    counts = jnp.array([True, True, False])
    expected = math.log(1 + math.exp(-0.5)) + math.log(1 + math.exp(3.0))
    assert pairwise_loss(better, worse, counts) == pytest.approx(expected, rel=1e-6)
    safe = jnp.array([True, False, True])
    expected = math.log(1 + math.exp(-1.0)) + math.log(1 + math.exp(-2.0))
    assert pointwise_loss(better, safe, counts) == pytest.approx(expected, rel=1e-6)
    assert jax.grad(lambda s: pairwise_loss(s, worse, counts))(better)[2] == 0


def test_a_score_is_the_head_at_the_last_token_whatever_follows():
    model = scalar_model(language_model())
    assert "unembedding" not in model.params and model.params["score"].shape == (32, 1)
    rng = np.random.default_rng(1)
    head = rng.normal(size=(32, 1)).astype(np.float32)
    params = {**model.params, "score": head}
    tokens, lengths = rng.integers(0, 259, (3, 7)), np.array([7, 4, 1])
    found = SCORES(params, tokens, lengths, model.config)
    for i, n in enumerate((7, 4, 1)):
        h, _ = jax.jit(hidden_states, static_argnums=2)(params, tokens[i : i + 1, :n], model.config)
        np.testing.assert_allclose(found[i], (np.asarray(h)[0, -1] @ head)[0], rtol=1e-5)


def test_a_pairwise_model_prefers_what_it_learned_to(helpful):
    model, figures = helpful
    assert figures["held_out_accuracy"] == 1.0
    assert figures["judgements"] + figures["held_out"] == len(PAIRS) and figures["held_out"] > 0
    assert model.config.head == "scalar"


def test_a_pointwise_model_tells_safe_from_unsafe(tmp_path):
    _, figures = train(tmp_path, LABELLED)
    assert figures["held_out_accuracy"] == 1.0


@pytest.fixture
def still(monkeypatch):
    """A training of one epoch whose updates change nothing, so that none is compiled."""
    nothing = {"loss": (np.float32(0), np.float32(1))}
    monkeypatch.setattr(stage, "_update", lambda state, *_: (state, nothing))
    return dataclasses.replace(TRAINING, epochs=1)


def test_judgements_are_held_out_by_prompt_and_guessing_is_reported(still, tmp_path):
    about = next(a for a in "abcdefgh" if key_is_held_out(a, TRAINING.held_out_share))
    other = next(a for a in "abcdefgh" if not key_is_held_out(a, TRAINING.held_out_share))
    judged = [Labelled(f"{i}?", "yes", i % 4 == 0, about if i < 16 else other) for i in range(24)]
    figures = train(tmp_path / "labelled", judged, still)[1]
    assert (figures["judgements"], figures["held_out"], figures["held_out_guess"]) == (8, 16, 0.75)
    safe = [dataclasses.replace(one, safe=not one.safe) for one in judged]
    assert train(tmp_path / "safe", safe, still)[1]["held_out_guess"] == 0.75
    pairs = [dataclasses.replace(one, about=about if i < 16 else other) for i, one in enumerate(PAIRS)]
    figures = train(tmp_path / "pairs", pairs, still)[1]
    assert (figures["held_out"], figures["held_out_guess"]) == (16, 0.5)


def test_an_untrained_model_is_right_about_nothing(still, tmp_path):
    for judgements in (PAIRS, LABELLED):
        folder = tmp_path / type(judgements[0]).__name__
        _, figures = train(folder, judgements, still)
        assert figures["held_out_accuracy"] == 0.0


def test_a_killed_training_ends_with_the_same_bits(helpful, tmp_path, monkeypatch):
    update, calls = stage._update, []

    def killed(*arguments):
        calls.append(None)
        if len(calls) == 6:
            raise Stopped("killed")
        return update(*arguments)

    monkeypatch.setattr(stage, "_update", killed)
    with pytest.raises(Stopped):
        train(tmp_path, PAIRS, every=2)
    monkeypatch.setattr(stage, "_update", update)
    model, figures = train(tmp_path, PAIRS, every=2)
    jax.tree.map(np.testing.assert_array_equal, helpful[0].params, model.params)
    assert figures["held_out_accuracy"] == helpful[1]["held_out_accuracy"]


def test_judgements_that_cannot_be_learned_are_one_line(tmp_path):
    with pytest.raises(UserError, match="of one kind and at least one"):
        train(tmp_path / "a", [PAIRS[0], LABELLED[0]])
    with pytest.raises(UserError, match="24 are longer than width=4"):
        train(tmp_path / "b", PAIRS, dataclasses.replace(TRAINING, width=4))


def test_export_and_native_checkpoint_give_the_same_scores(helpful, tmp_path):
    model, _ = helpful
    save_huggingface(model, tmp_path / "export")
    tokens, lengths = jnp.array([[51, 63, 124, 121, 101, 115, 257]]), jnp.array([7])
    expected = SCORES(model.params, tokens, lengths, model.config)
    again = load(tmp_path / "export")
    assert again.config.head == "scalar"
    np.testing.assert_array_equal(SCORES(again.params, tokens, lengths, again.config), expected)
    text = (tmp_path / "export" / "config.json").read_text()
    assert '"LlamaForSequenceClassification"' in text and '"id2label"' in text
    (tmp_path / "export" / "config.json").write_text(text.replace('"0": "score"', '"0": "a", "1": "b"'))
    with pytest.raises(UserError, match="classifier with 2 labels"):
        load(tmp_path / "export")


def test_scores_are_those_of_transformers():
    model = load(FIXTURES / "reward")
    expected = np.load(FIXTURES / "reward" / "logits.npz")
    lengths = (expected["tokens"] != 2).sum(1)
    assert lengths.tolist() == [24, 17]
    found = SCORES(model.params, jnp.asarray(expected["tokens"]), jnp.asarray(lengths), model.config)
    np.testing.assert_allclose(found, expected["logits"][:, 0], atol=1e-5, rtol=0)


def test_a_reward_model_gives_no_tokens():
    model = scalar_model(language_model())
    with pytest.raises(UserError, match="computes scores and no tokens"):
        forward(model.params, jnp.ones((1, 2), jnp.int32), model.config)


def test_microbatches_change_neither_loss_nor_gradient(tmp_path):
    seen = {}
    for microbatch in (0, 2):
        train(tmp_path / str(microbatch), PAIRS, dataclasses.replace(TRAINING, epochs=2, microbatch=microbatch))
        lines = (tmp_path / str(microbatch) / "metrics.jsonl").read_text().splitlines()
        seen[microbatch] = [(row["loss"], row["gradient_norm"]) for row in map(json.loads, lines)]
    assert len(seen[0]) == 6 and seen[0][0][1] != pytest.approx(seen[0][2][1], rel=0.1)
    np.testing.assert_allclose(seen[2][:3], seen[0][:3], rtol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 6, "microbatch": 4}, "microbatch 4 does not divide the batch of 6"),
        ({"microbatch": -1}, "at least 0"),
    ],
)
def test_wrong_settings_are_one_line(changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(TRAINING, **changes)


def test_microbatches_must_split_over_the_mesh():
    check_reward_model(TRAINING, 8)
    with pytest.raises(UserError, match="4 judgements does not split over the 8 devices"):
        check_reward_model(dataclasses.replace(TRAINING, microbatch=4), 8)


def test_a_score_is_read_before_the_padding():
    tokenizer = load(FIXTURES / "reward").tokenizer
    ids = judged_ids("a", "b", tokenizer)
    assert ids == tokenizer.chat([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], False)
    pads_with_its_end = dataclasses.replace(tokenizer, pad_id=ids[-1])
    assert judged_ids("a", "b", pads_with_its_end) == ids[:-1]


def test_a_template_that_hides_reasoning_judges_no_reasoning(helpful, tmp_path):
    hides = "{% for m in messages %}{{ m.content.split('</think>')[-1] }}|{% endfor %}"
    model = dataclasses.replace(helpful[0], tokenizer=ByteTokenizer(hides))
    ModelReward("helpfulness", model, "summary")
    with pytest.raises(UserError, match="leaves the reasoning out"):
        ModelReward("harmlessness", model, "response")
    labelled = [Labelled(f"{i}?", "<think>so</think>yes", bool(i % 2)) for i in range(24)]
    with jax.set_mesh(make_mesh("1x1")), pytest.raises(UserError, match="leaves the reasoning out"):
        train_reward_model(model, labelled, TRAINING, SaveConfig(), 0, tmp_path)


def completion(text):
    return Completion(text=text, tokens=9, limit=72, finished=True, template=find_template("r1"))


def test_helpfulness_reads_the_summary_alone_and_harmlessness_all(helpful):
    model, _ = helpful
    problems = [Problem("3?", "", "self")] * 3
    texts = [
        "<think>a</think><answer>yes</answer>",
        "<think>bbbb</think><answer>yes</answer>",
        "<think>a</think><answer>nonono</answer>",
    ]
    completions = [completion(text) for text in texts]
    summary = ModelReward("helpfulness", model, "summary", rows=2).score(problems, completions)
    assert summary[0] == summary[1] > 0.5 > summary[2]
    assert ((summary > 0) & (summary < 1)).all()
    whole = ModelReward("harmlessness", model, "response", rows=2).score(problems, completions)
    assert whole[0] != whole[1]


def test_reasoning_that_does_not_end_earns_no_helpfulness(helpful):
    """The model itself would score an empty answer too, here with 0.5 like any other."""
    params = {**helpful[0].params, "score": jnp.zeros_like(helpful[0].params["score"])}
    reward = ModelReward("helpfulness", dataclasses.replace(helpful[0], params=params), "summary")
    texts = ["<think>and so on", "<think>so</think>", "<think>so</think><answer></answer>", "<think>so</think>yes"]
    found = reward.score([Problem("3?", "", "self")] * 4, [completion(text) for text in texts])
    np.testing.assert_array_equal(found, [0, 0, 0, 0.5])
    assert not reward.score([Problem("3?", "", "self")], [completion(texts[0])]).any()
    whole = ModelReward("harmlessness", reward._model, "response")
    assert whole.score([Problem("3?", "", "self")], [completion(texts[0])]) == 0.5  # judged whole, ended or not


def test_scores_do_not_depend_on_how_they_are_batched(helpful):
    problems = [Problem(f"{i}?", "", "self") for i in range(5)]
    completions = [completion("<think></think>" + "yes no " * i) for i in (3, 5, 1, 4, 2)]
    one, many = (ModelReward("h", helpful[0], "summary", rows=n).score(problems, completions) for n in (1, 4))
    np.testing.assert_allclose(one, many, rtol=1e-5)
    with jax.set_mesh(make_mesh("2x1")):
        params = jax.device_put(helpful[0].params, param_shardings(param_specs(helpful[0].config), make_mesh("2x1")))
        model = dataclasses.replace(helpful[0], params=params)
        split = ModelReward("h", model, "summary", rows=3).score(problems, completions)
    np.testing.assert_allclose(split, many, rtol=1e-5)


def test_equal_texts_have_equal_scores_whatever_is_beside_them(helpful):
    """In bfloat16, another width or position in the batch would change the rounding."""
    model = dataclasses.replace(helpful[0], config=dataclasses.replace(helpful[0].config, dtype="bfloat16"))
    reward = ModelReward("h", model, "response", rows=2)
    texts = ["yes and no", "x" * 90, "yes and no", "nonono", "y" * 190, "yes and no"]
    problems = [Problem("3?", "", "self")] * len(texts)
    found = reward.score(problems, [completion(text) for text in texts])
    assert found[0] == found[2] == found[5]
    for text, score in zip(texts, found, strict=True):
        assert reward.score(problems[:1], [completion(text)]) == score
    assert reward.resolution == 2.0**-7
    assert ModelReward("h", helpful[0], "response").resolution == 2.0**-23


def test_equal_texts_have_equal_scores_where_place_and_width_change_the_rounding(helpful, monkeypatch):
    def rounded(params, tokens, lengths, config):
        return 1e-3 * np.arange(len(tokens)) + 1e-1 * tokens.shape[1]

    monkeypatch.setattr(model_reward, "_squashed", rounded)
    reward = ModelReward("h", helpful[0], "response", rows=4)
    texts = ["yes", "x" * 90, "yes", "nonono", "yes"]
    found = reward.score([Problem("3?", "", "self")] * 5, [completion(text) for text in texts])
    assert found[0] == found[2] == found[4] == np.float32(6.4)  # of 64 tokens, whatever the longest is


def test_what_is_no_reward_model_and_what_is_too_long_is_refused(helpful):
    with pytest.raises(UserError, match="no scalar head"):
        ModelReward("helpfulness", language_model(), "summary")
    with pytest.raises(UserError, match="more than the model's context of 256"):
        ModelReward("h", helpful[0], "response").score([Problem("?", "", "self")], [completion("x" * 300)])
