"""The command chat.py on a small checkpoint with random weights, and its handling of Ctrl-C."""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from r1jax.sampling.processors import Sampling
from r1jax.stopping import Interrupts
from tests.helpers.commands import call
from tests.helpers.paths import FIXTURES

chat = importlib.import_module("experiments.chat")
MODEL = FIXTURES / "llama_tied"
BASE = {"model": str(MODEL), "prompt": "What is 7 + 5?", "max_tokens": 12, "temperature": 5.0, "top_p": 1.0}
# Another value of each setting, with which the reply must differ.
CHANGES: dict[str, Any] = {
    "model": str(FIXTURES / "qwen2"),
    "prompt": "What is 8 + 5?",
    "system": "Be brief.",
    "template": "plain",
    "temperature": 0.0,
    "seed": 1,
}
SAMPLING = {"temperature": 0.3, "top_k": 1, "top_p": 0.01, "min_p": 0.99, "max_tokens": 3}


def ask(out: Path, **changes: Any) -> tuple[str, dict[str, Any]]:
    """The reply on stdout, and its record."""
    settings = {**BASE, "out": out, **changes}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    status, output, log = call("chat.py", *flags)
    assert status == 0, log
    return output, json.loads(out.read_text().splitlines()[-1])


def test_every_setting_changes_the_reply(tmp_path: Path) -> None:
    usual = Sampling(temperature=0.6, top_p=0.95, max_tokens=4096)
    assert chat.sampling_of(chat.Config()) == usual
    plain, record = ask(tmp_path / "turns")
    assert ask(tmp_path / "turns")[0] == plain and len((tmp_path / "turns").read_text().splitlines()) == 2
    assert record["prompt"] == BASE["prompt"] and record["tokens"] <= 12 and record["dtype"] == "float32"
    assert record["first_token_seconds"] <= record["seconds"] and record["compile_seconds"] > 0
    for name, value in CHANGES.items():
        reply, changed = ask(tmp_path / "turns", **{name: value})
        assert reply != plain and changed[name] == value, name
    assert ask(tmp_path / "turns", dtype="bfloat16")[1]["dtype"] == "bfloat16"
    for name, value in SAMPLING.items():  # sampling/test_processors.py shows what they do
        assert chat.sampling_of(chat.Config(**{name: value})) == dataclasses.replace(usual, **{name: value})
    by_hand = {"dtype", "out", "mesh"}  # sampling/test_stream.py splits heads over a mesh
    assert {field.name for field in dataclasses.fields(chat.Config)} == {*CHANGES, *SAMPLING, *by_hand}


def test_lines_of_a_pipe_are_turns_and_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\\\nmore\n\n/reset\ntwo\n/exit\nthree\n"))
    out = tmp_path / "turns.jsonl"
    status, output, log = call("chat.py", "--model", MODEL, "--max-tokens=4", "--out", out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert status == 0 and [row["prompt"] for row in rows] == ["one\nmore", "two"]
    assert "\x1b" not in output + log and log.count("first token") == 2 and "a new conversation" in log


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "no model: give --model"),
        (["--model=/nowhere"], "/nowhere does not exist"),
        (["--model", FIXTURES / "reward"], "is a reward model"),
        (["--model", MODEL, "--template=thinks"], "expected one of auto, plain, think"),
        (["--model", MODEL, "--top-p=0"], "top-p 0.0 must be above 0"),
        (["--model", MODEL, "--mesh=2x1"], "the data axis must be 1"),
        (["--model", MODEL, "--mesh=1x1x2"], "no experts for an expert axis of 2"),
        (["--model", MODEL, "--system=x", "--template=think"], "has no place for a system prompt"),
        (["--model", MODEL, "--out=/nowhere/turns"], "--out=/nowhere/turns cannot be written (No such file"),
        (["--model", MODEL, "--seed=-1"], "--seed=-1 must be at least 0"),
        (["--model", MODEL, "--temperature=hot"], "expected a number"),
        (["--model", MODEL, f"--prompt={'long ' * 3000}"], "the model's context is"),
    ],
)
def test_a_mistake_is_one_line(flags: list[Any], words: str) -> None:
    status, output, log = call("chat.py", *flags)
    assert status == 2 and not output
    assert log.startswith("error: ") and words in log and log.count("\n") == 1


def test_bytes_that_are_no_text_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff 7\n"), "utf-8"))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    chat.accept_any_text()
    assert sys.stdin.read() == "\ufffd 7\n"
    print("\ufffd 7", flush=True)
    assert sys.stdout.buffer.getvalue() == b"? 7\n"  # type: ignore[attr-defined]
    assert chat.text_of("\udcc3\udcbc \udcff") == "\u00fc \ufffd"  # as Python gives arguments in an ASCII locale


def test_ctrl_c_sets_a_flag_in_a_reply_and_ends_a_prompt() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        assert not interrupts.requested
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.requested
        with interrupts.at_prompt():
            pass
        assert not interrupts.requested
        with pytest.raises(KeyboardInterrupt), interrupts.at_prompt():
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_in_a_pipe_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    class Source(io.StringIO):
        def readline(self, size: int = -1) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
            os.kill(os.getpid(), signal.SIGINT)
            return "one\n"

    monkeypatch.setattr(sys, "stdin", Source())
    assert call("chat.py", "--model", MODEL, "--max-tokens=4")[0] == 130
