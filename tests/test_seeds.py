"""Random streams of stages: distinct and reproducible."""

import contextlib
import dataclasses

import jax
import numpy as np
import pytest

from experiments import r1
from r1jax.checkpoints.model import Model
from r1jax.data.formats.preferences import Pair
from r1jax.data.problems.dataset import ProblemsConfig
from r1jax.data.problems.problem import Problem
from r1jax.data.text.corpus import CorpusConfig
from r1jax.data.text.template import Template, find_template
from r1jax.evaluation.evaluate import EvaluationConfig, evaluate
from r1jax.models.config import ModelConfig
from r1jax.models.transformer import param_specs
from r1jax.recipe import distillation as distill
from r1jax.recipe import evaluation, judged_samples, sft
from r1jax.recipe import pretraining as pretrain
from r1jax.recipe import reward_models as reward_model
from r1jax.recipe.pretraining import PretrainConfig
from r1jax.recipe.reward_models import RewardModelConfig
from r1jax.recipe.sft import SFTConfig
from r1jax.recipe.table import recipe_stages
from r1jax.rl import environment as sampling_of
from r1jax.rl.config import RLConfig
from r1jax.rl.environment import Environment
from r1jax.rl.rollouts import collect
from r1jax.rl.setup import make_setup
from r1jax.rl.train import step_keys
from r1jax.sampling.processors import Sampling
from r1jax.seeds import stage_key, stage_seed
from r1jax.sharding import init_params, make_mesh
from r1jax.tokenizer import ByteTokenizer
from r1jax.training.loop import SaveConfig

PROBLEMS = [Problem(f"q{i}", "1", "number") for i in range(8)]
CONFIG = ModelConfig(vocab_size=259, hidden_size=32, intermediate_size=64, num_heads=2, num_kv_heads=1, head_dim=16)
TEMPLATE, SAMPLING = Template("plain", "{question}", prefill=""), Sampling(max_tokens=4)


class Sampled(Exception):
    """Raised in place of sampling, with the random key."""


class Names:
    """A scorer with names only."""

    names = ("accuracy",)


@pytest.fixture
def stream(monkeypatch):
    """stream(call): the key that a call would have sampled with, as a tuple of integers."""

    def sample(params, prompts, config, key, **_):
        raise Sampled(tuple(jax.random.key_data(key).tolist()))

    for module in (sampling_of, distill, judged_samples):
        monkeypatch.setattr(module, "sample", sample)
    monkeypatch.setattr("r1jax.evaluation.evaluate.sample", sample)

    def of(call):
        with pytest.raises(Sampled) as found:
            call()
        return found.value.args[0]

    return of


def test_keys_and_seeds_are_apart_by_seed_and_by_every_name():
    names = [("zero",), ("r1",), ("zero", "samples"), ("zero", "minibatches"), ("samples", "zero"), ()]
    keys = {tuple(jax.random.key_data(stage_key(seed, *n)).tolist()) for seed in (0, 1) for n in names}
    seeds = {stage_seed(seed, *n) for seed in (0, 1) for n in names}
    assert len(keys) == len(seeds) == 12 and all(0 <= seed < 2**32 for seed in seeds)
    # Fixed values: CRC-32 is the same on every machine and in every process, as hash() is not.
    want = jax.random.fold_in(jax.random.key(3), 0xABDEF192)
    assert (jax.random.key_data(stage_key(3, "zero")) == jax.random.key_data(want)).all()
    assert stage_seed(3, "zero") == np.random.SeedSequence((3, 0xABDEF192)).generate_state(1)[0]


def test_stages_and_evaluations_of_one_seed_share_no_stream(stream, tiny_config, tiny_params, tmp_path):
    tokenizer = ByteTokenizer("{{ messages[0].content }}")
    model = Model(tiny_config, tiny_params, tokenizer)
    environment = Environment(PROBLEMS, TEMPLATE, Names(), SAMPLING, 0, prompt_width=2)
    rl = RLConfig(prompts=2, group=2)

    def rolled_out(stage, step):
        setup = make_setup(model, dataclasses.replace(environment, stage=stage), rl)
        problems = [environment.batch(step, rl.prompts, 0, 1)]
        keys = step_keys(dataclasses.replace(environment, stage=stage), step)
        return stream(lambda: collect(tiny_params, problems, keys.samples, setup))

    def evaluated(name):
        config = EvaluationConfig(samples=2)
        return stream(lambda: evaluate(model, PROBLEMS, TEMPLATE, Names(), SAMPLING, config, 0, name))

    def matched(name):
        one, other = (Model(CONFIG, init_params(param_specs(CONFIG), jax.random.key(i)), tokenizer) for i in range(2))
        match, save = distill.MatchConfig(prompts=2, samples=2), SaveConfig()
        with jax.set_mesh(make_mesh("1x1")):
            return stream(
                lambda: distill.match(one, other, PROBLEMS, TEMPLATE, SAMPLING, match, save, 0, tmp_path / name, name)
            )

    def sampled(name):
        arguments = (model, PROBLEMS, TEMPLATE, Names(), SAMPLING, 2, 0, tmp_path / name, name)
        return stream(lambda: list(judged_samples.judged_samples(*arguments)))

    found = [
        *(rolled_out(stage, step) for stage in ("zero", "reasoning_rl", "r1") for step in (0, 1)),
        *(evaluated(name) for name in ("evaluate_zero/reasoning", "evaluate_zero/general", "evaluate_r1/reasoning")),
        *(sampled(name) for name in ("cold_start_data", "rejection_sampling")),
        *(matched(name) for name in ("matched", "again")),
    ]
    assert len(set(found)) == len(found)
    assert found[0] == rolled_out("zero", 0) and found[6] == evaluated("evaluate_zero/reasoning")


@dataclasses.dataclass
class Found:
    """An evaluation without figures."""

    rewards: dict[str, float] = dataclasses.field(default_factory=dict)


def test_the_two_parts_of_each_evaluation_stage_have_streams_of_their_own(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(evaluation, "evaluate", lambda *arguments: seen.append(arguments[-1]) or (Found(), []))
    monkeypatch.setattr(evaluation, "load_model", lambda *_: Model(None, None, None))
    monkeypatch.setattr(evaluation, "load_judges", lambda *_: [])
    for name in ("rule_rewards", "routed_rewards"):
        monkeypatch.setattr(evaluation, name, lambda *_: contextlib.nullcontext())
    stages = [one for one in recipe_stages(r1.PRESETS["tiny"][1]) if one.function is evaluation.evaluation_stage]
    for stage in stages:
        evaluation.evaluation_stage(stage.settings, {"policy": tmp_path}, tmp_path / stage.name)
    assert len(set(seen)) == len(seen) == 2 * len(stages) > 10


@pytest.mark.parametrize("module", [sft, reward_model, pretrain])
def test_data_comes_in_another_order_in_each_stage(module, monkeypatch, tmp_path):
    """Batches, and the initial weights of a base model, depend on the name of the stage and are reproducible."""

    def batches(name, folder):
        seen = []

        def update(state, batch, *_, **__):
            seen.append((np.asarray(batch["tokens"]), np.asarray(state.params["embedding"])))
            return state, {}

        monkeypatch.setattr(module, "_update" if module is reward_model else "language_model_update", update)
        with jax.set_mesh(make_mesh("1x1")):
            if module is pretrain:
                corpus = CorpusConfig(documents=200)
                small = PretrainConfig(steps=2, batch=8, hidden_size=64, num_layers=1, corpus=corpus)
                problems = ProblemsConfig()
                pretrain.pretrain(small, SaveConfig(), find_template("think"), problems, 99, 0, folder, name=name)
            else:
                tokenizer = ByteTokenizer("{% for m in messages %}{{ m.content }}|{% endfor %}")
                model = Model(CONFIG, init_params(param_specs(CONFIG), jax.random.key(0)), tokenizer)
            if module is sft:
                talk = [[{"role": "user", "content": f"{i}"}, {"role": "assistant", "content": "y"}] for i in range(20)]
                sft.sft(model, talk, SFTConfig(epochs=1, batch=4, width=8), SaveConfig(), 0, folder, name)
            if module is reward_model:
                monkeypatch.setattr(reward_model, "_sums", lambda *_: (0.0, (0.0, 0.0)))
                pairs = [Pair(f"{i}?", "yes", "no") for i in range(20)]
                small = RewardModelConfig(batch=4, width=16)
                reward_model.train_reward_model(model, pairs, small, SaveConfig(), 0, folder, name)
        return seen

    one, again, other = (batches(name, tmp_path / f"{i}") for i, name in enumerate(("a", "a", "b")))
    assert len(one) >= 2
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert any(not np.array_equal(x[0], y[0]) for x, y in zip(one, other, strict=False))
    assert np.array_equal(one[0][1], other[0][1]) == (module is not pretrain)
