"""Which files belong to which config and split, by names and by README.md."""

from __future__ import annotations

import pytest

from r1jax.data.formats.layout import choose_files, find_configs
from r1jax.errors import UserError

GSM8K = (
    "main/train-00000-of-00001.parquet",
    "main/test-00000-of-00001.parquet",
    "socratic/test-00000-of-00001.parquet",
)


def chosen(names: list[str] | tuple[str, ...], config: str | None = None, split: str | None = None, card: str = ""):
    configs, default = find_configs(names, card)
    return choose_files(configs, default, config, split, "hf:o/n")


@pytest.mark.parametrize(
    ("names", "config", "split", "expected"),
    [
        (GSM8K, "main", "test", ["main/test-00000-of-00001.parquet"]),
        (GSM8K, "main", None, ["main/train-00000-of-00001.parquet"]),
        (GSM8K, "socratic", None, ["socratic/test-00000-of-00001.parquet"]),  # the only split
        (
            ["data/train-00001-of-00002.parquet", "data/train-00000-of-00002.parquet", "data/test.parquet"],
            None,
            None,
            ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
        ),
        (
            ["data/train_sft-00000-of-00001.parquet", "data/test_sft-00000-of-00001.parquet"],
            None,
            "test_sft",
            ["data/test_sft-00000-of-00001.parquet"],
        ),
        (["test.jsonl"], None, None, ["test.jsonl"]),
        (["train.jsonl", "dev.jsonl"], None, "validation", ["dev.jsonl"]),
        (["gsm8k_train.json", "gsm8k_test.json"], None, None, ["gsm8k_train.json"]),
        (
            ["train.csv", "train.parquet", "README.md", ".cache/train.jsonl", "dataset_infos.json"],
            None,
            None,
            ["train.parquet"],
        ),
        (["part-10.jsonl", "part-2.jsonl"], None, None, ["part-2.jsonl", "part-10.jsonl"]),
        (
            ["train/algebra/1.json", "train/geometry/1.json", "test/algebra/1.json"],
            None,
            "train",
            ["train/algebra/1.json", "train/geometry/1.json"],
        ),
        (["default/train/0000.parquet", "default/test/0000.parquet"], None, "test", ["default/test/0000.parquet"]),
        (["train.jsonl", "hard.jsonl"], None, "hard", ["hard.jsonl"]),
        (["contest.jsonl", "latest.jsonl"], None, "train", ["contest.jsonl", "latest.jsonl"]),  # no word is a split
    ],
)
def test_files_are_found_by_their_names(names: list[str], config: str, split: str, expected: list[str]) -> None:
    assert chosen(names, config, split) == expected


def test_files_of_another_format_and_name_are_warned_of(recwarn: pytest.WarningsRecorder) -> None:
    assert chosen(["train-00000-of-00001.parquet", "train.csv"]) == ["train-00000-of-00001.parquet"]
    assert not recwarn
    with pytest.warns(UserWarning, match=r"hf:o/n: b\.csv and 1 more is not read, because a\.jsonl has another format"):
        assert chosen(["a.jsonl", "b.csv", "c.csv"]) == ["a.jsonl"]


CARD = """---
license: mit
configs:
- config_name: main
  default: true
  data_files:
  - split: train
    path: files/a-*.jsonl
  - split: test
    path:
    - files/b.jsonl
    - extra/**
- config_name: lists
  data_files: "extra/[ab].jsonl"
- config_name: inner
  data_dir: nested
---
# Data
"""
FILES = ["files/a-1.jsonl", "files/a-2.jsonl", "files/b.jsonl", "extra/a.jsonl", "extra/x/c.jsonl", "nested/test.jsonl"]


@pytest.mark.parametrize(
    ("config", "split", "expected"),
    [
        (None, None, ["files/a-1.jsonl", "files/a-2.jsonl"]),
        ("main", "test", ["files/b.jsonl", "extra/a.jsonl", "extra/x/c.jsonl"]),
        ("lists", None, ["extra/a.jsonl"]),
        ("inner", "test", ["nested/test.jsonl"]),
    ],
)
def test_the_header_of_the_readme_comes_first(config: str | None, split: str | None, expected: list[str]) -> None:
    assert chosen(FILES, config, split, CARD) == expected


@pytest.mark.parametrize(
    "card", ["# none", "---\nconfigs: 3\n---\n", "---\n: [\n---\n", "---\nconfigs:\n- data_files: 3\n---\n"]
)
def test_other_headers_are_left_aside(card: str) -> None:
    assert chosen(["train.jsonl"], card=card) == ["train.jsonl"]


@pytest.mark.parametrize(
    ("names", "config", "split", "message"),
    [
        (GSM8K, None, "test", "hf:o/n has the configs main, socratic: choose one, as in hf:o/n:main"),
        (GSM8K, "mian", "test", "hf:o/n has no config 'mian': it has the configs main, socratic"),
        (GSM8K, "main", "dev", "hf:o/n:main has no split 'dev': it has test, train"),
        (["a.jsonl"], "main", None, "hf:o/n has no config 'main': it has no configs"),
        (
            ["test.jsonl", "dev.jsonl"],
            None,
            None,
            "hf:o/n has the splits validation, test: choose one, as in hf:o/n/valid",
        ),
        (
            ["data/train-00000-of-00003.parquet", "data/train-00002-of-00003.parquet"],
            None,
            None,
            "hf:o/n is incomplete, data/train-00001-of-00003.parquet is missing: download it again",
        ),
    ],
)
def test_what_is_not_there_is_named_with_what_is(names: list[str], config: str, split: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        chosen(names, config, split)
    assert str(error.value).startswith(message)
