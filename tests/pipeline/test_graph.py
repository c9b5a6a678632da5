"""The graph of stages: what runs, what is skipped, what is refused, and what a kill leaves."""

import dataclasses
import fcntl
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from r1jax.pipeline.graph import Stage, finished, make_plan, plan_table, remove, run_graph

from r1jax import __version__
from r1jax.errors import UserError
from r1jax.pipeline.manifest import claim_folder, file_hash, run_stage
from tests.check_kills import snapshots


@dataclasses.dataclass(frozen=True)
class Settings:
    value: int
    workers: int = 1


@dataclasses.dataclass(frozen=True)
class Nested:
    inner: Settings
    inner_too: int


def join(settings, inputs, folder):
    """Appends to a log that it ran, and writes its value after those of its inputs."""
    with (folder.parent / "log").open("a") as log:
        log.write(folder.name + "\n")
    texts = [(path / "result" if path.is_dir() else path).read_text() for path in inputs.values()]
    (folder / "result").write_text("".join(texts) + f"{folder.name}={settings.value};")
    return {"value": settings.value}


def chain(a=1, b=2, c=3, side=4, **more):
    """a -> b -> c, and a -> side."""
    return [
        Stage("a", join, Settings(a), free=("workers",), **more),
        Stage("b", join, Settings(b), ("a",)),
        Stage("side", join, Settings(side), ("a",)),
        Stage("c", join, Settings(c), ("b",)),
    ]


def ran(out):
    log = out / "log"
    names = log.read_text().split() if log.exists() else []
    log.unlink(missing_ok=True)
    return names


def run(stages, out, **options):
    return run_graph(stages, out, report=lambda _: None, **options)


def statuses(stages, out, **options):
    return {one.stage.name: one.status for one in make_plan(stages, out, **options)}


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


def test_how_a_stage_computes_may_change(tmp_path):
    run(chain(), tmp_path)
    stages = chain()
    stages[0] = dataclasses.replace(stages[0], settings=Settings(1, workers=8))
    assert set(statuses(stages, tmp_path).values()) == {"finished"}


def test_the_contents_of_a_file_count(tmp_path):
    file = tmp_path / "data.txt"
    file.write_text("x;")
    out = tmp_path / "out"
    run(chain(files={"data": file}), out)
    assert (out / "c" / "result").read_text() == "x;a=1;b=2;c=3;"
    assert set(statuses(chain(files={"data": file}), out).values()) == {"finished"}
    file.write_text("y;")
    assert statuses(chain(files={"data": file}), out)["a"] == "changed"


def test_a_file_is_read_once_until_it_changes(tmp_path, monkeypatch):
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "a").write_text("x")
    first = file_hash(folder)
    monkeypatch.setattr("r1jax.pipeline.manifest.hashlib.sha256", None)
    assert file_hash(folder) == first
    monkeypatch.undo()
    (folder / "a").write_text("xy")
    second = file_hash(folder)
    (folder / "a").rename(folder / "b")
    assert len({first, second, file_hash(folder)}) == 3


def test_another_function_makes_a_stage_again(tmp_path):
    run(chain(), tmp_path)
    stages = chain()
    stages[1] = dataclasses.replace(stages[1], function=dataclasses.replace)
    assert statuses(stages, tmp_path)["b"] == "changed"


def test_a_function_that_was_changed_makes_its_stage_again(tmp_path):
    """As in a notebook, whose cell with the function is edited and run again."""
    source = "def stage(settings, inputs, folder):\n    (folder / 'result').write_text('1')\n    return {}\n"

    def stages(source):
        space = {"__name__": "__main__"}
        exec(source, space)
        return [Stage("a", space["stage"], Settings(1)), Stage("b", join, Settings(2), ("a",))]

    run(stages(source), tmp_path)
    again = source.replace("    return", "    # a comment\n    return")
    assert statuses(stages(again), tmp_path) == {"a": "finished", "b": "finished"}
    changed = source.replace("'1'", "'2'")
    assert statuses(stages(changed), tmp_path) == {"a": "changed", "b": "follows"}
    with pytest.raises(UserError, match=r"a was made with other settings \(code of the function was '\w{8}', now"):
        run(stages(changed), tmp_path)
    run(stages(changed), tmp_path, force=True)
    assert (tmp_path / "b" / "result").read_text() == "2b=2;"


def test_a_function_may_be_moved_and_its_arguments_count(tmp_path):
    def made(rate, settings, inputs, folder):
        return {"rate": rate}

    def stages(rate, module=__name__):
        function = functools.partial(made, rate)
        made.__module__ = module
        return [Stage("a", function, Settings(1))]

    assert run(stages(2), tmp_path) == {"a": {"rate": 2}}
    assert [statuses(stages(*a), tmp_path)["a"] for a in ((2,), (2, "__main__"), (3,))] == ["finished"] * 2 + [
        "changed"
    ]


def test_a_manifest_of_an_older_version_stays_finished(tmp_path, monkeypatch):
    """It has another version and lacks a setting that came later, which is at its default."""
    run(chain(), tmp_path)
    path = tmp_path / "b" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["settings"]["workers"]
    path.write_text(json.dumps(manifest | {"version": "0.0.1"}))
    (tmp_path / "c" / "manifest.json").unlink()
    (tmp_path / "c" / "stage.json").unlink()
    monkeypatch.setattr("r1jax.pipeline.graph.__version__", "99.0")
    assert statuses(chain(), tmp_path) == {"a": "finished", "b": "finished", "side": "finished", "c": "run"}
    other = [dataclasses.replace(one, settings=Settings(one.settings.value, workers=2)) for one in chain()]
    assert statuses(other, tmp_path)["b"] == "changed"
    run(chain(), tmp_path)
    assert set(finished(tmp_path)) == {"a", "b", "side", "c"}


def test_another_python_cannot_compare_functions_and_says_so(tmp_path):
    run(chain(), tmp_path)
    path = tmp_path / "side" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"code": "2.7:" + "0" * 64}))
    (one,) = [one for one in make_plan(chain(), tmp_path) if one.stage.name == "side"]
    assert one.status == "finished" and "another Python" in one.note


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
    monkeypatch.setattr("r1jax.pipeline.graph.__version__", "99.0")
    assert statuses(chain(), tmp_path) == {"a": "finished", "b": "goes on", "side": "run", "c": "run"}
    said = []
    run_graph(chain(), tmp_path, report=said.append)
    assert ran(tmp_path) == ["b", "side", "c"]
    assert said[0] == f"made with r1jax {__version__}, this is 99.0: a, b"
    assert set(finished(tmp_path)) == {"a", "b", "side", "c"}
    notes = [one.note for one in make_plan(chain(), tmp_path)]
    assert notes == [f"made with r1jax {__version__}, this is 99.0", "", "", ""]


def test_until_and_only(tmp_path):
    assert statuses(chain(), tmp_path, until="b")["c"] == "left out"
    run(chain(), tmp_path, until="b")
    assert ran(tmp_path) == ["a", "b"]
    with pytest.raises(UserError, match="unknown stage 'd'"):
        run(chain(), tmp_path, only=["d"])
    with pytest.raises(UserError, match="do not go together"):
        run(chain(), tmp_path, only=["c"], until="c")
    run(chain(), tmp_path, only=["c"])
    assert ran(tmp_path) == ["c"]
    assert not (tmp_path / "side").exists()
    with pytest.raises(UserError, match="--only needs the stage b, which is not finished"):
        run(chain(b=5), tmp_path, only=["c"])


def test_only_may_name_stages_that_build_on_each_other(tmp_path):
    run(chain(), tmp_path, until="a")
    ran(tmp_path)
    run(chain(), tmp_path, only=["b", "c"])
    assert ran(tmp_path) == ["b", "c"]


def test_what_was_made_from_an_older_stage_is_not_finished(tmp_path):
    run(chain(), tmp_path)
    assert set(finished(tmp_path)) == {"a", "b", "side", "c"}
    run(chain(b=9), tmp_path, force=True, until="b")
    assert set(finished(tmp_path)) == {"a", "b", "side"}
    run(chain(b=9), tmp_path, force=True)
    run(chain(a=5, b=9), tmp_path, force=True, until="a")
    assert set(finished(tmp_path)) == {"a"}  # c is as b is, and b is not as a is


def test_a_begun_stage_does_not_go_on_from_an_input_that_is_made_again(tmp_path):
    run(chain(), tmp_path, until="b")
    (tmp_path / "b" / "manifest.json").unlink()
    assert statuses(chain(), tmp_path)["b"] == "goes on"
    for file in (tmp_path / "a").iterdir():
        file.unlink()
    assert statuses(chain(), tmp_path)["b"] == "follows"


def test_killed_while_it_is_removed_a_stage_leaves_nothing_to_go_on_from(tmp_path, monkeypatch):
    run(chain(), tmp_path)

    def killed(path):
        (path / "stage.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("r1jax.pipeline.graph.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            remove(tmp_path / "c")
    assert not (tmp_path / "c").exists() and statuses(chain(), tmp_path)["c"] == "run"
    assert set(finished(tmp_path)) == {"a", "b", "side"}
    run(chain(), tmp_path)
    assert not list(tmp_path.glob(".removed*"))
    remove(tmp_path / "c")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "side", ".lock", "log"}


def test_a_group_of_settings_may_be_free(tmp_path):
    run([Stage("a", lambda *_: {}, Nested(Settings(1), 1), free=("inner",))], tmp_path / "free")
    both = [Stage("a", lambda *_: {}, Nested(Settings(2), 1), free=("inner",))]
    other = [Stage("a", lambda *_: {}, Nested(Settings(1), 2), free=("inner",))]
    assert [statuses(s, tmp_path / "free")["a"] for s in (both, other)] == ["finished", "changed"]


def test_a_stage_that_loses_an_input_is_made_again(tmp_path):
    run(chain(), tmp_path)
    alone = [chain()[0], dataclasses.replace(chain()[1], inputs=()), *chain()[2:]]
    assert statuses(alone, tmp_path) == {"a": "finished", "b": "changed", "side": "finished", "c": "follows"}
    with pytest.raises(UserError, match=r"inputs was \['a'\], now \[\]"):
        run(alone, tmp_path)
    run(alone, tmp_path, force=True)
    finished_now = {name for name, status in statuses(alone, tmp_path).items() if status == "finished"}
    assert finished_now == set(finished(tmp_path)) == {"a", "b", "side", "c"}


def test_a_folder_of_something_else_is_refused_and_not_reported(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "manifest.json").write_text('{"stage": "pretrain", "settings": {}, "inputs": {"x": "1"}}')
    assert statuses(chain(), tmp_path)["a"] == "changed"
    assert finished(tmp_path) == {}


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"none\.txt does not exist"):
        run(chain(files={"data": tmp_path / "none.txt"}), tmp_path / "out")


def test_an_empty_name_is_no_stage(tmp_path):
    with pytest.raises(UserError, match="unknown stage ''"):
        make_plan(chain(), tmp_path, until="")


def test_manifests_say_what_made_them(tmp_path):
    run(chain(), tmp_path, until="a", made_by={"device": "1 x toaster"})
    run(chain(), tmp_path, made_by={"device": "2 x toaster"})
    devices = {name: manifest["made_by"]["device"] for name, manifest in finished(tmp_path).items()}
    assert devices == {"a": "1 x toaster", "b": "2 x toaster", "side": "2 x toaster", "c": "2 x toaster"}


def test_a_stage_that_was_removed_is_made_again_and_what_it_fed_is_noticed(tmp_path):
    run(chain(), tmp_path)
    for file in (tmp_path / "b").iterdir():
        file.unlink()
    assert statuses(chain(), tmp_path) == {"a": "finished", "b": "run", "side": "finished", "c": "follows"}
    with pytest.raises(UserError, match="c was made before a stage that it builds on"):
        run(chain(), tmp_path)


def test_a_damaged_manifest_is_one_line(tmp_path):
    run(chain(), tmp_path)
    (tmp_path / "b" / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        run(chain(), tmp_path)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([Stage("a", join, Settings(1), ("b",)), Stage("b", join, Settings(1))], "reads b, which is no stage before"),
        ([Stage("a", join, Settings(1)), Stage("a", join, Settings(2))], "two stages are called a"),
    ],
)
def test_a_graph_that_is_none_is_refused(stages, message, tmp_path):
    with pytest.raises(UserError, match=message):
        run(stages, tmp_path)


def test_a_second_process_is_refused(tmp_path):
    with (tmp_path / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process"):
            run(chain(), tmp_path)


def test_the_plan_as_a_table_shows_status_and_what_stages_say(tmp_path):
    run(chain(), tmp_path, until="a")
    plan = make_plan([*chain()[:1], dataclasses.replace(chain()[1], plan={"steps": "70"})], tmp_path)
    table = plan_table(plan)
    assert [list(column.cells) for column in table.columns] == [["a", "b"], ["finished", "run"], ["", "70"]]


SCRIPT = """
import os, signal, sys
from pathlib import Path
from tests.pipeline.test_graph import Settings, Stage, join, run

def slow(settings, inputs, folder):
    "Writes a line a step and goes on where it was; killed before step KILL where that is set."
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
run([Stage("a", join, Settings(1)), Stage("b", slow, Settings(5), ("a",)), Stage("c", join, Settings(3), ("b",))], out)
"""


def test_killed_in_the_middle_the_same_command_goes_on_to_the_same_bytes(tmp_path):
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


def test_a_folder_begun_with_other_settings_says_which(tmp_path):
    claim_folder(tmp_path, Nested(Settings(1), 2))
    with pytest.raises(UserError, match=r"other settings \(inner\.value was 1, now 5, inner_too was 2, now 3\)"):
        claim_folder(tmp_path, Nested(Settings(5), 3))
    assert claim_folder(tmp_path, Nested(Settings(5), 2), free=["inner.value"]) == {}
    for value, rises in ((0, False), (5, True)):
        if rises:
            raised = claim_folder(tmp_path, Nested(Settings(value), 2), rising=["inner.value"])
            assert raised == {"inner.value": (1, value)}
        else:
            with pytest.raises(UserError, match=r"inner\.value was 1, now 0"):
                claim_folder(tmp_path, Nested(Settings(value), 2), rising=["inner.value"])
    path = tmp_path / "config.json"
    saved = json.loads(path.read_text())
    del saved["inner"]["workers"]  # begun before there was such a setting
    path.write_text(json.dumps(saved))
    assert claim_folder(tmp_path, Nested(Settings(1), 2)) == {}
    with pytest.raises(UserError, match=r"inner\.workers was None, now 2"):
        claim_folder(tmp_path, Nested(Settings(1, workers=2), 2))


def test_a_stage_made_otherwise_says_what_it_was_and_is(tmp_path, monkeypatch):
    def made(settings, inputs, said=None):
        return run_stage(tmp_path / "a", "a", settings, inputs, lambda: {"n": 1}, report=(said or []).append)

    made({"seed": 1, "inner": Settings(1)}, {"x": "0" * 64})
    with pytest.raises(UserError, match=r"made otherwise \(x was '0{8}', now '1{8}', seed was 1, now 2\)"):
        made({"seed": 2, "inner": Settings(1)}, {"x": "1" * 64})
    monkeypatch.setattr("r1jax.pipeline.manifest.__version__", "99.0")
    said = []
    assert run_stage(tmp_path / "a", "a", {"seed": 1, "inner": Settings(1)}, {"x": "0" * 64}, dict, said.append)
    assert said == [f"{tmp_path / 'a'}: made with r1jax {__version__}, this is 99.0"]
