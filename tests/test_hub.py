"""Models of the hub: what is downloaded, what the cache gives without a network, and one line for each failure."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

import r1jax
from r1jax import hub as client
from r1jax.checkpoints import load as loading
from r1jax.errors import UserError
from r1jax.pipeline.manifest import file_hash
from r1jax.recipe.base_model import base_description, base_title
from tests.helpers.hub import TOKEN, Hub, forget, use
from tests.helpers.paths import FIXTURES, ROOT

MODEL = FIXTURES / "llama_tied"
NAME = "org/tiny"


@pytest.fixture
def tiny(hub: Hub) -> Hub:
    """A hub with a model and files that are not needed."""
    unused = ("pytorch_model.bin", "original/model.safetensors", "tiny.gguf", "consolidated.safetensors", "README.md")
    files = {path.name: path.read_bytes() for path in MODEL.iterdir()}
    hub.add(f"models/{NAME}", files | dict.fromkeys(unused, b"unused"), revisions=("main", "v1", "refs/pr/4"))
    return hub


def refused(name: str) -> str:
    with pytest.raises(UserError) as error:
        r1jax.load(name)
    text = str(error.value)
    assert "\n" not in text and ": " in text and len(text) < 400
    return text


def test_a_model_is_loaded_by_its_name_from_the_files_that_it_needs(tiny: Hub) -> None:
    model, local = r1jax.load(NAME), r1jax.load(MODEL)
    jax.tree.map(np.testing.assert_array_equal, model.params, local.params)
    assert model.config == local.config and model.tokenizer.encode("abc") == local.tokenizer.encode("abc")
    needed = {name for name in tiny.repos[f"models/{NAME}"].files if name in client._SMALL or name == client.SINGLE}
    assert tiny.downloaded() == needed >= {"config.json", "model.safetensors", "tokenizer_config.json"}
    before = len(tiny.requests)
    r1jax.load(NAME)
    assert len(tiny.requests) == before  # the same commit throughout a process
    forget()
    tiny.requests.clear()
    assert loading.read_config(f"{NAME}@refs/pr/4") == local.config
    assert not tiny.downloaded()  # the same commit is cached


def test_the_commit_names_the_contents(tiny: Hub) -> None:
    commit = tiny.repos[f"models/{NAME}"].commit
    folder, kind = loading.resolve(NAME)
    assert folder.name == commit and kind == "huggingface" and folder.is_absolute()
    (folder / "from another program.bin").write_bytes(b"x")
    assert file_hash(folder) == commit
    assert base_title(NAME) == base_description(NAME, Path("x")) == f"org/tiny (commit {commit[:12]})"
    assert base_title(str(folder)) == commit  # the last part of the path, as for other folders
    assert [loading.short_name(n) for n in (NAME, f"{NAME}@refs/pr/4")] == ["tiny", "tiny@refs-pr-4"]


def test_a_local_folder_of_the_same_name_is_used(tiny: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(MODEL, tmp_path / "org" / "tiny")
    monkeypatch.chdir(tmp_path)
    assert loading.resolve(NAME) == (Path(NAME), "huggingface")
    (tmp_path / "org" / "empty").mkdir()
    (tmp_path / "org" / "file").touch()
    assert refused("org/empty").startswith("org/empty is empty, and a path comes before a model of the hub: use a")
    assert refused("org/file").startswith("org/file is not a checkpoint, and a path comes before a model of the hub")
    assert tiny.requests == []


def test_shards_are_those_of_the_index(hub: Hub, tmp_path: Path) -> None:
    model = r1jax.load(MODEL)
    r1jax.save_huggingface(model, tmp_path / "parts", shard_bytes=1)
    files = {path.name: path.read_bytes() for path in (tmp_path / "parts").iterdir()}
    hub.add(f"models/{NAME}", files | {"consolidated.00.safetensors": b"unused"})
    jax.tree.map(np.testing.assert_array_equal, r1jax.load(NAME).params, model.params)
    assert hub.downloaded() == set(files)
    (shard, *_) = sorted(name for name in files if name.startswith("model-0"))
    del hub.repos[f"models/{NAME}"].files[shard]
    forget()
    assert f"org/tiny has no file {shard}, which its" in refused(NAME)


def test_a_gated_or_private_model_needs_a_token(tiny: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = tiny.repos[f"models/{NAME}"]
    repo.access = "gated"
    page = f"accept its terms at {tiny.url}/{NAME} and set HF_TOKEN"
    assert refused(NAME).startswith(f"{NAME} is gated and no token is set: {page}")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert "is gated and the token in HF_TOKEN has no access" in refused(NAME)
    repo.access = "private"
    assert "has no model org/tiny, or it is private and the token in HF_TOKEN has no access" in refused(NAME)
    for access in ("gated", "private"):
        forget()
        repo.access = access
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        assert r1jax.load(NAME)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("org/none", "there is no folder org/none, and 127.0.0.1:PORT has no model org/none, or it is private and no"),
        (f"{NAME}@v2", "org/tiny has no revision v2: it has main, v1, refs/pr/4"),
        ("org/code", "Mamba"),
        ("org/none-listed", "model.safetensors.index.json is damaged (ValueError('it lists no files'))"),
        ("org/adapter", "org/adapter is an adapter: merge it into its base model"),
        ("org/gguf", "org/gguf has GGUF files: download one with 'hf download org/gguf a.gguf --local-dir .'"),
        ("org/old", "org/old has pytorch_model.bin and no model.safetensors: give a revision that has one"),
        ("org/bare", "org/bare has no config.json: give a model in the format of transformers"),
        ("org/mute", "org/mute has no tokenizer.json and no tokenizer.model: give another revision, or save the model"),
        ("org/down", "127.0.0.1:PORT answers 503 for org/down: wait and run the command again"),
        ("org/odd", "127.0.0.1:PORT answers 400 for org/odd: check HF_ENDPOINT and HF_TOKEN"),
        ("org/a--b", "org/a--b is not a name on the hub"),
        ("nowhere", "nowhere does not exist: use a Hugging Face folder"),
    ],
)
def test_a_model_that_cannot_be_used_is_one_line(tiny: Hub, name: str, message: str) -> None:
    files = {path.name: path.read_bytes() for path in MODEL.iterdir()}
    config = json.loads(files["config.json"])
    tiny.add("models/org/code", files | {"config.json": json.dumps(config | {"architectures": ["Mamba"]})})
    tiny.add("models/org/adapter", {"adapter_config.json": "{}", "adapter_model.safetensors": ""})
    tiny.add("models/org/gguf", {"a.gguf": "", "b.gguf": "", "config.json": "{}"})
    tiny.add("models/org/old", {"config.json": "{}", "pytorch_model.bin": ""})
    tiny.add("models/org/bare", {"model.safetensors": ""})
    tiny.add("models/org/mute", {name: data for name, data in files.items() if name != "tokenizer.json"})
    tiny.add("models/org/none-listed", files | {client.INDEX: '{"weight_map": {}}'})
    del tiny.repos["models/org/none-listed"].files[client.SINGLE]
    tiny.add("models/org/down", {}, access=503)
    tiny.add("models/org/odd", {}, access=400)
    text = refused(name)
    expected = message.replace("PORT", tiny.url.rpartition(":")[2])
    assert expected in text if name in ("org/code", "org/none-listed") else text.startswith(expected), text
    assert "model.safetensors" not in tiny.downloaded()  # refused before the weights are downloaded


def test_without_a_network_the_cache_is_used(tiny: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, nowhere = tmp_path / "hub-cache", "http://127.0.0.1:9"
    for offline in (False, True):
        use(monkeypatch, nowhere, cache, offline)
        text = refused(NAME)
        where = "is not in the cache" if offline else "127.0.0.1:9 cannot be reached"
        assert text.startswith(f"there is no folder {NAME}, and") and where in text and str(cache) in text
    use(monkeypatch, tiny.url, cache)
    folder, _ = loading.resolve(NAME)
    use(monkeypatch, nowhere, cache, offline=True)
    assert loading.resolve(NAME) == (folder, "huggingface")
    assert "is not in the cache" in refused(f"{NAME}@v1")
    use(monkeypatch, nowhere, cache)
    with pytest.warns(UserWarning, match=rf"org/tiny: commit {folder.name[:12]} from the cache is used"):
        assert loading.resolve(NAME) == (folder, "huggingface")
    use(monkeypatch, tiny.url, cache)
    assert loading.resolve(f"{NAME}@v1") == (folder, "huggingface")
    tiny.repos[f"models/{NAME}"].revisions = ("main",)
    forget()
    assert "has no revision v1: it has main" in refused(f"{NAME}@v1")  # it may have been withdrawn
    tiny.repos[f"models/{NAME}"].access = 502
    forget()
    with pytest.warns(UserWarning, match="502"):
        assert loading.resolve(NAME) == (folder, "huggingface")


@pytest.mark.parametrize("body", [b"<html>log in</html>", b'{"error": "x"}', b"[1]"])
def test_an_address_that_does_not_answer_as_a_hub_is_named(
    tiny: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    folder, _ = loading.resolve(NAME)
    tiny.repos[f"models/{NAME}"].access = 200
    tiny.body = body
    forget()
    with pytest.warns(UserWarning, match=rf"commit {folder.name[:12]} from the cache is used"):
        assert loading.resolve(NAME) == (folder, "huggingface")
    use(monkeypatch, tiny.url, tmp_path / "empty")
    text = refused(NAME)
    assert text.startswith(f"{tiny.url} does not answer as a hub for {NAME} (") and "check HF_ENDPOINT" in text


def test_a_silent_server_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:  # connections are never accepted
        use(monkeypatch, f"http://127.0.0.1:{server.getsockname()[1]}", tmp_path)
        start = time.monotonic()
        assert "cannot be reached (timed out) and org/tiny is not in the cache" in refused(NAME)
        assert time.monotonic() - start < 5


@pytest.mark.parametrize("address", ["hf-mirror.example", "ftp://x", "http://", "http://x:99999", "http://[::1", " "])
def test_an_endpoint_that_is_no_address_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    use(monkeypatch, address, tmp_path)
    assert refused(NAME) == f"HF_ENDPOINT={address} is not an address: write it as in https://huggingface.co"


def test_a_variable_that_the_library_cannot_read_is_refused() -> None:
    code = "from r1jax.hub_access import check_environment; check_environment()"
    environment = os.environ | {"HF_HUB_DOWNLOAD_TIMEOUT": "long", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert (
        last.startswith("r1jax.errors.UserError: a variable HF_* has no valid value (invalid literal")
        and "'long'" in last
    )


def test_a_token_that_cannot_be_sent_is_named(tiny: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_\u00e9")
    assert refused(NAME) == "the token in HF_TOKEN has characters other than ASCII: copy it again"


def test_a_download_that_was_cut_off_is_resumed_and_named_without_a_network(
    tiny: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the attempts of huggingface_hub
    tiny.cut = {"model.safetensors"}
    assert f"{NAME} cannot be downloaded (" in refused(NAME)
    cache = tmp_path / "hub-cache"
    use(monkeypatch, tiny.url, cache, offline=True)
    assert refused(NAME) == (
        f"the cached {NAME} is incomplete (model.safetensors is missing): connect to the hub and run the command "
        "again, which resumes the download"
    )
    tiny.cut = set()
    use(monkeypatch, tiny.url, cache)
    tiny.requests.clear()
    jax.tree.map(np.testing.assert_array_equal, r1jax.load(NAME).params, r1jax.load(MODEL).params)
    assert tiny.downloaded() == {"model.safetensors"}


def test_a_full_disk_and_a_cache_that_cannot_be_written_are_one_line(
    tiny: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    disk_of: Callable[[int], contextlib.AbstractContextManager[None]],
) -> None:
    with disk_of(20_000):
        assert refused(NAME).startswith(
            f"the disk of {tmp_path / 'hub-cache'} is full: free disk space, or set HF_HOME"
        )
    forget()
    (tmp_path / "file").touch()
    use(monkeypatch, tiny.url, tmp_path / "file" / "cache")
    assert refused(NAME).startswith(f"{tmp_path / 'file' / 'cache'} cannot be written: set HF_HOME")
    use(monkeypatch, tiny.url, tmp_path / "hub-cache")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1000))
    assert "org/tiny needs 0.0 GB and" in refused(NAME)


def test_the_environment_of_a_process_is_read(tiny: Hub, tmp_path: Path) -> None:
    """HF_ENDPOINT, HF_HOME and HF_TOKEN, then HF_HUB_OFFLINE, each in a process of its own."""
    tiny.repos[f"models/{NAME}"].access = "gated"
    code = f"from r1jax.hub import fetch_model; print(fetch_model({NAME!r}))"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    online = {"HF_ENDPOINT": tiny.url, "HF_TOKEN": TOKEN}
    folders = []
    for more in (online, {"HF_HUB_OFFLINE": "1"}):
        done = subprocess.run([sys.executable, "-c", code], env=environment | more, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        folders.append(done.stdout.strip())
    assert folders[0] == folders[1] and folders[0].startswith(str(tmp_path / "home"))
    assert Path(folders[0]).name == tiny.repos[f"models/{NAME}"].commit
