"""Worker processes of the reward pool: how they end, what signals do to them, and what they import."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from tests.helpers.paths import ROOT
from tests.rewards.helpers import act, gone, make_pool, meeting


def test_a_worker_that_died_between_two_calls_is_replaced(actor_file: str) -> None:
    with make_pool(actor_file, deadline=60, workers=1) as pool:
        pid = int(act(pool, "return os.getpid()").values[0, 0])
        os.kill(pid, signal.SIGKILL)
        assert gone(pid)
        scores = act(pool, "value 7")
    assert scores.values[0, 0] == 7 and scores.crashes == 0


def test_workers_end_with_the_context(actor_file: str, tmp_path: Path) -> None:
    files = psutil.Process().num_fds()
    with make_pool(actor_file, deadline=60) as pool:
        act(pool, "die")
        pids = act(pool, *meeting(tmp_path)).values[:, 0].astype(int).tolist()
    assert psutil.Process().num_fds() == files
    assert all(map(gone, pids))
    with pytest.raises(RuntimeError, match="closed"):
        act(pool, "value 1")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no files in memory")
def test_workers_share_no_file_on_a_disk(actor_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with make_pool(actor_file, deadline=60, workers=1) as pool:
        assert act(pool, "value 7").values[0, 0] == 7


# A main script, which no worker may run again.
SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # background shells ignore it, and children inherit that
from r1jax.data.problems.problem import Problem
from r1jax.data.text.template import TEMPLATES
from r1jax.rewards.base import Completion
from r1jax.rewards.config import parse_rewards
from r1jax.rewards.pool import RewardPool

def score(*texts):
    completions = [Completion(text, 5, 20, True, TEMPLATES["think"]) for text in texts]
    return pool.score([Problem("37 + 48", "85", "test")] * len(texts), completions).values[:, 0].tolist()

with RewardPool(parse_rewards([sys.argv[1] + ":actor"]), 2, 600.0) as pool:
    print(*score("modules jax", "modules jax", *sys.argv[2:4]), flush=True)
    score(*sys.argv[4:])
    print("done")
"""


def run_script(folder: Path, actor_file: str, *texts: str, head: str = "") -> tuple[subprocess.Popen[str], list[int]]:
    """Starts the script, and returns it with the process ids of its workers while it scores ``texts``."""
    path = folder / "experiment.py"
    path.write_text(head + SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(path), actor_file, *meeting(folder), *texts],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    assert process.stdout is not None and process.stderr is not None
    with_jax, also_with_jax, *pids = map(float, process.stdout.readline().split())
    assert not with_jax and not also_with_jax
    return process, [int(pid) for pid in pids]


def test_workers_import_no_jax_and_run_no_main_script(tmp_path: Path, actor_file: str) -> None:
    process, pids = run_script(tmp_path, actor_file, "value 1", head="import jax")
    assert process.stdout is not None and process.stderr is not None
    # communicate() would miss what readline() has already buffered.
    out, err = process.stdout.read(), process.stderr.read()
    process.wait(timeout=60)
    assert (out, err, process.returncode) == ("done\n", "", 0)
    assert all(map(gone, pids))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the interpreter's lock can keep a worker alive")
def test_workers_end_when_the_parent_is_killed(tmp_path: Path, actor_file: str) -> None:
    process, pids = run_script(tmp_path, actor_file, "regex", "stubborn")
    time.sleep(0.5)  # until the workers have started
    process.kill()
    out, err = process.communicate(timeout=60)
    assert all(map(gone, pids))
    assert (out, err) == ("", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_end_silently_when_the_parent_gets_a_signal(tmp_path: Path, actor_file: str, number: int) -> None:
    process, pids = run_script(tmp_path, actor_file, "sleep", "loop")
    os.killpg(process.pid, number)  # like the terminal on Ctrl-C
    _, err = process.communicate(timeout=60)
    assert all(map(gone, pids))
    # The script itself reports the interrupt once; workers print nothing.
    assert err.count("Traceback") == err.count("KeyboardInterrupt") == int(number == signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_of_a_job_costs_no_score(actor_file: str, number: int) -> None:
    """The parent finishes its step before it ends, so the step must be scored normally."""
    with make_pool(actor_file, deadline=60, workers=1) as pool:
        (pid,) = act(pool, "return os.getpid()").values[:, 0]
        os.kill(int(pid), number)
        again = act(pool, "return os.getpid()", f"return os.kill(os.getpid(),{int(number)})or(7)")
        assert again.crashes == 0 and again.values[:, 0].tolist() == [pid, 7]


def test_nothing_that_a_worker_imports_needs_jax() -> None:
    modules = "r1jax.data.problems.dataset, r1jax.data.text.template, r1jax.rewards.pool"
    code = f"import {modules}, sys; print('jax' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout == "False\n"
