"""Stages that continue because a setting that may rise was raised, and the stages that accompany them."""

import json

import pytest

from r1jax.errors import UserError
from r1jax.pipeline.execute import CONFIG
from r1jax.pipeline.plan import finished_stages, make_plan
from r1jax.pipeline.stage import Stage
from tests.helpers.snapshots import snapshots
from tests.pipeline.chain import Settings, chain, join, ran, run, statuses, trained


def test_a_larger_number_of_steps_continues_a_finished_stage_and_makes_again_what_accompanies_it(tmp_path):
    run(trained(), tmp_path)
    start = (tmp_path / "start" / "manifest.json").read_bytes()
    ran(tmp_path)
    (plan,) = [one for one in make_plan(trained(5), tmp_path) if one.stage.name == "training"]
    assert (plan.status, plan.why) == ("continues", "steps was 3, now 5")
    said = []
    figures = run(trained(5), tmp_path, report=said.append)
    assert said[1:3] == ["training: continues (steps was 3, now 5)", "a longer schedule from here"] or said[:2] == [
        "training: continues (steps was 3, now 5)",
        "a longer schedule from here",
    ]
    assert ran(tmp_path) == ["training", "evaluation", "export"] and figures["training"] == {"steps": 5}
    assert (tmp_path / "training" / "steps").read_text() == "".join(f"{i} at 1\n" for i in range(5))
    assert (tmp_path / "start" / "manifest.json").read_bytes() == start
    assert set(finished_stages(tmp_path)) == {"start", "training", "evaluation", "export"}
    for stages, change in ((trained(4), "steps was 5, now 4"), (trained(6, rate=2), "steps was 5, now 6, rate was 1")):
        with pytest.raises(UserError, match=rf"training was run with other settings \({change}"):
            run(stages, tmp_path)


def test_what_does_not_accompany_a_continued_stage_is_made_again_with_force_alone(tmp_path):
    def stages(steps):
        return [*trained(steps), Stage("student", join, Settings(1), {"policy": "training"})]

    run(stages(3), tmp_path)
    ran(tmp_path)
    with pytest.raises(UserError, match=r"student was run before a stage that it reads \(training\): --force"):
        run(stages(5), tmp_path)
    assert ran(tmp_path) == []
    run(stages(5), tmp_path, force=True)
    assert ran(tmp_path) == ["training", "evaluation", "export", "student"]
    assert len((tmp_path / "training" / "steps").read_text().splitlines()) == 5


def test_a_run_that_continues_is_at_no_time_finished_with_the_new_settings(tmp_path):
    """After every kill, the same command gives the result of an uninterrupted run."""
    whole, observed, states = (tmp_path / name for name in ("whole", "observed", "states"))
    for out in (whole, observed):
        run(trained(), out)
        ran(out)
    states.mkdir()
    run(trained(5), whole)
    with snapshots(observed, states) as taken:
        run(trained(5), observed, config=Settings(1))
    assert len(taken) > 10

    def files(out):
        return {p.relative_to(out): p.read_bytes() for p in out.glob("*/*") if p.name in ("manifest.json", "result")}

    for state in taken:
        finished = {name for name, status in statuses(trained(5), state).items() if status == "finished"}
        assert "training" in finished or not {"evaluation", "export"} & finished
        run(trained(5), state)
        assert files(state) == files(whole)
        with pytest.raises(UserError, match=r"other settings \(steps was 5, now 3\)"):
            run(trained(3), state)


def test_a_begun_stage_resumes_with_a_larger_number_of_steps(tmp_path):
    run(trained(), tmp_path)
    (tmp_path / "training" / "manifest.json").unlink()
    assert statuses(trained(4), tmp_path)["training"] == "continues"
    run(trained(4), tmp_path)
    assert statuses(trained(4), tmp_path) == dict.fromkeys(("start", "training", "evaluation", "export"), "finished")


def test_until_and_only_include_stages_that_accompany_a_stage(tmp_path):
    stages = [*trained(), Stage("last", join, Settings(9), {"policy": "training"})]
    included = {name for name, status in statuses(stages, tmp_path, until="training").items() if status == "run"}
    assert included == {"start", "training", "evaluation", "export"}
    run(stages, tmp_path, until="start")
    ran(tmp_path)
    run(stages, tmp_path, only=["training"])
    assert ran(tmp_path) == ["training", "evaluation", "export"]
    assert {name for name, status in statuses(stages, tmp_path, only=["last"]).items() if status == "run"} == {"last"}


def test_a_finished_run_says_so_and_a_run_writes_its_config(tmp_path):
    said = []
    run(chain(), tmp_path, config=Settings(7), report=said.append)
    assert json.loads((tmp_path / CONFIG).read_text()) == {"value": 7, "workers": 1, "later": 1}
    assert said == [f"{name}: starts" for name in ("a", "b", "side", "c")]
    said.clear()
    with pytest.raises(UserError, match="value was 1, now 2"):
        run(chain(a=2), tmp_path, config=Settings(8), report=said.append)
    assert json.loads((tmp_path / CONFIG).read_text())["value"] == 7
    run(chain(), tmp_path, report=said.append)
    assert said == [f"{tmp_path} is finished: give another --out, or remove it to run it again"]


def test_on_finish_gets_the_figures_of_each_stage_that_has_run(tmp_path):
    seen = []
    run(chain(), tmp_path, until="a")
    run(chain(), tmp_path, on_finish=lambda name, figures: seen.append((name, figures)))
    assert seen == [("b", {"value": 2}), ("side", {"value": 4}), ("c", {"value": 3})]
