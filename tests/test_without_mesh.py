"""Functions called without a mesh in a process of eight devices, as in a notebook, run on the first device."""

import jax
import numpy as np

from r1jax.checkpoints.model import Model
from r1jax.data.problems.problem import Problem
from r1jax.data.text.template import Template
from r1jax.evaluation.evaluate import EvaluationConfig, evaluate
from r1jax.models.config import ModelConfig
from r1jax.models.transformer import param_specs
from r1jax.pipeline.execute import execute_pipeline
from r1jax.pipeline.plan import finished_stages
from r1jax.pipeline.stage import Stage
from r1jax.recipe.config import RecipeConfig
from r1jax.recipe.loading import load_model
from r1jax.rewards.scores import Scores
from r1jax.rl.config import RLConfig
from r1jax.rl.environment import Environment
from r1jax.rl.train import train_policy
from r1jax.sampling.processors import Sampling
from r1jax.sharding import init_params
from r1jax.tokenizer import ByteTokenizer
from r1jax.training.loop import SaveConfig
from tests.helpers.paths import FIXTURES

CHAT = "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}<eos>{% else %}|{% endif %}{% endfor %}"
CONFIG = ModelConfig(
    vocab_size=259, hidden_size=16, intermediate_size=16, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=16
)
PROBLEMS = tuple(Problem(letter, letter, "letters", "exact") for letter in "abcd")
TEMPLATE = Template("bare", "{question}", chat=True, prefill="", tags=False)
SAMPLING = Sampling(max_tokens=4)


class Places:
    """A pool that rewards a completion by its position, so that every group has spread."""

    names = ("accuracy", "format")

    def score(self, problems, completions):
        values = np.stack([np.arange(len(problems)) % 2.0] * 2, axis=1).astype(np.float32)
        return Scores(values, values.sum(axis=1), self.names, 0, 0)

    def check(self, problems, answers):
        return np.zeros(len(problems), np.float32)


def test_reinforcement_learning_runs_on_one_device(tmp_path):
    model = Model(CONFIG, init_params(param_specs(CONFIG), jax.random.key(0)), ByteTokenizer(CHAT))
    before = jax.device_get(model.params["embedding"])
    environment = Environment(PROBLEMS, TEMPLATE, Places(), SAMPLING, 0, 4)
    config = RLConfig(steps=1, prompts=2, group=2, learning_rate=1e-2)
    params = train_policy(model, environment, config, SaveConfig(), tmp_path).params
    assert np.abs(params["embedding"] - before).max() > 1e-3
    assert {device for w in jax.tree.leaves(params) for device in w.devices()} == {jax.devices()[0]}


def test_a_graph_and_evaluation_run_on_one_device(tmp_path):
    def measured(settings, inputs, folder):
        found = load_model(inputs["model"], settings, "float32")
        config = EvaluationConfig(samples=2)
        evaluation, _ = evaluate(found, PROBLEMS, TEMPLATE, Places(), Sampling(max_tokens=1), config, 0)
        return {"accuracy": evaluation.pass_at[1]}

    execute_pipeline([Stage("measured", measured, RecipeConfig(), {"model": FIXTURES / "qwen2"})], tmp_path)
    assert finished_stages(tmp_path)["measured"]["figures"]["accuracy"] == 0.5
