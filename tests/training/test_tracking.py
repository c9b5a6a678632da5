"""Trackers that are modules of the test: what they receive, and that none of their faults reaches the training."""

from __future__ import annotations

import json
import sys
import threading
import time
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from r1jax.errors import UserError
from r1jax.pipeline.command import PipelineConfig, run_experiment
from r1jax.pipeline.stage import Inputs, Stage
from r1jax.training import tracking
from r1jax.training.metrics import MetricsWriter, read_metrics
from r1jax.training.tracking import Tracking, check_trackers, entered_tracking, track


class Fake(types.ModuleType):
    """A tracker that keeps what it is given; ``fault`` is called before each of its methods with the method's name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.opened: list[dict[str, Any]] = []
        self.rows: list[tuple[int, dict[str, Any]]] = []
        self.finished = 0
        self.fault = lambda method: None
        self.url, self.dir = None, "somewhere"

    def Settings(self, **settings: Any) -> dict[str, Any]:
        return settings

    def init(self, **settings: Any) -> Fake:
        self.fault("init")
        self.opened.append(settings)
        return self

    def log(self, metrics: dict[str, Any], step: int) -> None:
        self.fault("log")
        self.rows.append((step, metrics))

    def finish(self) -> None:
        self.fault("finish")
        self.finished += 1


@pytest.fixture(params=["wandb", "trackio"])
def fake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    module = Fake(request.param)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT", "TRACKIO_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "/nowhere")
    monkeypatch.setattr(tracking, "_CLOSE_SECONDS", 0.5)
    yield module


def train(folder: Path, used: Tracking, first: int, last: int, value: float = 0.5) -> None:
    with MetricsWriter(folder, first, used) as writer:
        for step in range(first, last):
            writer.write(step, {"reward": value, "kl": float("nan")})


def test_a_run_receives_each_step_once_over_all_processes(tmp_path: Path, fake: Fake) -> None:
    folder = tmp_path / "mine" / "r1-zero"
    name: Any = fake.__name__
    train(folder, Tracking((name,), {"seed": 3}), 0, 5)
    assert fake.rows == [(step, {"reward": 0.5}) for step in range(5)] and fake.finished == 1
    train(folder, Tracking((name,)), 3, 7)  # killed after step 4, whose checkpoint is that of step 2
    train(folder, Tracking(), 7, 9)  # without the tracker
    train(folder, Tracking((name, "tensorboard")), 9, 10)
    assert [step for step, _ in fake.rows] == list(range(10))
    first = fake.opened[0]
    assert first["project"] == "r1jax" and first["config"] == {"seed": 3} and first["resume"] == "allow"
    assert first["name"].startswith("mine/r1-zero")
    same = [{key: value for key, value in one.items() if key != "config"} for one in fake.opened]
    assert len(same) == 3 and same[0] == same[1] == same[2]
    id = json.loads((folder / f"tracker-{name}.json").read_text())["id"]
    assert id in (first.get("id") or first["name"]) and len(id) == 8
    assert [row["step"] for row in read_metrics(folder)] == list(range(10))


def test_another_folder_is_another_run(tmp_path: Path, fake: Fake) -> None:
    name: Any = fake.__name__
    for folder in ("a", "b"):
        train(tmp_path / folder, Tracking((name,)), 0, 1)
    one, other = (opened.get("id") or opened["name"].split()[-1] for opened in fake.opened)
    assert one != other


@pytest.mark.parametrize("method", ["init", "log", "finish"])
def test_a_tracker_that_raises_is_off_after_one_warning(tmp_path: Path, fake: Fake, method: str) -> None:
    def fault(called: str) -> None:
        if called == method:
            raise SystemExit("no\nnetwork")

    fake.fault = fault
    name: Any = fake.__name__
    used = Tracking((name, "tensorboard"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for stage in ("one", "two"):
            train(tmp_path / stage, used, 0, 3)
            assert len(read_metrics(tmp_path / stage)) == 3
    assert [str(one.message) for one in caught] == [f"--track={name} is off for the rest of this process: no network"]
    fake.fault = lambda called: None
    train(tmp_path / "one", Tracking((name,)), 3, 4)  # the next process sends what was lost
    assert sorted({step for step, _ in fake.rows}) == [0, 1, 2, 3] and len(fake.rows) == 4


def test_a_tracker_that_hangs_costs_no_step(tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    fake.fault = lambda called: release.wait(20) and None
    monkeypatch.setattr(tracking, "_QUEUE_ROWS", 4)
    name: Any = fake.__name__
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        began = time.monotonic()
        train(tmp_path / "full", Tracking((name,)), 0, 50)
        train(tmp_path / "late", Tracking((name,)), 0, 2)
        assert time.monotonic() - began < 5
    reasons = [str(one.message).partition("process: ")[2] for one in caught]
    assert reasons == ["4 steps wait for it", "it has not finished within 0 s"]
    assert [len(read_metrics(tmp_path / name)) for name in ("full", "late")] == [50, 2]
    release.set()


@pytest.mark.parametrize(
    ("environment", "netrc", "mode"),
    [
        ({}, "", "offline"),
        ({"WANDB_API_KEY": "k"}, "", None),
        ({"WANDB_MODE": "online"}, "", None),
        ({}, "machine api.wandb.ai login user password k", None),
        ({"WANDB_BASE_URL": "https://w.example:8080"}, "machine api.wandb.ai login user password k", "offline"),
        ({"WANDB_BASE_URL": "https://w.example:8080"}, "machine w.example login user password k", None),
    ],
)
def test_wandb_writes_offline_without_a_login_and_never_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], netrc: str, mode: str | None
) -> None:
    module = Fake("wandb")
    monkeypatch.setitem(sys.modules, "wandb", module)
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "netrc").write_text(netrc)
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    train(tmp_path / "run", Tracking(("wandb",)), 0, 1)
    assert module.opened[0]["mode"] == mode and module.opened[0]["dir"] == str(tmp_path / "run")


@pytest.mark.parametrize(
    ("known", "variables", "limits"),
    [
        (("init_timeout", "finish_timeout"), {}, {"init_timeout": 30.0, "finish_timeout": 30.0}),
        (("init_timeout",), {}, {"init_timeout": 30.0}),  # an older version
        (("init_timeout", "finish_timeout"), {"WANDB_INIT_TIMEOUT": "300"}, {"finish_timeout": 30.0}),
    ],
)
def test_wandb_waits_for_its_server_for_half_a_minute_unless_a_variable_says_more(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    known: tuple[str, ...],
    variables: dict[str, str],
    limits: dict[str, float],
) -> None:
    class Settings(types.SimpleNamespace):
        def __init__(self, **given: Any) -> None:
            super().__init__(**dict.fromkeys(known, 90.0), given=given)

    module: Any = Fake("wandb")
    module.Settings = Settings
    monkeypatch.setitem(sys.modules, "wandb", module)
    for name in ("WANDB_INIT_TIMEOUT", "WANDB_FINISH_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    train(tmp_path, Tracking(("wandb",)), 0, 1)
    assert module.opened[0]["settings"].given == {"console": "off", **limits}


def test_a_damaged_record_starts_another_run(tmp_path: Path, fake: Fake) -> None:
    name: Any = fake.__name__
    tmp_path.joinpath(f"tracker-{name}.json").write_text("{")
    train(tmp_path, Tracking((name,)), 0, 2)
    assert [step for step, _ in fake.rows] == [0, 1]


def test_without_tensorboard_there_is_no_event_file(tmp_path: Path) -> None:
    train(tmp_path / "without", Tracking(()), 0, 1)
    train(tmp_path / "default", Tracking(), 0, 1)
    assert [(tmp_path / name / "tensorboard").exists() for name in ("without", "default")] == [False, True]


def test_a_tracker_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    with pytest.raises(UserError, match=r"^--track=trackio: trackio is not installed: pip install trackio$"):
        check_trackers(("tensorboard", "trackio"))


def test_trackers_are_entered_once_and_left() -> None:
    assert entered_tracking().names == ("tensorboard",)
    with track(("wandb", "wandb"), {"seed": 1}):
        assert entered_tracking().names == ("wandb",) and entered_tracking().config == {"seed": 1}
    assert entered_tracking().names == ("tensorboard",)


def trained(settings: Any, inputs: Inputs, folder: Path) -> dict[str, Any]:
    """A stage that opens its files as the training loop does."""
    train(folder, entered_tracking(), 0, 2)
    return {}


def test_the_flag_reaches_the_trainings_of_an_experiment(tmp_path: Path, fake: Fake) -> None:
    config = PipelineConfig(track=(fake.__name__,))  # pyright: ignore[reportArgumentType]
    stages = [Stage("training", trained, {}, {})]
    run_experiment(stages, tmp_path, config, "x.py", weights="none", model="none", report=lambda console: None)
    assert [step for step, _ in fake.rows] == [0, 1] and fake.opened[0]["config"]["track"] == [fake.__name__]
    assert not (tmp_path / "training" / "tensorboard").exists()
