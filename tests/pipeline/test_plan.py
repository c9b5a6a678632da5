"""The plan of a pipeline: the status of each stage, the reasons, and the effect of until and only."""

import dataclasses
import functools
import json

import pytest

from r1jax.errors import UserError
from r1jax.pipeline.manifest import file_hash
from r1jax.pipeline.plan import finished_stages, make_plan, plan_table
from r1jax.pipeline.stage import Stage
from tests.pipeline.chain import Nested, Settings, chain, join, ran, run, statuses


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
    """The function changes as in a notebook whose cell is edited and run again."""
    source = "def stage(settings, inputs, folder):\n    (folder / 'result').write_text('1')\n    return {}\n"

    def stages(source):
        space = {"__name__": "__main__"}
        exec(source, space)
        return [Stage("a", space["stage"], Settings(1)), Stage("b", join, Settings(2), {"a": "a"})]

    run(stages(source), tmp_path)
    again = source.replace("    return", "    # a comment\n    return")
    assert statuses(stages(again), tmp_path) == {"a": "finished", "b": "finished"}
    changed = source.replace("'1'", "'2'")
    assert statuses(stages(changed), tmp_path) == {"a": "changed", "b": "follows"}
    with pytest.raises(UserError, match=r"a was run with other settings \(code of the function was '\w{8}', now"):
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
    """The manifest has another version and lacks a later setting, which is at its default."""
    run(chain(), tmp_path)
    path = tmp_path / "b" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["settings"]["later"]
    path.write_text(json.dumps(manifest | {"version": "0.0.1"}))
    (tmp_path / "c" / "manifest.json").unlink()
    (tmp_path / "c" / "stage.json").unlink()
    monkeypatch.setattr("r1jax.pipeline.record.__version__", "99.0")
    assert statuses(chain(), tmp_path) == {"a": "finished", "b": "finished", "side": "finished", "c": "run"}
    other = [dataclasses.replace(one, settings=Settings(one.settings.value, later=2)) for one in chain()]
    assert statuses(other, tmp_path)["b"] == "changed"
    run(chain(), tmp_path)
    assert set(finished_stages(tmp_path)) == {"a", "b", "side", "c"}


def test_another_python_cannot_compare_functions_and_gives_a_note(tmp_path):
    run(chain(), tmp_path)
    path = tmp_path / "side" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"code": "2.7:" + "0" * 64}))
    (one,) = [one for one in make_plan(chain(), tmp_path) if one.stage.name == "side"]
    assert one.status == "finished" and "another version of Python" in one.note


def test_until_and_only(tmp_path):
    assert statuses(chain(), tmp_path, until="b")["c"] == "left out"
    run(chain(), tmp_path, until="b")
    assert ran(tmp_path) == ["a", "b"]
    with pytest.raises(UserError, match="unknown stage 'd'"):
        run(chain(), tmp_path, only=["d"])
    with pytest.raises(UserError, match="cannot be combined"):
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
    assert set(finished_stages(tmp_path)) == {"a", "b", "side", "c"}
    run(chain(b=9), tmp_path, force=True, until="b")
    assert set(finished_stages(tmp_path)) == {"a", "b", "side"}
    run(chain(b=9), tmp_path, force=True)
    run(chain(a=5, b=9), tmp_path, force=True, until="a")
    assert set(finished_stages(tmp_path)) == {"a"}  # c is as b is, and b is not as a is


def test_a_begun_stage_does_not_resume_on_an_input_that_is_made_again(tmp_path):
    run(chain(), tmp_path, until="b")
    (tmp_path / "b" / "manifest.json").unlink()
    assert statuses(chain(), tmp_path)["b"] == "resumes"
    for file in (tmp_path / "a").iterdir():
        file.unlink()
    assert statuses(chain(), tmp_path)["b"] == "follows"


def test_a_stage_that_loses_an_input_is_made_again(tmp_path):
    run(chain(), tmp_path)
    alone = [chain()[0], dataclasses.replace(chain()[1], reads={}), *chain()[2:]]
    assert statuses(alone, tmp_path) == {"a": "finished", "b": "changed", "side": "finished", "c": "follows"}
    with pytest.raises(UserError, match=r"input a was 'a', now None"):
        run(alone, tmp_path)
    run(alone, tmp_path, force=True)
    finished_now = {name for name, status in statuses(alone, tmp_path).items() if status == "finished"}
    assert finished_now == set(finished_stages(tmp_path)) == {"a", "b", "side", "c"}


def test_a_folder_of_something_else_is_refused_and_not_reported(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "manifest.json").write_text('{"stage": "pretrain", "settings": {}, "inputs": {"x": "1"}}')
    assert statuses(chain(), tmp_path)["a"] == "changed"
    assert finished_stages(tmp_path) == {}


def test_an_empty_name_is_no_stage(tmp_path):
    with pytest.raises(UserError, match="unknown stage ''"):
        make_plan(chain(), tmp_path, until="")


def test_a_stage_that_was_removed_is_made_again_and_what_it_fed_is_noticed(tmp_path):
    run(chain(), tmp_path)
    for file in (tmp_path / "b").iterdir():
        file.unlink()
    assert statuses(chain(), tmp_path) == {"a": "finished", "b": "run", "side": "finished", "c": "follows"}
    with pytest.raises(UserError, match="c was run before a stage that it reads"):
        run(chain(), tmp_path)


def test_a_damaged_manifest_is_one_line(tmp_path):
    run(chain(), tmp_path)
    (tmp_path / "b" / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        run(chain(), tmp_path)


def test_the_plan_as_a_table_shows_status_and_what_stages_say(tmp_path):
    run(chain(), tmp_path, until="a")
    plan = make_plan([*chain()[:1], dataclasses.replace(chain()[1], costs={"steps": "70"})], tmp_path)
    table = plan_table(plan)
    assert [list(column.cells) for column in table.columns] == [["a", "b"], ["finished", "run"], ["", "70"]]


def test_every_setting_counts_unless_its_field_is_marked(tmp_path):
    settings = Nested(Settings(1, workers=1), 1)
    run([Stage("a", nothing, settings)], tmp_path)

    def status(**changes):
        return statuses([Stage("a", nothing, dataclasses.replace(settings, **changes))], tmp_path)["a"]

    assert status() == status(inner=Settings(1, workers=2)) == "finished"
    assert status(inner=Settings(2)) == status(inner_too=2) == "changed"


def test_changed_settings_and_files_are_named_with_what_they_were(tmp_path):
    file, out = tmp_path / "rewards.py", tmp_path / "out"
    file.write_text("x")

    def stages(inner, too):
        return [Stage("a", nothing, Nested(inner, too), {"reward": file})]

    run(stages(Settings(1), 2), out)
    with pytest.raises(UserError, match=r"other settings \(inner\.value was 1, now 5, inner_too was 2, now 3\)"):
        run(stages(Settings(5), 3), out)
    file.write_text("y")
    with pytest.raises(UserError, match=rf"\(reward \({file}\) was '\w{{8}}', now '\w{{8}}', inner_too was 2, now 3\)"):
        run(stages(Settings(1), 3), out)
    file.write_text("x")
    path = out / "a" / "manifest.json"
    saved = json.loads(path.read_text())
    del saved["settings"]["inner_too"]  # run before there was such a setting, which has no default
    path.write_text(json.dumps(saved))
    with pytest.raises(UserError, match=r"inner_too was None, now 2"):
        run(stages(Settings(1), 2), out)


def nothing(settings, inputs, folder):
    return {}


def test_a_folder_of_version_0_1_0_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "manifest.json"
    path.write_text(json.dumps({"stage": "a", "settings": {"value": 1}, "inputs": {}, "version": "0.1.0"}))
    before = path.read_bytes()
    for force in (False, True):
        with pytest.raises(UserError, match=r"a was written by r1jax 0\.1\.0, which .*: give another --out"):
            run(chain(), tmp_path, force=force)
    assert path.read_bytes() == before and not (tmp_path / "b").exists()


def test_only_stages_that_will_run_are_checked(tmp_path):
    def refuse():
        raise UserError("this machine cannot run it: use another")

    run(chain(), tmp_path)
    stages = [dataclasses.replace(one, check=refuse) if one.name in ("b", "c") else one for one in chain(c=5)]
    with pytest.raises(UserError, match="cannot run it"):
        make_plan(stages, tmp_path)
    assert statuses(stages, tmp_path, until="b") == {**dict.fromkeys(("a", "b", "side"), "finished"), "c": "left out"}
