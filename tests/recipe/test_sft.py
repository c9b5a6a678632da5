"""Fine-tuning on conversations, and distillation by distribution."""

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.algorithms.kl import kl_sum
from r1jax.checkpoints.model import Model
from r1jax.data.problems.problem import Problem, key_is_held_out
from r1jax.data.text.packing import Example
from r1jax.data.text.template import Template
from r1jax.errors import UserError
from r1jax.models.config import ModelConfig
from r1jax.models.transformer import forward
from r1jax.recipe import sft as stage
from r1jax.recipe.distillation import MatchConfig, check_vocabularies, match
from r1jax.recipe.sft import SFTConfig, batches, check_sft, sft
from r1jax.sampling.processors import Sampling
from r1jax.sharding import make_mesh
from r1jax.tokenizer import ByteTokenizer
from r1jax.training.loop import SaveConfig, Stopped
from r1jax.training.metrics import totals
from tests.helpers.training import random_params

CHAT = "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}<eos>{% else %}|{% endif %}{% endfor %}"
TOKENIZER = ByteTokenizer(CHAT)
CONFIG = ModelConfig(
    vocab_size=259, hidden_size=32, intermediate_size=64, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=16
)
DATA = [
    [{"role": "user", "content": q}, {"role": "assistant", "content": a}]
    for q, a in zip("abcdefgh", "badcfehg", strict=True)
]
SFT = SFTConfig(epochs=3, batch=2, width=16, held_out_share=0.0, learning_rate=1e-2, schedule="constant")


def model(seed=0, blocks=1):
    config = dataclasses.replace(CONFIG, num_layers=blocks)
    return Model(config, random_params(config, seed), TOKENIZER)


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def tune(folder, config=SFT, data=DATA, every=2):
    tuned, figures = sft(model(), data, config, SaveConfig(every=every), 0, folder)  # on no mesh, as in a notebook
    return jax.device_get(tuned.params), figures


def test_fine_tuning_learns_replies_and_their_end_and_not_what_the_user_says(tmp_path):
    data = [[{"role": "user", "content": letter}, {"role": "assistant", "content": "ok"}] for letter in "abcdefgh"]
    params, figures = tune(tmp_path, dataclasses.replace(SFT, epochs=30), data, every=60)
    logits = np.asarray(jax.jit(forward, static_argnums=2)(params, np.array([TOKENIZER.encode("a|ok")]), CONFIG)[0])
    assert [int(row.argmax()) for row in logits[1:]] == [ord("o"), ord("k"), 257]
    # Follows every question, in the text that is only read.
    assert np.exp(logits[0, ord("|")]) < 0.1 * np.exp(logits[0]).sum()
    assert figures["tokens"] == 30 * len(data) * 3  # two letters and the end token each
    assert figures["examples"] == 8 and figures["dropped"] == 0


def test_batches_keep_their_shape_and_hold_every_token_once():
    examples = [Example(np.arange(1, n + 1), np.ones(n, bool)) for n in (5, 9, 3, 7, 6)]
    parts = batches(examples, width=10, batch=2, order=[4, 2, 0, 1, 3])
    assert all(part["tokens"].shape == (2, 11) and part["mask"].shape == (2, 10) for part in parts)
    assert sum(part["mask"].sum() for part in parts) == sum(len(e.tokens) - 1 for e in examples)
    assert parts[0]["tokens"][0, :6].tolist() == [1, 2, 3, 4, 5, 6]  # the first of the order


def test_a_killed_run_ends_with_the_same_bits(tmp_path, monkeypatch):
    config = dataclasses.replace(SFT, held_out_share=0.3, evaluate_every=2)
    data = DATA * 2 + [[{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": "!"}] for i in range(9)]
    whole, figures = tune(tmp_path / "whole", config, data)
    update, calls = stage.language_model_update, []

    def killed(*arguments):
        calls.append(None)
        if len(calls) == 4:
            raise Stopped("killed")
        return update(*arguments)

    monkeypatch.setattr(stage, "language_model_update", killed)
    with pytest.raises(Stopped):
        tune(tmp_path / "parts", config, data)
    monkeypatch.setattr(stage, "language_model_update", update)
    parts, _ = tune(tmp_path / "parts", config, data)
    assert figures["updates"] > 5 and figures["held_out"] > 0
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    kept = [{k: v for k, v in row.items() if "second" not in k and k != "time"} for row in rows(tmp_path / "whole")]
    assert kept == [
        {k: v for k, v in row.items() if "second" not in k and k != "time"} for row in rows(tmp_path / "parts")
    ]
    assert "held_out_loss_before" in kept[0] and "held_out_loss" in kept[1] and "held_out_loss" in kept[-1]


def test_too_long_conversations_are_left_out_and_counted(tmp_path):
    long = [{"role": "user", "content": "x" * 30}, {"role": "assistant", "content": "y"}]
    _, figures = tune(tmp_path, dataclasses.replace(SFT, epochs=1), [*DATA, long])
    assert (figures["examples"], figures["dropped"]) == (8, 1)
    with pytest.raises(UserError, match=r"none of the 1 conversations fits sft.width=16"):
        tune(tmp_path / "none", data=[long])


def test_replies_to_one_question_are_held_out_together_or_not_at_all(tmp_path):
    data = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
        for question in "abcdefgh"
        for reply in ("x", "y", "z")
    ]
    _, figures = tune(tmp_path, dataclasses.replace(SFT, epochs=1, held_out_share=0.3), data)
    share = sum(key_is_held_out(f"user: {question}", 0.3) for question in "abcdefgh")
    assert 0 < figures["held_out"] == 3 * share < len(data)


def test_seconds_and_tokens_are_those_of_all_steps_also_before_a_kill(tmp_path):
    rows = [{"step": i, "seconds": 0.5, "tokens": 7.0} for i in range(4)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert totals(tmp_path, "tokens", "seconds") == {"tokens": 28.0, "seconds": 2.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"epochs": 0}, "epochs"), ({"held_out_share": 0.9}, "held-out-share"), ({"microbatch": 3}, "does not divide")],
)
def test_wrong_settings_are_one_line(changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(SFTConfig(), **changes)


def test_rows_must_split_over_the_mesh():
    check_sft(SFTConfig(batch=8), 8)
    with pytest.raises(UserError, match="8 devices"):
        check_sft(SFTConfig(batch=8, microbatch=4), 8)


CHANGES = {"epochs": 1, "batch": 4, "width": 9, "microbatch": 1, "evaluate_every": 1, "logprob_chunk": 7}
CHANGES |= {"router_bias_speed": 0.1, "balance_loss": 0.1, "mtp_weight": 0.1}


@pytest.mark.parametrize("setting", CHANGES)
def test_every_setting_of_fine_tuning_is_read(setting, tmp_path, monkeypatch):
    seen = {}

    monkeypatch.setattr(stage, "check_mtp_weight", lambda *_: None)  # of a model without layers to train

    def update(state, batch, optimizer, config, microbatches, chunk, balance, mtp_weight):
        return state, {"loss": (jnp.zeros(()), jnp.ones(()))}

    def record(name, config):
        log = []

        def noted(*arguments):
            log.append((arguments[1]["mask"].shape, *arguments[4:]))
            return update(*arguments)

        monkeypatch.setattr(stage, "language_model_update", noted)
        monkeypatch.setattr(stage, "held_out_loss", lambda *_: float(bool(log.append("held out"))))
        tune(tmp_path / name, config, DATA * 2)
        seen[name] = log

    base = dataclasses.replace(SFT, held_out_share=0.3)
    record("before", base)
    record("after", dataclasses.replace(base, **{setting: CHANGES[setting]}))
    assert seen["before"] != seen["after"]


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("chunk", [4, 64])
def test_the_divergence_and_its_gradient_are_the_formula(direction, chunk):
    rng = np.random.default_rng(0)
    h, g = rng.normal(size=(2, 5, 4)), rng.normal(size=(2, 5, 3))
    w, v = rng.normal(size=(4, 11)), rng.normal(size=(3, 11))
    mask = rng.random((2, 5)) < 0.6

    def plain(h, w):
        z, y = h @ w / 0.7, g @ v / 0.7
        q, p = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (z, y))
        kl = (np.exp(p) * (p - q) if direction == "forward" else np.exp(q) * (q - p)).sum(-1)
        return (kl * mask).sum()

    def ours(h, w):
        teacher = jnp.array(g, jnp.float32), jnp.array(v, jnp.float32)
        return kl_sum((h, w), teacher, jnp.array(mask), direction, 0.7, chunk)

    both = jax.jit(jax.value_and_grad(ours, argnums=(0, 1)))
    value, (of_h, of_w) = jax.device_get(both(h.astype(np.float32), w.astype(np.float32)))
    np.testing.assert_allclose(value, plain(h, w), rtol=1e-5)
    for at in ((0, 1, 2), (1, 4, 0)):
        step = np.zeros_like(h)
        step[at] = 1e-6
        slope = (plain(h + step, w) - plain(h - step, w)) / 2e-6
        np.testing.assert_allclose(of_h[at], slope, rtol=1e-3, atol=1e-4)
    step = np.zeros_like(w)
    step[2, 3] = 1e-6
    np.testing.assert_allclose(of_w[2, 3], (plain(h, w + step) - plain(h, w - step)) / 2e-6, rtol=1e-3, atol=1e-4)


def test_the_bfloat16_gradient_of_the_divergence_is_added_in_float32_over_chunks():
    """The gradient in 512 chunks equals that in one chunk, to within the rounding of the result."""
    rng = np.random.default_rng(0)
    h, g = (1 + rng.normal(size=(8, 512, 4)).astype(jnp.bfloat16) for _ in range(2))
    w, v = (rng.normal(size=(4, 11)).astype(jnp.bfloat16) for _ in range(2))

    @partial(jax.jit, static_argnums=1)
    def gradient(w, chunk):
        return jax.grad(lambda w: kl_sum((h, w), (g, v), jnp.ones((8, 512), bool), "forward", chunk=chunk))(w)

    one, many = (np.asarray(gradient(w, chunk), np.float64) for chunk in (4096, 8))
    assert np.linalg.norm(many - one) < 0.005 * np.linalg.norm(one)


def test_no_gradient_enters_the_teacher():
    h, w, mask = np.ones((1, 3, 2), np.float32), np.eye(2, dtype=np.float32), np.ones((1, 3), bool)

    def both(t):
        return sum(kl_sum((h, w), (t, w), mask, direction) for direction in ("forward", "reverse"))

    value, gradient = jax.jit(jax.value_and_grad(both))(np.arange(6, dtype=np.float32).reshape(1, 3, 2))
    assert value > 0.1 and not np.asarray(gradient).any()


PROBLEMS = [Problem(letter, letter, "letters", "exact") for letter in "abcdefgh"]
TEMPLATE = Template("bare", "{question}", chat=True, prefill="", tags=False)


MATCH = MatchConfig(steps=24, prompts=4, samples=2, direction="forward", learning_rate=1e-2, microbatch=4)


def matched(folder, config):
    """Parameters of a student after matching, on a mesh of one device."""
    with jax.set_mesh(make_mesh("1x1")):
        start, teacher = model(0), model(1, blocks=2)
        sure = jax.tree.map(lambda w: jax.device_put(8 * w), jax.device_get(teacher.params))
        teacher = dataclasses.replace(teacher, params=sure)
        save = SaveConfig(every=5)
        result, _ = match(start, teacher, PROBLEMS, TEMPLATE, Sampling(max_tokens=6), config, save, 0, folder)
        return jax.device_get(result.params)


@pytest.mark.parametrize(("direction", "source"), [("forward", "teacher"), ("reverse", "student")])
def test_matching_brings_the_student_towards_the_teacher_and_resumes_to_the_same_bits(direction, source, tmp_path):
    config = dataclasses.replace(MATCH, direction=direction, source=source)
    whole = matched(tmp_path / "whole", config)
    kl = [row["kl"] for row in rows(tmp_path / "whole")]
    assert np.mean(kl[-5:]) < 0.8 * np.mean(kl[:5])
    matched(tmp_path / "parts", dataclasses.replace(config, steps=15))
    jax.tree.map(np.testing.assert_array_equal, whole, matched(tmp_path / "parts", config))


def test_other_vocabularies_are_refused():
    class Other(ByteTokenizer):
        def decode(self, ids):
            return super().decode(ids).swapcase()

    check_vocabularies(TOKENIZER, ByteTokenizer())
    with pytest.raises(UserError, match="different vocabularies"):
        check_vocabularies(TOKENIZER, Other())


def test_samples_come_from_the_model_that_the_setting_names(tmp_path):
    first = {}
    for source in ("student", "teacher"):
        matched(tmp_path / source, dataclasses.replace(MATCH, steps=1, source=source))
        first[source] = rows(tmp_path / source)[0]["kl"]
    assert first["student"] != first["teacher"]
