"""Completions, and pools of a reward that does what a completion says."""

from __future__ import annotations

import time
from pathlib import Path

import psutil

from r1jax.data.problems.problem import Problem
from r1jax.data.text.template import TEMPLATES
from r1jax.rewards.base import Completion
from r1jax.rewards.config import parse_rewards
from r1jax.rewards.pool import RewardPool

SUM = Problem("37 + 48", "85", "arithmetic")


def completion(text: str, template: str = "think", tokens: int = 5) -> Completion:
    return Completion(text, tokens, limit=20, finished=True, template=TEMPLATES[template])


def answered(answer: str) -> Completion:
    return completion(f"<think>hm</think><answer>{answer}</answer>")


# A reward that does what the text of the completion says.
ACTOR = """
import ctypes, os, re, signal, subprocess, sys, time
import numpy as np
from r1jax.rewards import Completion, Problem, reward

@reward
def actor(problem: Problem, completion: Completion) -> float:
    match completion.text.split():
        case ["value", number]:
            return float(number)
        case ["answer", seconds]:
            time.sleep(float(seconds))
            return float(problem.answer)
        case ["loop"]:
            while True:
                pass
        case ["sleep", *seconds]:
            time.sleep(float(*seconds or ("1000",)))
        case ["stubborn"]:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                time.sleep(1)
        case ["regex"]:  # holds the interpreter's lock forever
            re.match(r"(a+)+$", "a" * 60 + "b")
        case ["child", file]:
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
            with open(file, "w") as out:
                out.write(str(child.pid))
            child.wait()
        case ["die"]:
            os._exit(3)
        case ["segfault"]:
            ctypes.string_at(0)
        case ["raise"]:
            raise KeyError("two\\nlines")
        case ["exit"]:
            sys.exit(1)
        case ["return", expression]:
            return eval(expression)
        case ["meet", mine, other]:  # ends only if both texts of a pair run at the same time
            open(mine, "w").close()
            while not os.path.exists(other):
                time.sleep(0.01)
            return os.getpid()
        case ["modules", name]:
            return float(name in sys.modules)
    return 1.0
"""


def problem(answer: str = "85", checker: str = "number") -> Problem:
    return Problem("37 + 48", answer, "arithmetic", checker)  # pyright: ignore[reportArgumentType]


def make_pool(actor_file: str, deadline: float, workers: int = 2) -> RewardPool:
    specs = parse_rewards([f"{actor_file}:actor=2", "length=0.5"])
    return RewardPool(specs, workers, deadline)


def act(pool: RewardPool, *texts: str):
    return pool.score([problem()] * len(texts), [completion(text) for text in texts])


def gone(pid: int) -> bool:
    """Whether a process ends within ten seconds; a zombie has ended once it has no threads left."""
    for _ in range(200):
        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def meeting(folder: Path) -> tuple[str, str]:
    """Two texts that end only if two workers score them at the same time; the score is the process id."""
    a, b = folder / "a", folder / "b"
    return f"meet {a} {b}", f"meet {b} {a}"
