"""Experiment trackers: which ones a process uses, and their runs, which never stop or slow a training.

The trackers are entered once, as the mesh is: they belong to no stage, since they change no result.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import importlib.util
import json
import netrc
import os
import queue
import secrets
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from r1jax.disk import write_whole
from r1jax.errors import UserError

TrackerName = Literal["tensorboard", "wandb", "trackio"]
PROJECT = "r1jax"  # unless WANDB_PROJECT or TRACKIO_PROJECT is set

_QUEUE_ROWS = 10_000  # rows that may wait for a tracker before it is given up
_CLOSE_SECONDS = 15.0  # that the end of a training waits for a tracker
_WANDB_SECONDS = 30.0  # that wandb waits for its server, also at the end of the process; its own limits are minutes
_STEP_DIGITS = 12


@dataclasses.dataclass(frozen=True)
class Tracking:
    """The trackers of a process.

    names: tensorboard writes a file in this process; wandb and trackio are libraries with their own storage.
    config: the settings of the run, which wandb and trackio show.
    failed: names of trackers that are off for the rest of the process.
    """

    names: tuple[TrackerName, ...] = ("tensorboard",)
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    failed: set[str] = dataclasses.field(default_factory=set)


_ENTERED: contextvars.ContextVar[Tracking | None] = contextvars.ContextVar("tracking", default=None)


def entered_tracking() -> Tracking:
    """The trackers that ``track`` has entered; TensorBoard alone outside it."""
    return _ENTERED.get() or Tracking()


@contextlib.contextmanager
def track(names: Sequence[TrackerName], config: Mapping[str, Any]) -> Iterator[None]:
    """A context in which trainings use these trackers."""
    token = _ENTERED.set(Tracking(tuple(dict.fromkeys(names)), config))
    try:
        yield
    finally:
        _ENTERED.reset(token)


def check_trackers(names: Iterable[str]) -> None:
    """Raises UserError naming the first tracker that is not installed."""
    for name in names:
        if name not in sys.modules and name != "tensorboard" and importlib.util.find_spec(name) is None:
            raise UserError(f"--track={name}: {name} is not installed: pip install {name}")


class Run(Protocol):
    """The run of a tracker."""

    def log(self, metrics: dict[str, Any], step: int) -> Any:
        """Adds the metrics of a step."""
        ...

    def finish(self) -> Any:
        """Ends the run."""
        ...


class BackgroundTracker:
    """A run of wandb or trackio that a thread feeds with the rows of metrics.jsonl.

    The file tracker-NAME.json in the folder holds the id of the run and the last step that it has received: a resumed
    training continues the same run, sends the earlier rows that it lacks, and no step twice. If the tracker raises, or
    does not keep up, there is one warning and it is off for the rest of the process; the next process tries again.

    Args:
      name: "wandb" or "trackio".
      folder: of the training; its last two parts are the name of the run.
      rows: of the steps before this process, in order.
      tracking: settings and the trackers that are off.
    """

    def __init__(self, name: str, folder: Path, rows: Iterable[Mapping[str, Any]], tracking: Tracking) -> None:
        self._name, self._folder, self._tracking = name, folder, tracking
        self._rows: queue.Queue[Mapping[str, Any] | None] = queue.Queue(_QUEUE_ROWS)
        self._record = folder / f"tracker-{name}.json"
        self._id, self._last_step = _read_record(self._record)
        if name in tracking.failed:
            return
        if not self._record.exists():
            write_whole(self._record, _record_text(self._id, self._last_step))
        earlier = [row for row in rows if row["step"] > self._last_step]
        self._thread = threading.Thread(target=self._feed, args=(earlier,), name=f"track-{name}", daemon=True)
        self._thread.start()

    def write(self, row: Mapping[str, Any]) -> None:
        """Queues a row of metrics.jsonl; returns at once and raises nothing."""
        if self._name not in self._tracking.failed:
            try:
                self._rows.put_nowait(row)
            except queue.Full:
                self._give_up(f"{_QUEUE_ROWS} steps wait for it")

    def close(self) -> None:
        """Waits until the run has received all rows, but not for long."""
        if self._name in self._tracking.failed:
            return
        with contextlib.suppress(queue.Full):
            self._rows.put(None, timeout=_CLOSE_SECONDS)
        self._thread.join(_CLOSE_SECONDS)
        if self._thread.is_alive():
            self._give_up(f"it has not finished within {_CLOSE_SECONDS:.0f} s")

    def _give_up(self, reason: object) -> None:
        if self._name not in self._tracking.failed:
            self._tracking.failed.add(self._name)
            line = " ".join(str(reason).split()) or type(reason).__name__
            warnings.warn(f"--track={self._name} is off for the rest of this process: {line[:300]}", stacklevel=2)

    def _feed(self, earlier: Sequence[Mapping[str, Any]]) -> None:
        try:
            run = _START[self._name](self._folder, self._id, self._tracking.config)
            with self._record.open("r+", encoding="utf-8") as record:
                for row in earlier:
                    self._send(run, row, record)
                while (row := self._rows.get()) is not None and self._name not in self._tracking.failed:
                    self._send(run, row, record)
            run.finish()
        except BaseException as error:  # a library may raise anything, SystemExit included
            self._give_up(error)

    def _send(self, run: Run, row: Mapping[str, Any], record: Any) -> None:
        if row["step"] <= self._last_step:  # computed again after a kill
            return
        metrics = {name: value for name, value in row.items() if name not in ("step", "time") and value is not None}
        run.log(metrics, step=row["step"])
        self._last_step = row["step"]
        record.seek(0)
        record.write(_record_text(self._id, self._last_step))  # always as long, so a kill leaves no mixture
        record.flush()


def _record_text(id: str, last_step: int) -> str:
    return f'{{"id": {json.dumps(id)}, "last_step": {last_step:{_STEP_DIGITS}d}}}\n'


def _read_record(path: Path) -> tuple[str, int]:
    """Id and last step of a record; a new id and -1 if there is none."""
    if path.exists():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            record = json.loads(path.read_text(encoding="utf-8"))
            return str(record["id"]), int(record["last_step"])
        path.unlink()
    return secrets.token_hex(4), -1


def _start_wandb(folder: Path, id: str, config: Mapping[str, Any]) -> Run:
    wandb: Any = importlib.import_module("wandb")
    offline = "WANDB_MODE" not in os.environ and not _wandb_login(wandb)
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        name=f"{folder.parent.name}/{folder.name}",
        group=folder.parent.name,
        id=id,
        resume="allow",
        dir=str(folder),
        config=dict(config),
        mode="offline" if offline else None,
        settings=wandb.Settings(console="off", **_wandb_limits(wandb)),
    )
    if offline:
        print(f"no login to wandb was found: it writes to {run.dir}, and `wandb sync` uploads that", file=sys.stderr)
    return run


def _wandb_limits(wandb: Any) -> dict[str, float]:
    """The limits in seconds of the start and the end of a run that this version of wandb has and no variable sets.

    Without a network, the process would wait at its end for a run that cannot start or upload.
    """
    known = wandb.Settings()
    return {
        name: _WANDB_SECONDS
        for name in ("init_timeout", "finish_timeout")
        if hasattr(known, name) and f"WANDB_{name.upper()}" not in os.environ
    }


def _wandb_login(wandb: Any) -> bool:
    """True if the environment or the netrc file has a key for wandb's server. Without one, wandb would ask for it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    own = os.environ.get("WANDB_BASE_URL")  # otherwise the server depends on the version of wandb
    servers = [own] if own else ["https://api.wandb.ai", str(getattr(wandb.Settings(), "base_url", ""))]
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        logins = netrc.netrc(os.environ.get("NETRC"))
        return any(logins.hosts.get(urlsplit(server).hostname or "") for server in servers)
    return False


def _start_trackio(folder: Path, id: str, config: Mapping[str, Any]) -> Run:
    trackio: Any = importlib.import_module("trackio")
    # trackio finds a run by its name, so the name holds the id.
    return trackio.init(
        project=os.environ.get("TRACKIO_PROJECT", PROJECT),
        name=f"{folder.parent.name}/{folder.name} {id}",
        config=dict(config),
        resume="allow",
    )


_START = {"wandb": _start_wandb, "trackio": _start_trackio}
