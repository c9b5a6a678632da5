"""Measures how many candidate programs a second the code reward judges in each level of isolation.

    python tests/tools/measure_sandbox.py --workers 2 --candidates 300

Candidates are trivial functions with three cases, so that the time is that of the sandboxes. Prints a line of JSON for
each level; ``load`` is the load average of the machine before, since other programs slow the measurement down.
"""

from __future__ import annotations

import argparse
import json
import os
import time

from r1jax.data.problems.problem import Problem
from r1jax.data.text.template import TEMPLATES
from r1jax.rewards.base import Completion
from r1jax.rewards.code.config import LEVELS, CodeConfig
from r1jax.rewards.code.isolation import missing
from r1jax.rewards.config import parse_rewards
from r1jax.rewards.pool import RewardPool

CASES = [{"args": [n, 2], "expected": n + 2} for n in range(3)]
PROBLEM = Problem("Add.", "", "sum", "code", json.dumps({"function": "solve", "cases": CASES}))


def completions(count: int) -> list[Completion]:
    """Different programs, since a worker does not run the same one twice in a row."""
    texts = (f"```python\ndef solve(a, b):  # {i}\n    return a + b\n```" for i in range(count))
    return [Completion(text, 20, 99, True, TEMPLATES["code"]) for text in texts]


def main() -> None:
    """Measures each level that this system can give."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--candidates", type=int, default=300)
    options = parser.parse_args()
    specs = parse_rewards(["code"])
    for level in LEVELS:
        if reason := missing(level):
            print(json.dumps({"level": level, "missing": reason}))
            continue
        load = os.getloadavg()[0]
        with RewardPool(specs, options.workers, 60.0, CodeConfig(isolation=level)) as pool:
            pool.score([PROBLEM] * options.workers, completions(options.workers))  # starts the sandboxes
            began = time.perf_counter()
            scores = pool.score([PROBLEM] * options.candidates, completions(options.candidates))
            seconds = time.perf_counter() - began
        assert scores.values.all() and not scores.timeouts and not scores.crashes
        figures = {"level": level, "workers": options.workers, "cores": os.cpu_count(), "load": round(load, 2)}
        print(json.dumps(figures | {"candidates_per_second": round(options.candidates / seconds, 1)}))


if __name__ == "__main__":
    main()
