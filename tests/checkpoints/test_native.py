"""Checkpoints of training: retention, failed saves, damaged steps and loading."""

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import load
from r1jax.checkpoints import native
from r1jax.checkpoints.native import MODEL_FILE, Checkpoints, read_config, write_model
from r1jax.errors import UserError
from r1jax.models.config import RopeScaling
from r1jax.models.shapes import SHAPES
from r1jax.recipe.pretraining import train_tokenizer
from r1jax.tokenizer import ByteTokenizer
from tests.helpers.paths import ROOT
from tests.helpers.snapshots import snapshots

NOISE = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)  # constants would compress to nothing


def tree(value):
    return {"w": jnp.asarray(NOISE) + value, "b": jnp.full(3, value, jnp.bfloat16)}


def rest(value):
    return {"step": jnp.int32(value), "moments": tree(value + 0.5)}


def shapes(value):
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), value)


def save(checkpoints, step, reward=0.0):
    checkpoints.save(step, tree(step), rest(step), {"reward": reward})


def restored(checkpoints):
    return checkpoints.restore(shapes(tree(0)), shapes(rest(0)))


def assert_step(found, step):
    assert found[0] == step
    for got, want in zip(jax.tree.leaves(found[1:]), jax.tree.leaves((tree(step), rest(step))), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


def test_a_step_comes_back_with_its_types_and_an_empty_folder_gives_none(tmp_path):
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert restored(checkpoints) is None
        save(checkpoints, 3)
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert_step(restored(checkpoints), 3)


@pytest.mark.parametrize(("best", "kept"), [(0, [5, 6]), (1, [2, 5, 6]), (2, [2, 4, 5, 6])])
def test_the_newest_and_the_best_are_kept(tmp_path, best, kept):
    with Checkpoints(tmp_path, keep_last=2, keep_best=best) as checkpoints:
        for step, reward in enumerate([0.1, 0.9, 0.2, 0.5, 0.3, 0.4], start=1):
            save(checkpoints, step, reward)
        checkpoints.wait()
        assert checkpoints.steps() == kept


def test_what_is_kept_does_not_depend_on_resuming(tmp_path):
    """Each step is saved by a new process, which reads the earlier steps from disk."""
    for step, reward in enumerate([0.1, 0.9, 0.2, 0.5, 0.3, 0.4], start=1):
        with Checkpoints(tmp_path, keep_last=2, keep_best=1) as checkpoints:
            save(checkpoints, step, reward)
            checkpoints.wait()
            steps = checkpoints.steps()
    assert steps == [2, 5, 6]
    with Checkpoints(tmp_path) as checkpoints:
        assert_step(restored(checkpoints), 6)


def test_old_steps_are_not_removed_while_a_save_moves_others_aside(tmp_path, monkeypatch):
    with Checkpoints(tmp_path, keep_last=1, keep_best=0) as checkpoints:
        running = []
        remove = shutil.rmtree

        def removed(folder, **options):
            running.append(checkpoints._manager.is_saving_in_progress())
            remove(folder, **options)

        monkeypatch.setattr(native.shutil, "rmtree", removed)
        for step in range(1, 4):
            checkpoints.save(step, {"w": jnp.ones(4)}, {"n": jnp.zeros(())}, {"reward": 0.0})
        checkpoints.wait()
        assert running == [False] * 4
    assert checkpoints.steps() == [3]


def test_a_save_may_be_followed_at_once_by_a_change_of_the_arrays(tmp_path):
    donate = jax.jit(lambda t: jax.tree.map(lambda x: x * 0 - 1, t), donate_argnums=0)
    with Checkpoints(tmp_path) as checkpoints:
        params, other = tree(1), rest(1)
        checkpoints.save(1, params, other, {"reward": 0.0})
        donate(params), donate(other)
        assert_step(restored(checkpoints), 1)


FULL = """
import resource, sys
import jax.numpy as jnp
import numpy as np
from pathlib import Path
from r1jax import cli
from r1jax.checkpoints.native import Checkpoints

def main():
    with Checkpoints(Path(sys.argv[1])) as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
        noise = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(64, 64)))}
        checkpoints.save(2, noise, noise, {"reward": 0.0})

cli.call_and_exit(main)
"""


def test_a_full_disk_is_one_line_and_costs_no_earlier_step(tmp_path):
    """The library's threads report the same failure in hundreds of lines, which must not reach stderr."""
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: cannot write a checkpoint") and "free some space" in done.stderr
    with Checkpoints(tmp_path) as checkpoints:
        assert_step(restored(checkpoints), 1)
        save(checkpoints, 2)  # with room again, the same step is saved
    with Checkpoints(tmp_path) as checkpoints:
        assert_step(restored(checkpoints), 2)


LATE = """
import r1jax.checkpoints.native

class Late:
    def __init__(self, error):
        self.error = error

    def __del__(self):
        raise self.error

Late(RuntimeError("Event loop is closed"))
Late(RuntimeError("something else"))
Late(ValueError("Event loop is closed"))
"""


def test_a_write_that_ends_after_its_save_has_failed_is_not_reported():
    """A write may end after its event loop has been closed; the library's threads then raise such errors."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, env=environment)
    told = [line for line in done.stderr.splitlines() if "Error: " in line and not line.startswith(" ")]
    assert told == ["RuntimeError: something else", "ValueError: Event loop is closed"]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write checkpoints in") as refused:
        Checkpoints(tmp_path / "file" / "run")
    assert "\n" not in str(refused.value)


def test_an_error_of_the_run_is_not_hidden_by_a_failed_save(tmp_path, disk_of):
    with disk_of(2000), pytest.raises(ZeroDivisionError), Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
        raise ZeroDivisionError


@pytest.mark.parametrize("damage", ["cut", "removed", "shape"])
def test_damaged_steps_are_skipped_and_set_aside(tmp_path, damage):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
        if damage == "shape":
            checkpoints.save(2, {**tree(2), "w": jnp.zeros((64, 63))}, rest(2), {"reward": 0.0})
        else:
            save(checkpoints, 2)
    files = [p for p in (tmp_path / "2").rglob("*") if p.is_file()]
    if damage == "cut":
        largest = max(files, key=lambda p: p.stat().st_size)
        largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    if damage == "removed":
        for file in files:
            if file.parent.name == "d":
                file.unlink()
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.warns(UserWarning, match="2 is damaged .* skipped"):
            assert_step(restored(checkpoints), 1)
        assert checkpoints.steps() == [1] and (tmp_path / "2.damaged").is_dir()
        save(checkpoints, 2)
        checkpoints.wait()
        assert_step(restored(checkpoints), 2)


def raised_from(cause):
    """The exception by which Orbax reports an error of TensorStore in reading an array."""
    error = Exception("Encountered error while reading array index: (slice(0, 3, 1),).")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.EMFILE, "Too many open files"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes."),
        ValueError('PERMISSION_DENIED: Error opening "zarr" driver: Error reading "b/.zarray"'),
        raised_from(ValueError("RESOURCE_EXHAUSTED: Error reading local file: Too many open files")),
        raised_from(MemoryError()),
        AttributeError("a fault of a program"),
    ],
    ids=lambda error: f"{type(error).__name__} {error.__cause__ or error}"[:50],
)
def test_a_step_that_cannot_be_read_for_now_is_not_damaged(tmp_path, monkeypatch, error):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            save(checkpoints, step)
        checkpoints.wait()
        with monkeypatch.context() as patched:
            patched.setattr(checkpoints._manager, "restore", lambda *_, **__: (_ for _ in ()).throw(error))
            with pytest.raises(type(error)) as raised:
                restored(checkpoints)
            assert raised.value is error
        assert checkpoints.steps() == [1, 2] and not list(tmp_path.glob("*damaged"))
        assert_step(restored(checkpoints), 2)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become a user who may not read its files")
def test_files_that_may_not_be_read_are_not_damaged():
    with tempfile.TemporaryDirectory() as name, Checkpoints(Path(name)) as checkpoints:
        folder = Path(name)
        for step in (1, 2):
            save(checkpoints, step)
        checkpoints.wait()
        folder.chmod(0o755)
        for file in (folder / "2" / "params").rglob("*"):
            if file.parent.name == "d":
                file.chmod(0)
        os.seteuid(65534)
        try:
            with pytest.raises(ValueError, match="Permission denied"):
                restored(checkpoints)
        finally:
            os.seteuid(0)
        assert_step(restored(checkpoints), 2)


@pytest.mark.parametrize("again", [1, 2])
def test_a_step_may_be_damaged_more_than_once(tmp_path, again):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
        for _ in range(again):
            save(checkpoints, 2)
            checkpoints.wait()
            for file in (tmp_path / "2" / "rest").rglob("manifest.ocdbt"):
                file.write_bytes(b"")
            with pytest.warns(UserWarning, match="skipped"):
                assert_step(restored(checkpoints), 1)


def test_a_step_is_whole_or_not_listed_while_it_is_deleted(tmp_path):
    """After a kill at any point, each listed step has all its files and can be read."""
    folder, states = tmp_path / "run", tmp_path / "states"
    with Checkpoints(folder, keep_last=1, keep_best=0) as checkpoints:
        save(checkpoints, 1)
        checkpoints.wait()
        whole = {p.relative_to(folder / "1") for p in (folder / "1").rglob("*")}
        with snapshots(folder, states) as taken:
            save(checkpoints, 2)
            checkpoints.wait()
    names = [
        {p.relative_to(state / "1") for p in (state / "1").rglob("*")} for state in taken if (state / "1").exists()
    ]
    assert names and all(found == whole for found in names) and len(names) < len(taken)
    assert not (folder / ".deleted").exists()
    with Checkpoints(max(taken)) as checkpoints:
        assert_step(restored(checkpoints), 2)


def test_only_damaged_steps_are_an_error_and_not_a_new_start(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
    for file in (tmp_path / "1" / "params").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    for _ in range(2):  # the second start finds what the first did
        with (
            Checkpoints(tmp_path) as checkpoints,
            pytest.warns(UserWarning, match="damaged"),
            pytest.raises(UserError, match="none of the checkpoints"),
        ):
            restored(checkpoints)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_params, tiny_config):
    """The folder of a run with two steps; the second has doubled weights."""
    path = tmp_path_factory.mktemp("native") / "run"
    tokenizer = train_tokenizer(["12 + 34 = 46", "7 - 5 = 2"] * 20, 60)
    model = dataclasses.replace(tiny_config, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 32), dtype="bfloat16")
    write_model(path, model, tokenizer)
    with Checkpoints(path) as checkpoints:
        for step in (1, 2):
            params = jax.tree.map(lambda w, step=step: w * step, tiny_params)
            checkpoints.save(step, params, rest(step), {"reward": 0.0})
    return path


def test_the_config_comes_back_without_how_it_was_computed(folder, tiny_config):
    want = dataclasses.replace(tiny_config, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 32))
    assert read_config(folder) == want
    assert "dtype" not in json.loads((folder / "r1jax.json").read_text())


def test_load_takes_the_newest_step_or_the_one_named(folder, tiny_params):
    for path, scale in ((folder, 2), (folder / "1", 1), (folder / "2", 2)):
        model = load(path)
        jax.tree.map(lambda a, b, s=scale: np.testing.assert_array_equal(a, b * s), model.params, tiny_params)
        assert model.tokenizer.decode(model.tokenizer.encode("12 - 7")) == "12 - 7"


def test_load_converts_to_the_type_asked_for(folder, tiny_params):
    model = load(folder, "bfloat16")
    assert model.config.dtype == "bfloat16"
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, (b * 2).astype(jnp.bfloat16)), model.params, tiny_params)


def test_the_parts_of_a_config_are_read_back_and_an_unknown_field_is_named(tmp_path):
    config = SHAPES["deepseek-v3"]
    write_model(tmp_path, config, ByteTokenizer())
    assert read_config(tmp_path) == config
    fields = json.loads((tmp_path / MODEL_FILE).read_text())
    fields["rope_scaling"]["beta"] = 1.0
    (tmp_path / MODEL_FILE).write_text(json.dumps(fields))
    with pytest.raises(UserError, match=r"is not a valid model config: .*'beta'"):
        read_config(tmp_path)
