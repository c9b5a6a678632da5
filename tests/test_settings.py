"""Marks on the fields of configs, and configs read back from JSON."""

import dataclasses
import json
from typing import Annotated

import pytest

from r1jax import cli
from r1jax.algorithms.grpo import GRPO
from r1jax.cli import Named
from r1jax.data.problems.dataset import ProblemsConfig
from r1jax.evaluation.evaluate import EvaluationConfig
from r1jax.pipeline.record import changes
from r1jax.recipe.evaluation import EvaluationSettings, GeneralPrompts
from r1jax.rewards.config import VerifierConfig
from r1jax.rl.config import RLConfig
from r1jax.sampling.processors import Sampling
from r1jax.settings import MAY_CHANGE, MAY_RISE, from_json, marked, may_change
from r1jax.training.loop import SaveConfig


@dataclasses.dataclass(frozen=True)
class Outer:
    save: SaveConfig = SaveConfig()
    group: Sampling = may_change(Sampling())
    rl: RLConfig = RLConfig()
    name: str = "x"


def test_marks_are_found_with_their_paths_and_a_marked_group_is_one():
    found = marked(Outer(), MAY_CHANGE)
    assert {"save.every", "save.keep_last", "save.keep_best", "group", "rl.microbatch", "rl.logprob_chunk"} == set(
        found
    )
    assert marked(Outer(), MAY_RISE) == ["rl.steps"]
    assert marked({}, MAY_CHANGE) == []


def test_a_marked_field_keeps_its_default_and_its_flag(capsys):
    assert Outer().group == Sampling() and RLConfig().microbatch == 0
    config = cli.parse({"a": ("", Outer())}, "a", ["--rl.microbatch=16", "--save.every=3"])
    assert (config.rl.microbatch, config.save.every) == (16, 3)
    with pytest.raises(SystemExit):
        cli.parse({"a": ("", Outer())}, "a", ["--help"])
    assert "Sequences in one backward pass" in " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_settings_come_back_from_json():
    general = GeneralPrompts(
        problems=ProblemsConfig("general", train_size=3), template="r1", judges=("a",), functions=(("b", "f.py:b"),)
    )
    settings = EvaluationSettings(
        evaluation=EvaluationConfig(),
        problems=ProblemsConfig(),
        template="r1",
        general=general,
        sampling=Sampling(top_k=3),
        weights="float32",
        verifier=VerifierConfig(),
        seed=3,
    )
    read = json.loads(cli.to_json(settings))
    assert from_json(EvaluationSettings, read) == settings
    assert from_json(EvaluationSettings, read | {"general": None, "unknown": 1}).general is None
    del read["problems"]["digits"]
    assert from_json(EvaluationSettings, read) == settings


@dataclasses.dataclass(frozen=True)
class Other:
    """Another class with the same fields and defaults as GRPO."""

    beta: float = 0.0


@dataclasses.dataclass(frozen=True)
class Chosen:
    part: Annotated[GRPO | Other, Named((("grpo", GRPO()), ("other", Other())))] = GRPO()


def test_a_part_chosen_by_name_is_another_one_in_json_though_its_fields_are_equal():
    first, second = Chosen(), Chosen(Other())
    record = json.loads(cli.to_json(first))
    assert "part.class" in changes(record, second) and not changes(record, first)
    assert not changes({}, first) and "part.class" in changes({}, second)
    for config in (first, second):
        assert from_json(Chosen, json.loads(cli.to_json(config))) == config
