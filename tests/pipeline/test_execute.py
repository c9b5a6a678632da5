"""Execution of a pipeline: stages that run, refused changes, and kills."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from r1jax import __version__
from r1jax.errors import UserError
from r1jax.pipeline.execute import execute_pipeline, remove
from r1jax.pipeline.plan import finished_stages, make_plan
from r1jax.pipeline.stage import Stage
from tests.helpers.snapshots import snapshots
from tests.pipeline.chain import Settings, chain, join, ran, run, statuses


def test_stages_run_in_order_and_once(tmp_path):
    figures = run(chain(), tmp_path)
    assert ran(tmp_path) == ["a", "b", "side", "c"]
    assert figures == {"a": {"value": 1}, "b": {"value": 2}, "side": {"value": 4}, "c": {"value": 3}}
    assert (tmp_path / "c" / "result").read_text() == "a=1;b=2;c=3;"
    assert run(chain(), tmp_path) == figures
    assert ran(tmp_path) == []


def test_a_changed_setting_is_refused_before_anything_runs_and_with_force_runs_what_builds_on_it(tmp_path):
    run(chain(), tmp_path, until="side")
    ran(tmp_path)
    assert statuses(chain(b=9), tmp_path) == {"a": "finished", "b": "changed", "side": "finished", "c": "run"}
    run(chain(), tmp_path)
    ran(tmp_path)
    with pytest.raises(UserError, match=r"value was 2, now 9.*--force.*after it c$"):
        run(chain(b=9), tmp_path)
    assert ran(tmp_path) == []
    assert (tmp_path / "b" / "result").read_text() == "a=1;b=2;"
    (tmp_path / "b" / "100").write_text("a checkpoint of the old settings")
    run(chain(b=9), tmp_path, force=True)
    assert ran(tmp_path) == ["b", "c"]
    assert not (tmp_path / "b" / "100").exists()
    assert (tmp_path / "c" / "result").read_text() == "a=1;b=9;c=3;"


def test_a_change_at_the_start_reaches_all_that_follow(tmp_path):
    run(chain(), tmp_path)
    ran(tmp_path)
    assert statuses(chain(a=7), tmp_path) == {"a": "changed", "b": "follows", "side": "follows", "c": "follows"}
    run(chain(a=7), tmp_path, force=True)
    assert ran(tmp_path) == ["a", "b", "side", "c"]


def test_a_kill_between_any_two_writes_leads_to_the_same_end(tmp_path):
    def figures(out):
        return {path.relative_to(out): path.read_text() for path in sorted(out.glob("*/*")) if path.is_file()}

    whole = tmp_path / "whole"
    run(chain(), whole)
    changed = tmp_path / "changed"
    run(chain(b=9), changed, force=True)
    for start, stages, force, end in (
        (None, chain(), False, figures(whole)),
        (whole, chain(b=9), True, figures(changed)),
    ):
        observed, states = tmp_path / "observed", tmp_path / "states"
        for folder in (observed, states):
            shutil.rmtree(folder, ignore_errors=True)
        if start:
            shutil.copytree(start, observed)
        observed.mkdir(exist_ok=True)
        with snapshots(observed, states) as taken:
            run(stages, observed, force=force)
        assert figures(observed) == end and len(taken) > 10
        for state in taken:
            run(stages, state, force=force)
            assert figures(state) == end
            assert not list(state.glob(".removed*"))


def test_another_version_of_the_package_is_a_note_and_makes_nothing_again(tmp_path, monkeypatch):
    run(chain(), tmp_path, until="b")
    (tmp_path / "b" / "manifest.json").unlink()  # killed
    ran(tmp_path)
    monkeypatch.setattr("r1jax.pipeline.record.__version__", "99.0")
    assert statuses(chain(), tmp_path) == {"a": "finished", "b": "resumes", "side": "run", "c": "run"}
    said = []
    execute_pipeline(chain(), tmp_path, report=said.append)
    assert ran(tmp_path) == ["b", "side", "c"]
    assert said[0] == f"run with r1jax {__version__}, this is 99.0: a, b"
    assert set(finished_stages(tmp_path)) == {"a", "b", "side", "c"}
    notes = [one.note for one in make_plan(chain(), tmp_path)]
    assert notes == [f"run with r1jax {__version__}, this is 99.0", "", "", ""]


def test_killed_during_its_removal_a_stage_leaves_nothing_to_resume_from(tmp_path, monkeypatch):
    run(chain(), tmp_path)

    def killed(path):
        (path / "stage.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("r1jax.pipeline.execute.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            remove(tmp_path / "c")
    assert not (tmp_path / "c").exists() and statuses(chain(), tmp_path)["c"] == "run"
    assert set(finished_stages(tmp_path)) == {"a", "b", "side"}
    run(chain(), tmp_path)
    assert not list(tmp_path.glob(".removed*"))
    remove(tmp_path / "c")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "side", ".lock", "log"}


def test_manifests_say_what_made_them(tmp_path):
    run(chain(), tmp_path, until="a", made_by={"device": "1 x toaster"})
    run(chain(), tmp_path, made_by={"device": "2 x toaster"})
    devices = {name: manifest["made_by"]["device"] for name, manifest in finished_stages(tmp_path).items()}
    assert devices == {"a": "1 x toaster", "b": "2 x toaster", "side": "2 x toaster", "c": "2 x toaster"}


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (
            [Stage("a", join, Settings(1), {"b": "b"}), Stage("b", join, Settings(1))],
            "reads b, which is not a stage before",
        ),
        ([Stage("a", join, Settings(1)), Stage("a", join, Settings(2))], "two stages have the name a"),
    ],
)
def test_stages_that_do_not_form_a_graph_are_refused(stages, message, tmp_path):
    with pytest.raises(UserError, match=message):
        run(stages, tmp_path)


def test_a_second_process_is_refused(tmp_path):
    with (tmp_path / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process"):
            run(chain(), tmp_path)


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"none\.txt does not exist"):
        run(chain(files={"data": tmp_path / "none.txt"}), tmp_path / "out")


SCRIPT = """
import os, signal, sys
from pathlib import Path
from tests.pipeline.chain import Settings, Stage, join, run

def slow(settings, inputs, folder):
    "Writes a line per step and resumes after the last one; kills itself before step KILL if that is set."
    progress = folder / "progress"
    done = progress.read_text().count("\\n") if progress.exists() else 0
    for step in range(done, settings.value):
        if os.environ.get("KILL") == str(step):
            os.kill(os.getpid(), signal.SIGKILL)
        with progress.open("a") as file:
            file.write(f"{step}\\n")
    (folder / "result").write_text(progress.read_text())
    return {"steps": settings.value}

out = Path(sys.argv[1])
middle = Stage("b", slow, Settings(5), {"a": "a"})
run([Stage("a", join, Settings(1)), middle, Stage("c", join, Settings(3), {"b": "b"})], out)
"""


def test_killed_in_the_middle_the_same_command_resumes_to_the_same_bytes(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    def start(out, kill):
        environment = os.environ | {"KILL": kill, "PYTHONPATH": str(Path(__file__).parents[2])}
        return subprocess.run([sys.executable, str(script), str(out)], env=environment, check=False).returncode

    out, whole = tmp_path / "out", tmp_path / "whole"
    assert start(out, "3") == -signal.SIGKILL
    assert not (out / "b" / "manifest.json").exists()
    assert start(out, "") == 0 and start(whole, "") == 0
    assert (out / "log").read_text() == "a\nc\n"  # a did not run again
    for name in ("a/result", "b/result", "c/result", "b/manifest.json", "c/manifest.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert json.loads((out / "b" / "manifest.json").read_text())["figures"] == {"steps": 5}
