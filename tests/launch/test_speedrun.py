"""The script of the speedrun's entries, with a program in place of Python that writes down its arguments."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from experiments.speedrun import PRESETS, why_not_a_record
from r1jax import cli
from tests.helpers.paths import ROOT

NAMES = "plain lr updates-2 updates-4 clip-higher drop-groups batch-256 group-32 length-256 kl dr-grpo often combined"
# Writes its arguments, one a line, and leaves a record and a checkpoint as a finished run does.
STUB = """#!/usr/bin/env bash
for word in "$@"; do case $word in --out=*) out=${word#--out=} ;; esac; done
mkdir -p "$out/record" "$out/speedrun/40"
printf '%s\\n' "$@" >"$out/record/record.json"
"""


def launch(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    stub = tmp_path / "python"
    stub.write_text(STUB)
    stub.chmod(0o755)
    own = {"RUNS": str(tmp_path / "runs"), "PYTHON": str(stub), "GPUS": "0 1 2 3", "PATH": os.environ["PATH"]}
    command = ["bash", str(ROOT / "launch" / "speedrun.sh")]
    return subprocess.run(command, env=own | environment, capture_output=True, text=True, timeout=60)


def test_each_entry_is_the_task_with_its_own_change(tmp_path: Path) -> None:
    done = launch(tmp_path, BASE="qwen.gguf", SEEDS="7", TARGET="0.35", LIMIT="8")
    assert done.returncode == 0, done.stderr
    own: dict[str, list[str]] = {}
    for entry in NAMES.split():
        record = tmp_path / "runs" / "records" / f"speedrun-{entry}-seed7" / "record.json"
        script, base, *words = record.read_text().splitlines()
        assert (script, base) == ("experiments/speedrun.py", "--base=qwen.gguf")
        assert words[:4] == [f"--entry={entry}", "--seed=7", "--target=0.35", "--minutes=8"]
        assert words[4] == f"--out={tmp_path}/runs/{entry}-seed7"
        assert not (tmp_path / "runs" / f"{entry}-seed7" / "speedrun" / "40").exists()
        own[entry] = words[5:]
    assert own["plain"] == [] and len({tuple(flags) for flags in own.values()}) == len(own)
    # All flags at once, since reading a command line takes long: each is one that may differ from the task.
    flags = [flag for flags in own.values() for flag in flags]
    config = cli.parse(PRESETS, "gsm-symbolic", ["--base=qwen.gguf", *flags])
    assert why_not_a_record(config) == []
    assert {flag.partition("=")[0] for flag in flags} >= {"--rl.beta", "--rl.prompts", "--every", "--rl.eps-high"}


def test_wrong_settings_are_refused_before_any_run(tmp_path: Path) -> None:
    cases = [
        ({}, "BASE: give"),
        ({"BASE": "a", "ENTRIES": "fast"}, "no settings for fast"),
        ({"BASE": "a", "K": "2"}, "K=2"),
    ]
    for environment, message in cases:
        done = launch(tmp_path, **environment)
        assert done.returncode == 2 and message in done.stderr and not (tmp_path / "runs").exists()
