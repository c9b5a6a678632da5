"""Stages that judge programs need a sandbox that works here; others do not."""

import dataclasses
import json
from pathlib import Path

import pytest

from experiments import distill, r1_zero, speedrun
from r1jax import cli
from r1jax.data.problems.dataset import ProblemsConfig
from r1jax.errors import UserError
from r1jax.pipeline.plan import make_plan
from r1jax.recipe.config import RecipeConfig
from r1jax.recipe.table import recipe_stages
from r1jax.rewards.code import isolation
from r1jax.rewards.code.config import CodeConfig
from r1jax.rewards.config import VerifierConfig
from tests.helpers.paths import FIXTURES

PROGRAMS = ProblemsConfig("code", train_size=8, held_out_size=8)
ANSWERS = ProblemsConfig("word-problems", train_size=40, held_out_size=8)
VERIFIER = VerifierConfig(code=CodeConfig(isolation="bwrap"))


@pytest.fixture(autouse=True)
def without_sandboxes(monkeypatch):
    monkeypatch.setattr(isolation, "missing", lambda level: f"no {level} here")


def r1_stages(problems):
    return recipe_stages(RecipeConfig(problems=problems, verifier=VERIFIER))


def r1_zero_stages(problems, rewards=("accuracy",)):
    return r1_zero.stages(r1_zero.Config(problems=problems, rewards=rewards, verifier=VERIFIER))


def distill_stages(problems):
    made = {stage.name: stage.settings for stage in r1_stages(problems)}
    rl = json.loads(cli.to_json(made["reasoning_rl"]))
    teacher = distill.Teacher(made["evaluation_r1"], base_template="r1", rl=rl, judges={})
    return distill.student_stages(distill.Config(), Path("none"), teacher)


def refused(stages):
    """The names of the stages whose check raises."""
    names = set()
    for stage in stages:
        try:
            stage.check()
        except UserError as error:
            assert "code.isolation=bwrap does not work here (no bwrap here)" in str(error)
            names.add(stage.name)
    return names


R1 = {"zero", "cold_start_data", "reasoning_rl", "reasoning_rl_no_language", "rejection_sampling", "r1"}
R1 |= {f"evaluation_{name}" for name in ("base", "zero", "cold_start", "reasoning_rl", "sft", "r1")}
R1 |= {"evaluation_reasoning_rl_no_language"}


def test_stages_that_judge_programs_need_the_level_that_is_demanded(tmp_path):
    assert refused(r1_stages(PROGRAMS)) == R1
    zero = {"evaluation_before", "r1-zero", "evaluation_after"}
    assert refused(r1_zero_stages(PROGRAMS)) == refused(r1_zero_stages(ANSWERS, ("code=0.5", "format"))) == zero
    students = {f"evaluation_{name}" for name in ("student", "distilled", "student_rl")}
    assert refused(distill_stages(PROGRAMS)) == {"student_rl", *students}
    for stages in (r1_stages, r1_zero_stages):
        with pytest.raises(UserError, match="does not work here"):
            make_plan(stages(PROGRAMS), tmp_path)


def test_programs_of_a_transfer_set_count():
    task = dataclasses.replace(speedrun.PRESETS["small"][1].task, problems=ANSWERS, transfer=PROGRAMS)
    base = str(FIXTURES / "llama_tied")
    config = dataclasses.replace(speedrun.PRESETS["small"][1], base=base, task=task, verifier=VERIFIER)
    assert refused(speedrun.stages(config)) == {speedrun.BEFORE, speedrun.AFTER}


def test_stages_that_judge_answers_need_no_sandbox():
    assert not refused([*r1_stages(ANSWERS), *r1_zero_stages(ANSWERS), *distill_stages(ANSWERS)])
