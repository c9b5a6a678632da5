"""Sources of rows: files, folders, and data sets of a local hub."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from r1jax.data.formats.conversations import read_conversations
from r1jax.data.formats.rows import read_rows
from r1jax.data.formats.sources import is_source, origin, with_split
from r1jax.errors import UserError
from tests.helpers.hub import TOKEN, Hub, use


def rows(source: str | Path) -> list[Any]:
    return [row["n"] for _, row in read_rows(source)]


def refused(source: str) -> str:
    with pytest.raises(UserError) as error:
        rows(source)
    assert "\n" not in str(error.value)
    return str(error.value)


def lines(*numbers: int) -> str:
    return "\n".join(json.dumps({"n": n}) for n in numbers)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    (root / "data").mkdir(parents=True)
    for name, numbers in (
        ("train-00000-of-00002", [1, 2]),
        ("train-00001-of-00002", [3]),
        ("test-00000-of-00001", [4]),
    ):
        pyarrow.parquet.write_table(pyarrow.table({"n": numbers}), root / "data" / f"{name}.parquet")
    return root


def test_a_folder_of_shards_is_read_by_split(folder: Path) -> None:
    assert rows(folder) == rows(f"{folder}/train") == rows(folder / "data") == [1, 2, 3]
    assert rows(f"{folder}/test") == rows(f"{folder}:default/test") == [4]
    assert rows(folder / "data" / "train-00001-of-00002.parquet") == [3]
    assert refused(f"{folder}/dev") == f"{folder} has no split 'dev': it has test, train"
    assert refused(f"{folder}/none.jsonl") == f"no file {folder}/none.jsonl: check the path"
    locations = [location for location, _ in read_rows(folder)]
    assert locations[2] == f"{folder}/data/train-00001-of-00002.parquet, row 1"
    (folder / "data" / "train-00000-of-00002.parquet").unlink()
    assert "train-00000-of-00002.parquet is missing" in refused(str(folder))


def test_a_folder_without_data_files_is_refused(tmp_path: Path) -> None:
    assert refused(str(tmp_path)) == f"{tmp_path} is empty: give a folder with data files"
    (tmp_path / "data-00000-of-00001.arrow").touch()
    assert "save it with to_parquet instead of save_to_disk" in refused(str(tmp_path))


def test_what_is_not_a_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    for name in ("pipe.jsonl", "zero.jsonl"):
        assert refused(str(tmp_path / name)) == f"{tmp_path / name} is not a regular file: check the path"
    assert refused(str(tmp_path)) == f"{tmp_path} is empty: give a folder with data files"


def test_a_folder_may_have_the_name_of_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "rows.json"
    folder.mkdir()
    (folder / "_SUCCESS").touch()
    for i in range(2):
        (folder / f"part-0000{i}-abc.c000.json").write_text(lines(i))
    assert rows(folder) == [0, 1]


def test_other_readers_take_folders_and_formats(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    (tmp_path / "part-1.json").write_text(json.dumps([{"messages": messages}]))
    (tmp_path / "part-2.json").write_text(json.dumps({"rows": [{"messages": messages}]}))
    assert read_conversations(tmp_path) == [messages, messages]


def test_sources_are_told_from_other_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert all(map(is_source, ["set", "set/test", "set:a/test", "x.JSON", "x.csv.gz", "hf:a/b", str(folder)]))
    assert not any(map(is_source, ["arithmetic", "gym:x", "other", "other/test", ""]))
    assert with_split("set", "test") == with_split("set/train", "test") == "set/test"
    assert with_split("hf:a/b@v1:c/train", "test") == "hf:a/b@v1:c/test"
    with pytest.raises(UserError, match=r"x\.jsonl is a file and has no split 'test'"):
        with_split("x.jsonl", "test")
    assert origin("set/test") == Path("set") and origin("x.jsonl") == Path("x.jsonl")


@pytest.fixture
def data(hub: Hub) -> Hub:
    """Data sets of two configs, of one config that README.md declares, of code, and of one that asks for a token."""
    hub.add(
        "datasets/org/two", {f"{c}/{s}.jsonl": lines(i) for i, (c, s) in enumerate([("a", "train"), ("b", "test")])}
    )
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - {split: train, path: x/*.json}\n---\n"
    hub.add(
        "datasets/org/card",
        {"README.md": card, "x/1.json": lines(7), "train.jsonl": lines(8)},
        revisions=("main", "v1"),
    )
    hub.add("datasets/org/script", {"script.py": "", "README.md": ""})
    hub.add("datasets/org/gated", {"test.jsonl": lines(9)}, access="gated")
    return hub


def test_a_data_set_of_the_hub_is_read_by_config_and_split(data: Hub) -> None:
    assert rows("hf:org/two:a") == rows("hf:org/two:a/train") == [0]
    assert rows("hf:org/two:b/test") == rows("hf:org/two/b/test.jsonl") == [1]
    assert rows("hf:org/card@v1") == rows("hf:org/card/train") == [7]
    assert rows("hf:org/card/train.jsonl") == [8]
    assert data.downloaded() == {"a/train.jsonl", "b/test.jsonl", "x/1.json", "README.md", "train.jsonl"}
    assert [location for location, _ in read_rows("hf:org/two:a")] == ["hf:org/two/a/train.jsonl, line 1"]
    assert origin("hf:org/two:a").name == data.repos["datasets/org/two"].commit


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf:two", "hf:two: write hf:ORG/NAME, hf:ORG/NAME/SPLIT or hf:ORG/NAME:CONFIG/SPLIT"),
        (
            "hf:org/none",
            "127.0.0.1:PORT has no data set org/none, or it is private and no token is set: check the name",
        ),
        ("hf:org/two", "hf:org/two has the configs a, b: choose one, as in hf:org/two:a"),
        ("hf:org/two:a/test", "hf:org/two:a has no split 'test': it has train"),
        ("hf:org/card@v2", "org/card has no revision v2: it has main, v1"),
        (
            "hf:org/script",
            "hf:org/script has README.md and no data files: its script is not executed, but "
            "hf:org/script@refs/convert/parquet may have the rows",
        ),
        (
            "hf:org/gated",
            "hf:org/gated is gated and no token is set: accept its terms at http://127.0.0.1:PORT/datasets/org",
        ),
    ],
)
def test_a_data_set_that_cannot_be_read_is_one_line(data: Hub, source: str, message: str) -> None:
    assert refused(source).startswith(message.replace("PORT", data.url.rpartition(":")[2]))


def test_a_part_of_a_split_in_the_cache_is_not_taken_for_the_whole(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the attempts of huggingface_hub
    hub.add("datasets/org/parts", {"train/1.jsonl": lines(1), "train/2.jsonl": lines(2, 3), "test.jsonl": lines(4)})
    hub.cut = {"train/2.jsonl"}
    assert "hf:org/parts cannot be downloaded" in refused("hf:org/parts")
    assert rows("hf:org/parts/test") == [4]
    use(monkeypatch, "http://127.0.0.1:9", tmp_path / "hub-cache", offline=True)
    assert rows("hf:org/parts/test") == [4] and rows("hf:org/parts/train/1.jsonl") == [1]
    assert refused("hf:org/parts") == (
        "the cached hf:org/parts is incomplete (train/2.jsonl is missing): connect to the hub and run the command "
        "again, which resumes the download"
    )
    hub.cut = set()
    use(monkeypatch, hub.url, tmp_path / "hub-cache")
    assert rows("hf:org/parts") == [1, 2, 3]


def test_the_cache_has_what_was_downloaded(data: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for source in ("hf:org/two:a", "hf:org/gated"):
        rows(source)
    use(monkeypatch, "http://127.0.0.1:9", tmp_path / "hub-cache", offline=True)
    assert rows("hf:org/two:a") == [0] and rows("hf:org/gated/test") == [9]
    assert refused("hf:org/two:b") == (
        "hf:org/two has no config 'b': it has the configs a (in the cache; the hub was not reached)"
    )
    assert "the data set hf:org/card is not in the cache" in refused("hf:org/card")
