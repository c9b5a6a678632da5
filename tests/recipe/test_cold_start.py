"""Rewriting by a model: its prompts, the use of its texts, and resuming after a kill."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import r1jax
from r1jax.checkpoints.model import Model
from r1jax.data.problems.problem import Problem
from r1jax.data.text.readable_reasoning import rewriting_prompt
from r1jax.data.text.template import find_template
from r1jax.models.config import ModelConfig
from r1jax.models.transformer import param_specs
from r1jax.recipe import cold_start
from r1jax.recipe.cold_start import rewrite_by_model
from r1jax.recipe.judged_samples import JudgedSample, cached_lines
from r1jax.rewards import Completion
from r1jax.sharding import init_params
from r1jax.tokenizer import ByteTokenizer

R1 = find_template("r1")
CONFIG = ModelConfig(vocab_size=259, hidden_size=32, intermediate_size=64, num_heads=2, num_kv_heads=1, head_dim=16)
PROMPT = "{language}: {reasoning}"


def judged(question, reasoning, correct=True, finished=True):
    text = f"<think>{reasoning}</think><answer>4</answer>"
    completion = Completion(text=text, tokens=9, limit=72, finished=finished, template=R1)
    return JudgedSample(Problem(question, "4", "sum", language="en"), completion, correct, seconds=1.0)


SAMPLES = [
    judged("2+2?", "two"),
    judged("3+1?", "wrong", correct=False),
    judged("1+3?", "three"),
    judged("4+0?", "", True),
]


@pytest.fixture(scope="module")
def model():
    chat = "{{ messages[0].content }}>"
    return Model(CONFIG, init_params(param_specs(CONFIG), jax.random.key(3)), ByteTokenizer(chat))


def test_correct_samples_are_rewritten_greedily_by_the_model(model, tmp_path, monkeypatch):
    # An untrained model never ends its text; its greedy text, counted as ended, is the expected rewriting.
    monkeypatch.setattr(cold_start, "LENGTH", -1)
    found = rewrite_by_model(SAMPLES, R1, model, PROMPT, 6, tmp_path)
    assert [found[i] for i in (1, 3)] == [SAMPLES[1], SAMPLES[3]]
    for i, reasoning in ((0, "two"), (2, "three")):
        ids = model.tokenizer.encode(f"English: {reasoning}>")
        assert rewriting_prompt(PROMPT, SAMPLES[i].problem, reasoning) == f"English: {reasoning}"
        greedy = []
        for last in range(len(ids) - 1, len(ids) + 5):
            padded = np.array([[*ids, *greedy, *[0] * (24 - last)]])
            logits = jax.jit(r1jax.forward, static_argnums=2)(model.params, padded, CONFIG)
            greedy.append(int(np.argmax(logits[0, last])))
        text = model.tokenizer.decode(greedy).strip()
        assert found[i].completion.text == f"<think>{text}</think>The result is <answer>4</answer>."
        assert found[i].seconds > 1.0 and found[i].correct


def test_a_text_that_does_not_end_leaves_no_reasoning(model, tmp_path):
    found = rewrite_by_model(SAMPLES, R1, model, PROMPT, 3, tmp_path)
    assert found[0].completion.text == "<think></think>The result is <answer>4</answer>."


def test_what_was_rewritten_before_a_kill_is_read_and_thoughts_are_left_out(model, tmp_path, monkeypatch):
    lines = [{"text": "I know.", "seconds": 2.0}, {"text": "so\u2028four", "seconds": 2.0}]
    (tmp_path / "0000000.jsonl").write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    monkeypatch.setattr(cold_start, "sample", None)
    found = rewrite_by_model(SAMPLES, R1, model, PROMPT, 3, tmp_path)
    assert [R1.reasoning(found[i].completion.text) for i in (0, 2)] == ["I know.", "so\u2028four"]
    assert found[0].seconds == 3.0

    def sampled(params, prompts, *_, **__):
        ids = np.array([[*b"<think>hm</think> four", 257]] * len(prompts))
        fields = {"tokens": ids, "lengths": np.full(len(prompts), ids.shape[1]), "finish": np.zeros(len(prompts))}
        return dataclasses.make_dataclass("Samples", fields)(**fields)

    monkeypatch.setattr(cold_start, "sample", sampled)
    monkeypatch.setattr(cold_start.jax, "device_get", lambda x: x)
    found = rewrite_by_model(SAMPLES, R1, model, PROMPT, 30, tmp_path / "anew")
    assert R1.reasoning(found[0].completion.text) == "four"


def test_lines_are_made_once(tmp_path):
    made = []

    def make():
        made.append(1)
        return [{"text": "a\u0085b\u2029c\nd"}]

    for _ in range(2):
        assert cached_lines(tmp_path / "x.jsonl", make) == [{"text": "a\u0085b\u2029c\nd"}]
    assert made == [1]
