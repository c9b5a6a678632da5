from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from tensorboardX.proto.event_pb2 import Event

from r1jax.errors import UserError
from r1jax.training.metrics import MetricsWriter, merge, reduce_metrics
from r1jax.training.progress import ProgressBar
from tests.helpers.paths import ROOT

DiskOf = Callable[[int], contextlib.AbstractContextManager[None]]


def test_the_mean_does_not_depend_on_how_a_batch_is_split() -> None:
    values = np.random.default_rng(0).normal(size=12).astype(np.float32)
    mask = values > -0.5

    def part(rows: slice) -> dict[str, tuple[jax.Array, jax.Array]]:
        return {"kl": (jnp.sum(values[rows] * mask[rows]), jnp.sum(mask[rows]))}

    for cuts in ([0, 12], [0, 1, 12], [0, 4, 8, 12]):
        parts = [part(slice(a, b)) for a, b in itertools.pairwise(cuts)]
        assert reduce_metrics(merge(parts))["kl"] == pytest.approx(values[mask].mean(), rel=1e-6)


def test_metrics_may_be_absent_or_without_weight() -> None:
    one, zero = jnp.float32(1), jnp.float32(0)
    merged = reduce_metrics(merge([{"a": (one * 3, one * 2)}, {"b": (zero, zero)}, {}]))
    assert merged["a"] == 1.5 and math.isnan(merged["b"])
    assert reduce_metrics(merge([])) == {}


def lines(path: Path) -> list[dict]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def events(folder: Path) -> Iterator[Event]:
    """The events of a TensorBoard folder, read from its records: length, its checksum, bytes, their checksum."""
    for path in sorted(folder.glob("tensorboard/*tfevents*")):
        data, at = path.read_bytes(), 0
        while at + 12 <= len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            yield Event.FromString(data[at + 12 : at + 12 + size])
            at += size + 16


def scalars(folder: Path) -> list[tuple[int, str, float]]:
    return [(e.step, v.tag, v.simple_value) for e in events(folder) for v in e.summary.value]


def test_a_row_is_the_same_in_both_files_and_what_is_not_finite_is_null(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as writer:
        writer.write(0, {"reward": np.float32(0.5), "kl": math.nan, "ratio_max": math.inf, "timeouts": 3})
        writer.write_completions(0, [{"text": "7 加 5", "reward": 1.0}, {"text": "\n", "reward": 0.0}])
    (row,) = lines(tmp_path / "metrics.jsonl")
    wall_time = row.pop("time")
    assert abs(wall_time - time.time()) < 600
    assert row == {"step": 0, "reward": 0.5, "kl": None, "ratio_max": None, "timeouts": 3}
    assert scalars(tmp_path) == [(0, "reward", 0.5), (0, "timeouts", 3.0)]
    assert next(e.wall_time for e in events(tmp_path) if e.summary.value) == wall_time
    assert lines(tmp_path / "completions.jsonl") == [
        {"step": 0, "text": "7 加 5", "reward": 1.0},
        {"step": 0, "text": "\n", "reward": 0.0},
    ]
    assert "加" in (tmp_path / "completions.jsonl").read_text(encoding="utf-8")  # legible without a JSON reader


KILLED = """
import os, pathlib, signal, sys
from r1jax.training.metrics import MetricsWriter

folder = pathlib.Path(sys.argv[1])
with MetricsWriter(folder) as writer:
    for step in range(5):
        writer.write_completions(step, [{"text": "0"}])
        writer.write(step, {"reward": 0.0})
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5')  # the kill comes half a line into the next step
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_killed_and_resumed_has_each_step_once(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    for start, stop in [(3, 5), (4, 6)]:
        with MetricsWriter(tmp_path, start) as writer:
            for step in range(start, stop):
                writer.write_completions(step, [{"text": f"{start}"}])
                writer.write(step, {"reward": float(start)})
    expected = [(0, 0.0), (1, 0.0), (2, 0.0), (3, 3.0), (4, 4.0), (5, 4.0)]
    assert [(row["step"], row["reward"]) for row in lines(tmp_path / "metrics.jsonl")] == expected
    assert [(row["step"], float(row["text"])) for row in lines(tmp_path / "completions.jsonl")] == expected
    assert [(step, value) for step, _, value in scalars(tmp_path)] == expected


def test_each_step_is_on_disk_before_the_next_begins(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as writer:
        for step in range(3):
            writer.write(step, {"reward": 1.0})
            writer.write_completions(step, [{"text": "a"}])
            assert [row["step"] for row in lines(tmp_path / "metrics.jsonl")] == list(range(step + 1))
            assert [row["step"] for row in lines(tmp_path / "completions.jsonl")] == list(range(step + 1))


def test_lines_are_on_disk_once_they_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    with MetricsWriter(tmp_path) as writer:
        writer.write(0, {"reward": 1.0})
        monkeypatch.setattr("os.fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
        writer.sync()
    assert synced == [(tmp_path / name).stat().st_ino for name in ("metrics.jsonl", "completions.jsonl")]


def test_a_new_start_keeps_no_older_rows(tmp_path: Path) -> None:
    for _ in range(2):
        with MetricsWriter(tmp_path) as writer:
            writer.write(0, {"reward": 1.0})
        (path,) = tmp_path.glob("tensorboard/*")
        path.rename(path.with_name("events.out.tfevents.1.host"))  # as if from long ago
    assert len(lines(tmp_path / "metrics.jsonl")) == len(scalars(tmp_path)) == 1


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as refused, MetricsWriter(tmp_path / "file" / "run"):
        pass
    assert f"{tmp_path / 'file' / 'run'}: cannot write" in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("which", ["write", "write_completions"])
def test_a_full_disk_is_one_line_and_loses_no_earlier_step(tmp_path: Path, disk_of: DiskOf, which: str) -> None:
    with MetricsWriter(tmp_path) as writer:
        writer.write(0, {"reward": 1.0})
    with disk_of(4000), pytest.raises(UserError) as refused, MetricsWriter(tmp_path, 1) as writer:
        for step in range(1, 100):
            if which == "write":
                writer.write(step, {f"a_rather_long_name_{i}": 1.0 for i in range(10)})
            else:
                writer.write_completions(step, [{"text": "x" * 200}])
    assert f"{tmp_path}: cannot write" in str(refused.value) and "\n" not in str(refused.value)
    with MetricsWriter(tmp_path, 1):
        assert [row["step"] for row in lines(tmp_path / "metrics.jsonl")] == [0]


def test_a_disk_full_on_entry_loses_no_earlier_step(tmp_path: Path, disk_of: DiskOf) -> None:
    with MetricsWriter(tmp_path) as writer:
        for step in range(100):
            writer.write(step, {"reward": 1.0})
    with disk_of(1000), pytest.raises(UserError), MetricsWriter(tmp_path, 50):
        pass
    assert [row["step"] for row in lines(tmp_path / "metrics.jsonl")] == list(range(100))


def test_an_error_of_the_run_is_not_hidden_by_one_of_closing(tmp_path: Path, disk_of: DiskOf) -> None:
    with contextlib.ExitStack() as full, pytest.raises(ZeroDivisionError), MetricsWriter(tmp_path) as writer:
        full.enter_context(disk_of(0))
        with pytest.raises(UserError):
            writer.write(0, {"reward": 1.0})  # what stays in the buffer fails again when the file is closed
        raise ZeroDivisionError


def test_a_disk_full_at_closing_is_one_line(tmp_path: Path, disk_of: DiskOf) -> None:
    with contextlib.ExitStack() as full, pytest.raises(UserError), MetricsWriter(tmp_path) as writer:
        writer.write(0, {"reward": 1.0})  # its TensorBoard event waits for the next flush
        full.enter_context(disk_of(0))


def progress(width: int = 200, terminal: bool = False) -> tuple[ProgressBar, list[float], io.StringIO]:
    now, text = [100.0], io.StringIO()
    console = Console(file=text, width=width, force_terminal=terminal, color_system=None)
    return ProgressBar("train", 10, 4, console=console, clock=lambda: now[0]), now, text


def test_without_a_terminal_progress_is_a_line_now_and_then_and_at_the_end() -> None:
    bar, now, text = progress(width=20)
    with bar:
        for done in range(5, 11):
            now[0] += 4
            bar.update(done, {"tokens_per_second": 1234.5, "reward": 0.25, "loss": 2.0})
    # Four seconds per step: shown at once, after ten seconds, and at the end.
    assert text.getvalue().splitlines() == [
        "train 5/10  1,234 tokens/s  reward 0.250  0:00:20 left",
        "train 8/10  1,234 tokens/s  reward 0.250  0:00:08 left",
        "train 10/10  1,234 tokens/s  reward 0.250  0:00:00 left",
    ]


def test_before_the_first_step_no_time_left_is_shown() -> None:
    bar, now, text = progress()
    with bar:
        now[0] += 3
        bar.update(4, {})
    assert text.getvalue() == "train 4/10\n"


def test_on_a_terminal_progress_is_a_bar() -> None:
    bar, now, text = progress(terminal=True)
    with bar:
        now[0] += 60
        bar.update(6, {"loss": 2.0})
    shown = text.getvalue().replace("\r", "\n").splitlines()[-2]
    assert [part in shown for part in ("train", "6/10", "loss 2.000", "0:02:00 left", "━")] == [True] * 5
