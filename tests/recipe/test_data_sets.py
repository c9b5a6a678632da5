"""Data sets that replace what stages make: from the hub, by split, as the stages read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from r1jax.pipeline.record import differences, make_record
from r1jax.recipe import rejection_sampling, reward_models, sft
from r1jax.recipe.config import RecipeConfig
from r1jax.recipe.table import recipe_stages
from tests.helpers.hub import Hub


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def said(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": text}]}


def replies(found: Any) -> list[str]:
    return [messages[-1]["content"] for messages in found]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """(config, stage) -> what the stage read of its data set, and its settings; nothing is trained or sampled."""
    for module in (sft, reward_models):
        monkeypatch.setattr(module, "load_model", lambda *_: None)
    monkeypatch.setattr(sft, "sft", lambda model, data, *_, name: (None, replies(data)))
    monkeypatch.setattr(reward_models, "train_reward_model", lambda model, data, *_, name: (None, data))
    monkeypatch.setattr(rejection_sampling, "sample_policy", lambda *_: [])
    monkeypatch.setattr(
        rejection_sampling, "write_conversations", lambda rows, *_: replies(row["messages"] for row in rows)
    )

    def run(config: RecipeConfig, name: str) -> tuple[Any, Any]:
        stage = next(one for one in recipe_stages(config) if one.name == name)
        return stage.function(stage.settings, {"policy": tmp_path, **stage.files}, tmp_path / name), stage

    return run


def test_conversations_may_come_from_a_split_of_the_hub_or_a_folder(read: Any, hub: Hub, tmp_path: Path) -> None:
    files = {"train.jsonl": lines(said("a"), said("b")), "test.jsonl": lines(said("c"))}
    commit = hub.add("datasets/org/talk", files).commit
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert read(RecipeConfig(cold_start="hf:org/talk"), "cold_start")[0] == ["a", "b"]
    found, stage = read(RecipeConfig(cold_start="hf:org/talk/test"), "cold_start")
    assert found == ["c"] and stage.files["conversations"].name == commit
    assert read(RecipeConfig(cold_start=f"{tmp_path}/test"), "cold_start")[0] == ["c"]
    assert read(RecipeConfig(cold_start=str(tmp_path)), "cold_start")[0] == ["a", "b"]
    config = RecipeConfig(general_data="hf:org/talk/test", general_repeats=2)
    assert read(config, "rejection_sampling")[0] == ["c", "c"]


def test_judgements_may_come_from_the_hub(read: Any, hub: Hub) -> None:
    hub.add("datasets/org/pairs", {"train.jsonl": lines({"prompt": "p", "chosen": "c", "rejected": "r"})})
    hub.add("datasets/org/safe", {"test.jsonl": lines({"prompt": "p", "response": "r", "safe": True})})
    config = RecipeConfig(helpfulness_data="hf:org/pairs", harmlessness_data="hf:org/safe/test")
    assert read(config, "helpfulness")[0] == [reward_models.Pair("p", "c", "r")]
    assert read(config, "harmlessness")[0] == [reward_models.Labelled("p", "r", True)]


def test_another_split_is_another_setting_and_another_place_of_a_file_is_none(tmp_path: Path) -> None:
    def stage(source: Path | str) -> Any:
        return next(one for one in recipe_stages(RecipeConfig(cold_start=str(source))) if one.name == "cold_start")

    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for name in ("train", "test"):
            (tmp_path / folder / f"{name}.jsonl").write_text(lines(said(name)))

    def changes(before: Path | str, after: Path | str) -> set[str]:
        earlier, now = ({**make_record(stage(one), {"base": "x"})} for one in (before, after))
        return set(differences(earlier, now, stage(after)))

    assert changes(f"{tmp_path}/one/train", f"{tmp_path}/one/test") == {"source"}
    assert not changes(tmp_path / "one" / "train.jsonl", tmp_path / "two" / "train.jsonl")
