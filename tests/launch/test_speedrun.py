"""The script of the speedrun's entries, with a program in place of Python that writes down its arguments."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from experiments.speedrun import PLAIN, PRESETS, changed_settings, why_not_a_record
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
    changes = {}
    for entry in NAMES.split():
        record = tmp_path / "runs" / "records" / f"speedrun-{entry}-seed7" / "record.json"
        config = cli.parse(PRESETS, "gsm-symbolic", record.read_text().splitlines()[1:])
        assert (config.base, config.entry, config.seed) == ("qwen.gguf", entry, 7)
        assert (config.target, config.minutes, why_not_a_record(config)) == (0.35, 8, [])
        assert not (tmp_path / "runs" / f"{entry}-seed7" / "speedrun" / "40").exists()
        changes[entry] = changed_settings(config)
    assert changes["plain"] == {} and list(changes.values()).count({}) == 1
    assert len({str(change) for change in changes.values()}) == len(changes)
    assert changes["batch-256"] == {"rl.prompts": PLAIN.rl.prompts // 2}
    assert changes["kl"] == {"rl.algorithm.beta": 0.001}


def test_wrong_settings_are_refused_before_any_run(tmp_path: Path) -> None:
    cases = [
        ({}, "BASE: give"),
        ({"BASE": "a", "ENTRIES": "fast"}, "no settings for fast"),
        ({"BASE": "a", "K": "2"}, "K=2"),
    ]
    for environment, message in cases:
        done = launch(tmp_path, **environment)
        assert done.returncode == 2 and message in done.stderr and not (tmp_path / "runs").exists()
