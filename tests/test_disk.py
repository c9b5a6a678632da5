"""Atomic writes, the lock of a folder, and caches of users without a home folder."""

import errno
import fcntl
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from r1jax import disk
from r1jax.checkpoints.huggingface import load_huggingface, save_huggingface
from r1jax.checkpoints.native import write_model
from r1jax.disk import cache_folder, folder_lock, replacing, write_whole
from r1jax.errors import UserError
from r1jax.report.curves import plot_curves
from r1jax.tokenizer import load_tokenizer
from r1jax.training.metrics import MetricsWriter, read_metrics
from tests.helpers.paths import FIXTURES, ROOT
from tests.helpers.snapshots import snapshots


def test_a_file_is_the_old_or_the_new_one_at_any_time(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    write_whole(folder / "file", "old")
    with snapshots(folder, tmp_path / "states") as taken:
        write_whole(folder / "file", "new")
    assert (folder / "file").read_text() == "new"
    assert taken and all((state / "file").read_text() == "old" for state in taken)
    for state in taken:
        write_whole(state / "file", "again")
        assert [path.read_text() for path in state.iterdir()] == ["again"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    write_whole(tmp_path / "file", "old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "file") as part:
        part.write_text("new")
        raise ZeroDivisionError
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_files_and_their_folder_are_on_disk_before_and_after_the_rename(tmp_path, monkeypatch):
    done = []
    fsync, rename = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    monkeypatch.setattr(Path, "replace", lambda a, b: (done.append(f"{a} -> {b}"), rename(a, b)))
    write_whole(tmp_path / "file", "text")
    assert done == [f"{tmp_path}/file.part", f"{tmp_path}/file.part -> {tmp_path}/file", f"{tmp_path}"]


def test_pictures_are_whole_or_the_old_ones(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    plot_curves({"a": [{"step": 0, "reward_accuracy": 0.5}]}, folder / "curves.png")
    old = (folder / "curves.png").read_bytes()
    with snapshots(folder, tmp_path / "states") as taken:
        plot_curves({"a": [{"step": 0, "reward_accuracy": 0.1}]}, folder / "curves.png")
    assert (folder / "curves.png").read_bytes() != old
    assert taken and all((state / "curves.png").read_bytes() == old for state in taken)


def test_an_export_is_replaced_whole_and_again_after_any_kill(tmp_path):
    model = load_huggingface(FIXTURES / "llama_tied")
    other = type(model)(model.config, jax.tree.map(lambda w: w * 2, model.params), model.tokenizer)
    run = tmp_path / "run"
    save_huggingface(model, run / "model")
    with snapshots(run, tmp_path / "states") as taken:
        save_huggingface(other, run / "model", replace=True)
    with pytest.raises(UserError, match="exists and is not empty"):
        save_huggingface(model, run / "model")
    new = (run / "model" / "model.safetensors").read_bytes()
    assert len(taken) > 5
    for state in taken:
        if (state / "model").exists():
            found = load_huggingface(state / "model").params["embedding"]
            assert any(np.array_equal(found, one.params["embedding"]) for one in (model, other))
        save_huggingface(other, state / "model", replace=True)
        assert [path.name for path in state.iterdir()] == ["model"]
        assert (state / "model" / "model.safetensors").read_bytes() == new
    (run / "file").write_text("")
    with pytest.raises(UserError, match="not empty"):
        save_huggingface(model, run / "file", replace=True)


def test_a_tokenizer_beside_checkpoints_is_whole_at_any_time(tmp_path):
    model = load_huggingface(FIXTURES / "llama_bias")
    ids = model.tokenizer.encode("12 + 34")
    run = tmp_path / "run"
    write_model(run, model.config, model.tokenizer)
    with snapshots(run, tmp_path / "states") as taken:
        write_model(run, model.config, model.tokenizer)
    assert len(taken) > 3
    for state in taken:
        assert load_tokenizer(state / "tokenizer").encode("12 + 34") == ids
        write_model(state, model.config, model.tokenizer)
        assert {path.name for path in state.iterdir()} == {"r1jax.json", "tokenizer"}


def test_rows_written_in_part_before_a_kill_are_written_again(tmp_path):
    def write(folder, start):
        with MetricsWriter(folder, start) as writer:
            for step in range(start, 4):
                writer.write_completions(step, [{"text": f"加 {step}"}])
                writer.write(step, {"reward": step / 2})

    def rows(folder):
        lines = (folder / "completions.jsonl").read_text(encoding="utf-8").splitlines()
        return [[row["step"], row["reward"]] for row in read_metrics(folder)], [json.loads(line) for line in lines]

    write(tmp_path / "whole", 0)
    whole = rows(tmp_path / "whole")
    for name in ("metrics.jsonl", "completions.jsonl"):
        data = (tmp_path / "whole" / name).read_bytes()
        second = data.index(b"\n", data.index(b"\n") + 1) + 1  # there are checkpoints of the first two steps
        for length in range(second, len(data)):
            (tmp_path / "whole" / name).write_bytes(data[:length])
            if length % 9 == 0 or data[length - 1] == ord("\n"):
                folder = tmp_path / f"torn-{length}-{name}"
                shutil.copytree(tmp_path / "whole", folder)
                write(folder, 2)
                assert rows(folder) == whole
        (tmp_path / "whole" / name).write_bytes(data)


def test_a_lock_excludes_other_processes_and_is_released_by_a_kill(tmp_path):
    script = (
        "import pathlib, sys, time; from r1jax.disk import folder_lock\n"
        "with folder_lock(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "run")], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match="another process runs in"), folder_lock(tmp_path / "run"):
        pass
    holder.kill()
    holder.wait()
    with folder_lock(tmp_path / "run"):
        pass
    with pytest.raises(UserError, match="/proc/none cannot be written"), folder_lock(Path("/proc/none")):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_can_be_written(number, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    for _ in range(2):
        with folder_lock(tmp_path / "run"):
            pass
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def no_home():
    raise RuntimeError("Could not determine home directory.")


def test_without_a_home_caches_are_in_a_temporary_folder_of_the_user(tmp_path, monkeypatch):
    monkeypatch.delenv("R1JAX_CACHE", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(disk.Path, "home", lambda: tmp_path / "home")
    assert cache_folder() == tmp_path / "home" / ".cache" / "r1jax" and not list(tmp_path.iterdir())
    own = tmp_path / f"r1jax-{os.getuid()}"
    with monkeypatch.context() as patched:
        patched.setattr(disk.os, "access", lambda path, mode: Path(path) != tmp_path)  # a home that cannot be written
        assert cache_folder() == own
    monkeypatch.setattr(disk.Path, "home", no_home)
    assert cache_folder() == own and stat.S_IMODE(own.stat().st_mode) == 0o700
    uid = os.getuid()
    monkeypatch.setattr(disk.os, "getuid", lambda: uid + 1)
    (tmp_path / f"r1jax-{uid + 1}").mkdir()  # as if another user had made it
    with pytest.raises(UserError, match="belongs to another user: set R1JAX_CACHE"):
        cache_folder()
    monkeypatch.setenv("R1JAX_CACHE", str(tmp_path / "given"))
    assert cache_folder() == tmp_path / "given"


NO_HOME = """
import os, pwd
os.environ.pop("HOME", None)

def unknown(*_):
    raise KeyError("getpwuid(): uid not found")

pwd.getpwuid = pwd.getpwnam = unknown
import experiments.r1_zero
from r1jax.pipeline.command import keep_compiled
keep_compiled()
print(__import__("jax").config.jax_compilation_cache_dir)
"""


def test_experiments_start_without_a_home(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "USER", "LOGNAME")}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    environment |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", NO_HOME], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    own = f"{tmp_path}/r1jax-{os.getuid()}"
    assert done.stdout == f"{own}/xla\n" and f"compiled programs are saved in {own}\n" in done.stderr
