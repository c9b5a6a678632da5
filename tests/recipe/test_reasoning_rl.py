"""The width that a stage of RL pads prompts to."""

import contextlib
import dataclasses
import json
import types

import pytest

from r1jax.data.problems.dataset import ProblemsConfig
from r1jax.recipe import reasoning_rl
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
