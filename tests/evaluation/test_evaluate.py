from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.checkpoints.model import Model
from r1jax.data.problems.problem import Problem
from r1jax.data.text.template import Template
from r1jax.evaluation import evaluate as evaluation
from r1jax.evaluation.evaluate import EvaluationConfig, equal_parts, evaluate
from r1jax.models.config import ModelConfig
from r1jax.models.transformer import param_specs
from r1jax.rewards.base import Completion
from r1jax.rewards.scores import Scores
from r1jax.sampling.processors import Sampling
from r1jax.sharding import init_params, make_mesh
from r1jax.tokenizer import ByteTokenizer

TEMPLATE = Template("bare", "{question}", chat=True, prefill="", tags=False)


class NoneRight:
    """A scorer that rejects every completion."""

    names = ("accuracy",)

    def score(self, problems, completions):
        return Scores(np.zeros((len(problems), 1), np.float32), np.zeros(len(problems)), self.names, 0, 0)

    def check(self, problems, answers):
        return np.zeros(len(problems), np.float32)


@pytest.mark.parametrize(
    ("problems", "samples", "mesh", "parts"),
    [
        (128, 8, "1x1", 2),  # 512 sequences each
        (128, 4, "1x1", 1),
        (128, 64, "1x1", 4),
        (97, 64, "1x1", 1),  # a part of another size would be compiled by itself
        (96, 64, "8x1", 4),
        (24, 128, "8x1", 3),  # eight problems a part, one a device; four parts would leave devices without any
        (100, 64, "8x1", 4),  # the devices share one queue in any case
    ],
)
def test_an_evaluation_is_sampled_in_equal_parts_that_fill_every_device(problems, samples, mesh, parts) -> None:
    with jax.set_mesh(make_mesh(mesh)):
        assert equal_parts(problems, samples) == parts


@pytest.fixture(scope="module")
def uniform() -> Model:
    """A model whose weights are zero."""
    config = ModelConfig(
        vocab_size=259, hidden_size=16, intermediate_size=16, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=16
    )
    params = jax.tree.map(jnp.zeros_like, init_params(param_specs(config), jax.random.key(0)))
    return Model(config, params, ByteTokenizer("{{ messages[0].content }}"))


def test_the_entropy_of_a_model_without_weights_is_that_of_the_uniform_distribution(uniform) -> None:
    problems = [Problem(letter, letter, "letters", "exact") for letter in "ab"]
    sampling = Sampling(max_tokens=6)
    found, _ = evaluate(uniform, problems, TEMPLATE, NoneRight(), sampling, EvaluationConfig(samples=4), 0)
    assert found.entropy == pytest.approx(np.log(259), rel=1e-5)
    assert found.maj_at.keys() == {2, 3, 4}


def test_programs_are_readable_where_they_are_well_formed(uniform, monkeypatch) -> None:
    program, template = "Some words.\n```python\nf = 1\n```", dataclasses.replace(TEMPLATE, code=True)
    texts = [program] * 3 + ["no program"] + [program] + ["no program"] * 3
    completions = [Completion(text, 6, 6, True, template) for text in texts]
    monkeypatch.setattr(evaluation, "completions_from_samples", lambda *_: completions)
    monkeypatch.setattr(NoneRight, "score", lambda *_: Scores(np.ones((8, 1)), np.ones(8), ("accuracy",), 0, 0))
    problems = [Problem(letter, "", "letters", "code", '{"asserts": ["assert f()"]}') for letter in "ab"]
    sampling = Sampling(max_tokens=6)
    found, _ = evaluate(uniform, problems, template, NoneRight(), sampling, EvaluationConfig(samples=4), 0)
    assert found.by_problem["format_rate"] == found.by_problem["readable_correct"] == (0.75, 0.25)


def test_programs_have_no_majority(uniform) -> None:
    problems = [Problem(letter, "", "letters", "code", '{"asserts": ["assert f()"]}') for letter in "ab"]
    sampling = Sampling(max_tokens=6)
    found, _ = evaluate(uniform, problems, TEMPLATE, NoneRight(), sampling, EvaluationConfig(samples=4), 0)
    assert found.maj_at == {} and found.pass_at.keys() == {1, 2, 3, 4}
    assert not any(name.startswith("maj") for name in (*found.by_problem, *found.intervals, *found.figures()))
