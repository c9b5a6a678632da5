"""A pipeline of four small stages, for tests."""

from __future__ import annotations

import dataclasses

from r1jax.pipeline.execute import execute_pipeline
from r1jax.pipeline.plan import make_plan
from r1jax.pipeline.stage import Stage
from r1jax.settings import may_change, may_rise


@dataclasses.dataclass(frozen=True)
class Settings:
    value: int
    workers: int = may_change(1)
    later: int = 1


@dataclasses.dataclass(frozen=True)
class Nested:
    inner: Settings
    inner_too: int


@dataclasses.dataclass(frozen=True)
class Training:
    """Settings of a stage that continues with a larger number of steps."""

    steps: int = may_rise(3)
    rate: int = 1


def join(settings, inputs, folder):
    """Appends to a log that it ran, and writes its value after those of its inputs."""
    with (folder.parent / "log").open("a") as log:
        log.write(folder.name + "\n")
    texts = [(path / "result" if path.is_dir() else path).read_text() for path in inputs.values()]
    (folder / "result").write_text("".join(texts) + f"{folder.name}={settings.value};")
    return {"value": settings.value}


def train(settings, inputs, folder):
    """Writes a line per step, after the existing lines."""
    with (folder.parent / "log").open("a") as log:
        log.write(folder.name + "\n")
    path = folder / "steps"
    done = len(path.read_text().splitlines()) if path.exists() else 0
    for step in range(done, settings.steps):
        with path.open("a") as file:
            file.write(f"{step} at {settings.rate}\n")
    (folder / "result").write_text(path.read_text())
    return {"steps": settings.steps}


def chain(a=1, b=2, c=3, side=4, files=None):
    """a -> b -> c, and a -> side."""
    return [
        Stage("a", join, Settings(a), files or {}),
        Stage("b", join, Settings(b), {"a": "a"}),
        Stage("side", join, Settings(side), {"a": "a"}),
        Stage("c", join, Settings(c), {"b": "b"}),
    ]


def trained(steps=3, rate=1):
    """start -> training -> evaluation, export; the last two accompany the training."""
    return [
        Stage("start", join, Settings(1)),
        Stage("training", train, Training(steps, rate), {"policy": "start"}, extended="a longer schedule from here"),
        Stage("evaluation", join, Settings(2), {"policy": "training"}, accompanies="training"),
        Stage("export", join, Settings(3), {"policy": "training"}, accompanies="training"),
    ]


def ran(out):
    log = out / "log"
    names = log.read_text().split() if log.exists() else []
    log.unlink(missing_ok=True)
    return names


def run(stages, out, **options):
    return execute_pipeline(stages, out, **{"report": lambda _: None, **options})


def statuses(stages, out, **options):
    return {one.stage.name: one.status for one in make_plan(stages, out, **options)}
