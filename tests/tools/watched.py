"""Watches a process that measures one part after another, and writes its rows as they come."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax


def watch(
    script: Sequence[str], out: Path, total: int, limit: float, patience: float, environment: Mapping[str, str]
) -> None:
    """Runs processes that measure, until all parts have a row or the limit is reached.

    A process that prints nothing for a while, or that ends, becomes a row, and the next one goes on after its part.

    Args:
      script: a Python script and its arguments; ``--first N`` is added, the part with which to begin. It prints lines
        of JSON: {"device": name}, and {"index": part, "row": figures} for each part.
      out: the file of device, version and rows.
      total: number of parts.
      limit: seconds for all processes.
      patience: seconds without a line, after which a process is killed.
      environment: variables beside those of this process.
    """
    began, rows, following, device = time.monotonic(), [], 0, ""
    while following < total and time.monotonic() - began < limit:
        command = [sys.executable, *script, "--first", str(following)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=lambda p=process, q=lines: [q.put(x) for x in p.stdout or ()] + [q.put("")]).start()
        while True:
            rest = limit - (time.monotonic() - began)
            try:
                line = lines.get(timeout=max(0.0, min(patience, rest)))
            except queue.Empty:
                line = ""
            if not line:
                break
            if not line.startswith("{"):
                continue
            found = json.loads(line)
            device = found.get("device", device)
            print(f"{time.monotonic() - began:6.1f} s {found.get('row', found)}", flush=True)
            if "row" in found:
                rows.append(found["row"])
                following = found["index"] + 1
                figures = {"device": device, "jax": jax.__version__, "rows": rows}
                out.write_text(json.dumps(figures, indent=1) + "\n")
        process.kill()
        process.wait()
        if following < total and time.monotonic() - began < limit:
            rows.append({"index": following, "failure": "the process hung or ended"})
            print(rows[-1], flush=True)
            following += 1
    print(f"{following} of {total} parts after {time.monotonic() - began:.0f} s", flush=True)
