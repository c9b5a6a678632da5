"""The settings of a stage of RL, and the width that it pads prompts to."""

import contextlib
import dataclasses
import json
import types

import pytest

from r1jax.algorithms.prime import PRIME
from r1jax.data.problems.dataset import ProblemsConfig
from r1jax.errors import UserError
from r1jax.models.config import Latent, ModelConfig
from r1jax.recipe import reasoning_rl
from r1jax.recipe.costs import costs
from r1jax.recipe.reasoning_rl import ReasoningRLSettings, reasoning_rl_stage
from r1jax.rewards.config import VerifierConfig
from r1jax.rl.config import RLConfig
from r1jax.sampling.processors import Sampling
from r1jax.tokenizer import ByteTokenizer
from r1jax.training.loop import SaveConfig


@pytest.mark.parametrize("to_held_out", [False, True])
def test_prompts_are_padded_to_the_longest_of_training_and_if_asked_of_held_out_problems(
    to_held_out, tmp_path, monkeypatch
):
    files = []
    for name, prompt in (("train", "1 + 1?"), ("short", "0 + 2?"), ("long", "1 + 1 + 1 - 1?")):
        files.append(tmp_path / f"{name}.jsonl")
        files[-1].write_text(json.dumps({"prompt": prompt, "answer": "2"}) + "\n")
    model = types.SimpleNamespace(tokenizer=ByteTokenizer(), config=types.SimpleNamespace(context_length=4096))
    widths = []
    monkeypatch.setattr(reasoning_rl, "load_model", lambda *_: model)
    monkeypatch.setattr(reasoning_rl, "rule_rewards", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(reasoning_rl, "train_policy", lambda model, e, *_, **__: widths.append(e.prompt_width))
    monkeypatch.setattr(reasoning_rl, "totals", lambda *_: {})
    settings = ReasoningRLSettings(
        rl=RLConfig(),
        problems=ProblemsConfig(source=str(files[0]), held_out_source=str(files[1])),
        template="think",
        sampling=Sampling(max_tokens=8),
        verifier=VerifierConfig(),
        seed=0,
        save=SaveConfig(),
        pad_to_held_out=to_held_out,
    )
    for held_out in files[1:]:
        problems = dataclasses.replace(settings.problems, held_out_source=str(held_out))
        reasoning_rl_stage(dataclasses.replace(settings, problems=problems), {"policy": tmp_path}, tmp_path)
    assert widths[1] - widths[0] == (len(" + 1 + 1") if to_held_out else 0)


PLAIN = {"problems": ProblemsConfig(), "template": "think", "sampling": Sampling(), "verifier": VerifierConfig()}
PLAIN |= {"seed": 0, "save": SaveConfig()}


def test_the_largest_number_of_tokens_has_all_attempts_at_sampling():
    model = ModelConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_layers=1, num_heads=1, num_kv_heads=1)
    for algorithm, attempts in ((PRIME(), 4), (PRIME(drop_equal_groups=False), 1)):
        rl = RLConfig(steps=3, prompts=2, group=5, algorithm=algorithm)
        settings = ReasoningRLSettings(rl=rl, **PLAIN | {"sampling": Sampling(max_tokens=7)}, rewards=("accuracy",))
        assert costs(settings, model, "1x1")["tokens"] == f"{attempts * 3 * 2 * 5 * 7} at most"


@pytest.mark.parametrize(("latent", "devices"), [(None, 4), (Latent(kv_rank=14, nope_dim=6, rope_dim=2), 1)])
def test_the_model_axis_splits_the_cache_by_heads_which_share_that_of_latent_attention(latent, devices):
    """Growth of the memory with the tokens in the cache; all else is the same."""
    model = ModelConfig(num_layers=1, num_heads=4, num_kv_heads=4, head_dim=8, latent=latent)
    entry = 4 * (16 if latent else 2 * 4 * 8)  # bytes in float32
    rl = RLConfig(prompts=2, group=512)

    def memory(tokens):
        settings = ReasoningRLSettings(
            rl=rl, **PLAIN | {"sampling": Sampling(max_tokens=tokens)}, rewards=("accuracy",)
        )
        return float(costs(settings, model, "2x4")["memory"].removesuffix(" GiB"))

    growth = 1024 * 100_000 * entry / 2 / devices / 2**30
    assert memory(200_000) - memory(100_000) == pytest.approx(growth, abs=0.011)


@pytest.mark.parametrize(
    ("rewards", "listed"),
    [
        ({"rewards": ("format", "accuracy=0")}, "format"),
        ({"routes": ("sum: accuracy format", "safety: harmlessness format")}, "format, harmlessness"),
    ],
)
def test_prime_without_the_reward_that_it_learns_from_is_refused(rewards, listed):
    prime = RLConfig(algorithm=PRIME())
    with pytest.raises(UserError, match=f"PRIME learns from the reward accuracy, .* rewards {listed}: add accuracy"):
        ReasoningRLSettings(rl=prime, **PLAIN, **rewards)
    ReasoningRLSettings(rl=RLConfig(), **PLAIN, **rewards)
    ReasoningRLSettings(rl=prime, **PLAIN, rewards=("format", "accuracy=0.5"))
