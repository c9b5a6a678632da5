"""Collectives: their time in profiler traces, and their number and bytes in compiled programs."""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")


def kind_of(name: str, hlo_op: str = "") -> str | None:
    """The kind of collective of a kernel, from its name and its HLO operation; None for other kernels.

    NCCL names an all-gather AllGather, and a collective-permute SendRecv. XLA's own kernel of a small all-reduce has
    the name of the operation, which is psum in shard_map.
    """
    if re.match(r"psum[.\d]*-fusion", hlo_op):
        return "all-reduce"
    plain = re.sub(r"[-_]", "", name.lower())
    for kind in KINDS:
        if hlo_op.startswith(kind) or name.startswith(kind) or ("nccl" in plain and kind.replace("-", "") in plain):
            return kind
    if "nccl" in plain:
        return "collective-permute" if "sendrecv" in plain else "other"
    return None


_CONTAINER = re.compile(r"(while|call|conditional)(\.\d+)?")  # these events include the events of their bodies


@dataclasses.dataclass(frozen=True)
class DeviceTime:
    """Times of one device in a trace, in seconds."""

    by_kind: dict[str, float]  # sum of the events of each collective
    collectives: float  # time with at least one running collective
    exposed: float  # the part of that time in which nothing else ran
    busy: float  # time in which anything ran


def read_trace(folder: Path) -> dict[str, DeviceTime]:
    """Times of each device in the newest trace of jax.profiler in ``folder``; empty if the trace has no devices."""
    return device_times(trace_events(folder))


def trace_events(folder: Path) -> list[dict[str, Any]]:
    """The events of the newest trace of jax.profiler in ``folder``, in the Chrome trace format."""
    traces = sorted(folder.rglob("*.trace.json.gz"), key=lambda path: path.stat().st_mtime)
    if not traces:
        raise FileNotFoundError(f"{folder}: no .trace.json.gz")
    with gzip.open(traces[-1], "rt") as stream:
        return json.load(stream)["traceEvents"]


def device_times(events: Iterable[dict[str, Any]]) -> dict[str, DeviceTime]:
    """Times of each device in the events of a trace."""
    return {device: _device_time(found) for device, found in device_events(events).items()}


def device_events(events: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """What ran on each device, of the events of a trace in the Chrome trace format (in microseconds).

    A device is a process "/device:...". Its streams hold the kernels; its other rows (modules, steps, operations) are
    derived from the streams and are ignored. Without streams, as on a TPU, the row of operations is used. CPU devices
    have no process: there each operation names its device.
    """
    devices: dict[int, str] = {}
    rows: dict[tuple[int, int], str] = {}
    spans: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    hosted: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        name, pid = event.get("name", ""), event.get("pid", -1)
        if event.get("ph") == "M" and name == "process_name" and event["args"]["name"].startswith("/device:"):
            devices[pid] = event["args"]["name"]
        elif event.get("ph") == "M" and name == "thread_name":
            rows[pid, event["tid"]] = event["args"]["name"]
        elif event.get("ph") == "X" and not _CONTAINER.fullmatch(name):
            spans[pid, event["tid"]].append(event)
            if {"device_ordinal", "hlo_op"} <= event.get("args", {}).keys():
                hosted[f"/device:CPU:{event['args']['device_ordinal']}"].append(event)
    ran: dict[str, list[dict[str, Any]]] = {}
    for pid, device in devices.items():
        mine = [row for row in spans if row[0] == pid]
        streams = [row for row in mine if rows.get(row, "").startswith("Stream")]
        chosen = streams or [row for row in mine if rows.get(row) == "XLA Ops"]
        if chosen:
            ran[device] = [event for row in chosen for event in spans[row]]
    return dict(sorted((ran if devices else hosted).items()))


def _device_time(events: Sequence[dict[str, Any]]) -> DeviceTime:
    by_kind: dict[str, float] = defaultdict(float)
    collectives, others = [], []
    for event in events:
        length = float(event.get("dur", 0.0))
        span = (float(event["ts"]), float(event["ts"]) + length)
        kind = kind_of(event["name"], str(event.get("args", {}).get("hlo_op", "")))
        if kind:
            by_kind[kind] += length / 1e6
        (collectives if kind else others).append(span)
    within, busy = _covered(collectives), _covered([*collectives, *others])
    exposed = min(busy - _covered(others), within)  # rounding may make the difference larger
    return DeviceTime(dict(by_kind), within, exposed, busy)


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """Length in seconds of the union of spans (start, end) in microseconds."""
    if not spans:
        return 0.0
    starts, ends = np.array(sorted(spans)).T
    reached = np.maximum.accumulate(ends)
    before = np.concatenate([[starts[0]], reached[:-1]])
    return float(np.maximum(reached - np.maximum(starts, before), 0.0).sum() / 1e6)


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Collectives of a compiled program per device: kind -> number, and kind -> bytes of the results."""

    count: dict[str, int]
    bytes: dict[str, int]


_SIZES = {"pred": 1, "bf16": 2, **{f"{t}{n}": n // 8 for t in "fsu" for n in (8, 16, 32, 64)}}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) .*\{$")
# A pair of start and done is one collective, whose result is that of done.
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-done)?\(")
_CALLED = re.compile(r"(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


def program_traffic(hlo: str) -> tuple[Traffic, Traffic]:
    """Collectives of an optimised program (compiled.as_text()): in total, and per iteration of loops of unknown length.

    A loop whose length the compiler knows, such as that over blocks or microbatches, counts once per iteration.
    """
    own: dict[str, list[tuple[str, int]]] = {}
    calls: dict[str, list[tuple[str, int | None]]] = {}  # computation -> (called, iterations; None if unknown)
    entry = here = ""
    for line in hlo.splitlines():
        if found := _COMPUTATION.match(line):
            here = found[2]
            own[here], calls[here] = [], []
            entry = here if found[1] else entry
        elif here and " = " in line:
            if found := _COLLECTIVE.search(line):
                own[here].append((found[2], _bytes(found[1])))
            trips = _TRIPS.search(line)
            iterations = (int(trips[1]) if trips else None) if " while(" in line else 1
            names = _CALLED.findall(line)
            for branches in _BRANCHES.findall(line):
                names += [name.strip().lstrip("%") for name in branches.split(",")]
            calls[here] += [(name, iterations) for name in names]
    totals = (Counter[str](), Counter[str](), Counter[str](), Counter[str]())

    def walk(name: str, times: int, unknown: bool) -> None:
        count, size = totals[2:] if unknown else totals[:2]
        for kind, n in own.get(name, ()):
            count[kind] += times
            size[kind] += times * n
        for called, iterations in calls.get(name, ()):
            walk(called, times * (iterations or 1), unknown or iterations is None)

    walk(entry, 1, False)
    return Traffic(dict(totals[0]), dict(totals[1])), Traffic(dict(totals[2]), dict(totals[3]))


def _bytes(shape: str) -> int:
    """Bytes of an array "bf16[8,16]{1,0}" or of a tuple of them."""
    arrays = re.findall(r"(\w+)\[([\d,]*)\]", shape)
    return sum(_SIZES.get(kind, 0) * math.prod(int(n) for n in dims.split(",") if n) for kind, dims in arrays)
