"""Configs of the recipe: refused settings, presets, and files of the user."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from experiments.r1 import PRESETS, check
from r1jax.data.problems import general
from r1jax.data.problems.dataset import ProblemsConfig
from r1jax.errors import UserError
from r1jax.pipeline.plan import make_plan
from r1jax.recipe.config import RecipeConfig as Config
from r1jax.recipe.sft import SFTConfig
from r1jax.recipe.stage_settings import routes
from r1jax.recipe.table import recipe_stages
from r1jax.rewards.routing import parse_routes
from r1jax.sampling.processors import Sampling
from tests.helpers.paths import ROOT


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general_steps": 51}, "--general-steps=51"),
        ({"final_temperature": 0.0}, "--final-temperature"),
        ({"cold_start_rows": -1}, "--cold-start-rows"),
        ({"mesh": "3x1"}, "3 devices"),
        ({"mesh": "1x1x2"}, "no experts for an expert axis of 2"),
        ({"sft": SFTConfig(mtp_weight=0.1)}, "sft.mtp-weight=0.1: the model has no layers of multi-token prediction"),
        ({"problems": ProblemsConfig()}, "trains a model on word-problems only: give --base"),
        ({"problems": ProblemsConfig("none.jsonl")}, "no file none.jsonl: give --problems.source"),
        ({"general": ProblemsConfig("none.jsonl")}, "no file none.jsonl: give --general.source"),
        ({"template": "number", "zero_template": "number"}, "not a chat template with reasoning"),
        (
            {"template": "r1-zero-chat", "zero_template": "r1-zero-chat"},
            "not a chat template with reasoning and a summary",
        ),
        ({"cold_start": Path("none.jsonl")}, "no file none.jsonl"),
        ({"helpfulness": "f.py:judge=0.5"}, "a judge has no weight"),
        ({"helpfulness": "smollm2", "helpfulness_data": Path("x.jsonl")}, "leave one of them out"),
        ({"helpfulness": str(ROOT / "tests" / "fixtures" / "qwen2")}, "qwen2 has no scalar head"),
        ({"rewriter": "smollm2", "no_zero": True}, "leave --no-zero and --cold-start out"),
        ({"rewriter": str(ROOT / "tests" / "fixtures" / "reward")}, "reward model, which gives no tokens"),
        ({"no_zero": True, "cold_start_rows": 0}, "--cold-start-rows is 0"),
        ({"helpfulness": "none.py:f"}, "none.py"),
        ({"general": ProblemsConfig(source="arithmetic")}, "--general.source=arithmetic needs --base, --general-data"),
        ({"general_data": Path("none.parquet")}, "no file none.parquet"),
        ({"rewrite_prompt": "Rewrite this."}, "no {reasoning}"),
        ({"general_share": 1.5}, "--general-share=1.5"),
        ({"sampling": Sampling(temperature=0.0)}, "--sampling.temperature"),
        (
            {"problems": ProblemsConfig(source="arithmetic", operations="*"), "base": "smollm2", "no_zero": True},
            "no rule solves arithmetic",
        ),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(changes, message):
    with pytest.raises(UserError, match=message):
        check(dataclasses.replace(Config(), **changes))


@pytest.mark.parametrize(("field", "fixture"), [("harmlessness", "reward"), ("base", "qwen2")])
def test_a_judge_of_reasoning_whose_template_cuts_it_is_refused_before_anything_runs(field, fixture, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(ROOT / "tests" / "fixtures" / fixture, folder)
    (folder / "chat_template.jinja").write_text("{{ messages[-1].content.split('</think>')[-1] }}")
    with pytest.raises(UserError, match="leaves the reasoning out"):
        check(dataclasses.replace(Config(), **{field: str(folder)}))


def test_routes_follow_the_paper():
    assert parse_routes(routes(Config(), 0.5, general=True)) == {
        **{kind: {"accuracy": 1.0, "format": 1.0, "language": 0.5} for kind in ("story", "sum")},
        **{kind: {"helpfulness": 1.0, "format": 1.0, "language": 0.5} for kind in general.HELPFULNESS},
        "safety": {"harmlessness": 1.0, "format": 1.0, "language": 0.5},
    }
    assert routes(Config(), 0.0) == ("story,sum: accuracy format",)


def test_a_function_of_the_user_s_takes_a_model_s_place_and_its_file_counts(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("from r1jax.rewards import reward\n\n@reward\ndef nice(problem, completion):\n    return 0.5\n")
    config = dataclasses.replace(Config(), helpfulness=f"{file}:nice")
    check(config)
    graph = {stage.name: stage for stage in recipe_stages(config)}
    assert "helpfulness" not in graph and "harmlessness" in graph
    assert graph["r1"].files == {"helpfulness_file": file}
    assert parse_routes(graph["r1"].settings.routes)["facts"] == {f"{file}:nice": 1.0, "format": 1.0, "language": 1.0}
    assert graph["evaluation_r1"].settings.general.functions == (("helpfulness", f"{file}:nice"),)
    before = {one.stage.name: one.status for one in make_plan(recipe_stages(config), tmp_path / "out")}
    assert set(before.values()) == {"run"}


def test_files_that_problems_come_from_are_hashed(tmp_path):
    file = tmp_path / "problems.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"q{i}", "answer": i}) + "\n" for i in range(40)))
    config = dataclasses.replace(Config(), problems=ProblemsConfig(source=str(file)))
    files = {stage.name: set(stage.files.values()) for stage in recipe_stages(config)}
    reading = {"zero", "cold_start_data", "reasoning_rl", "r1", "evaluation_base", "rejection_sampling"}
    assert all(file in files[name] for name in reading)
    assert not any(file in files[name] for name in ("base", "sft", "helpfulness"))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_make_a_graph(preset, monkeypatch, tmp_path):
    (tmp_path / "weights").write_text("")
    monkeypatch.setattr("r1jax.recipe.base_model.resolve", lambda path: (tmp_path / "weights", "gguf"))
    config = PRESETS[preset][1]
    if config.base == "smollm2":
        from r1jax.models.shapes import SHAPES

        monkeypatch.setattr("r1jax.recipe.base_model.read_config", lambda path: SHAPES["smollm2"])
    names = [stage.name for stage in recipe_stages(config)]
    wanted = ["zero", "cold_start_data", "cold_start", "reasoning_rl", "rejection_sampling", "sft", "r1"]
    assert [name for name in names if name in wanted] == wanted


def test_prompts_that_do_not_fit_the_context_of_the_base_are_refused(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(ROOT / "tests" / "fixtures" / "qwen2", folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": 80}))
    with pytest.raises(UserError, match=r"the longest prompt has .* beyond the model's context of 80"):
        check(Config(base=str(folder), zero_template="r1"))
