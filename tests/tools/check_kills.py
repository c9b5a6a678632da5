"""Kills experiments at random moments and between any two writes, and compares their results. Not part of the suite.

    python tests/tools/check_kills.py r1_zero --kills 20      SIGKILL at random moments, the same command until it ends
    python tests/tools/check_kills.py r1 --states 50          every state that a kill can leave between writes, or 50
    python tests/tools/check_kills.py distill --folder DIR    keeps all files in DIR; the default is a folder in /tmp

The results must equal those of an uninterrupted run: weights, metrics and data sets bit by bit, and manifests except
times. No temporary files may remain.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import importlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.helpers.snapshots import snapshots  # noqa: E402

_RL = "--{0}.steps=3 --{0}.prompts=4 --{0}.group=4"
_PRETRAIN = (
    "--pretrain.steps=4 --pretrain.batch=8 --pretrain.hidden-size=64 --pretrain.num-layers=1 "
    "--pretrain.corpus.documents=300"
)
FLAGS = {
    "r1_zero": (
        f"{_PRETRAIN} {_RL.format('rl')} --problems.train-size=40 --sampling.max-tokens=16 --rl.minibatches=2 "
        "--rl.beta=0.01 --rl.reference-every=2 --rl.learning-rate=1e-3 --evaluation.problems=4 "
        "--evaluation.samples=2 --verifier.workers=1 --save.every=1 --rewards length accuracy format"
    ),
    "r1": (
        f"{_PRETRAIN} {_RL.format('zero')} {_RL.format('reasoning-rl')} {_RL.format('final-rl')} --general-steps=1 "
        "--sampling.max-tokens=40 --cold-start-rows=16 --cold-start-select.problems=8 --cold-start-sft.epochs=2 "
        "--cold-start-sft.batch=2 --rejection.problems=8 --sft.epochs=1 --sft.batch=8 --reward-model.epochs=1 "
        "--evaluation.problems=6 --evaluation.samples=2 --general-repeats=1 --problems.train-size=40 "
        "--verifier.workers=1 --save.every=1"
    ),
    "distill": (
        f"{_PRETRAIN} {_RL.format('rl')} --sft.epochs=1 --sft.batch=2 --match.steps=2 --match.prompts=4 "
        "--match.samples=2"
    ),
}
TIMES = ("time", "made_by", "command", "tokens_per_second", "seconds")
PLACES = ("out", "teacher", "paths")  # keys whose values differ from folder to folder
LEFT = (".part", ".orbax-checkpoint-tmp", ".deleted", ".removed-", ".model.", "tokenizer.part", ".damaged")


def ends(out: Path) -> dict[str, Any]:
    """The result of a run: name -> content without times."""
    from r1jax.checkpoints.load import load

    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        assert not any(word in name for word in LEFT), f"{name} was left behind"
        if any(part.isdigit() for part in path.relative_to(out).parts):
            continue  # a checkpoint: the newest is loaded below, and after a kill there may be one more old checkpoint
        if path.is_dir():
            found[name] = "folder"
        elif path.suffix in (".json", ".jsonl"):
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            found[name] = [_timeless(json.loads(line)) for line in lines]
        elif path.suffix in (".safetensors", ".model"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif "tfevents" not in name:
            found[name] = "file"
    for config in out.rglob("r1jax.json"):
        newest = max(int(path.name) for path in config.parent.iterdir() if path.name.isdigit())
        found[f"{config.parent.relative_to(out)} weights"] = newest, _digest(load(config.parent).params)
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        kept = (key for key in value if not key.startswith(TIMES) and key not in PLACES)
        return {key: _timeless(value[key]) for key in kept}
    return [_timeless(one) for one in value] if isinstance(value, list) else value


def _digest(params: Any) -> str:
    import jax
    import numpy as np

    total = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        total.update(np.asarray(leaf).tobytes())
    return total.hexdigest()


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Names whose contents differ between two results."""
    return [name for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name)]


def where(out: Path) -> str:
    """The stage that a run is in, read from the newest manifest or record."""
    files = [path for name in ("stage.json", "manifest.json") for path in out.glob(f"*/{name}")]
    if not files:
        return "start"
    last = max(files, key=lambda path: path.stat().st_mtime)
    return f"after {last.parent.name}" if last.name == "manifest.json" else last.parent.name


class Experiment:
    """An experiment with its FLAGS as a command; each run of distill gets a copy of the teacher's folder."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.teacher = folder / "teacher"
        self.environment = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "COLUMNS": "160"}
        self.environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        self.environment.setdefault(
            "JAX_COMPILATION_CACHE_DIR", os.environ.get("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
        )
        if name == "distill" and not self.teacher.exists():
            teacher = Experiment("r1", folder)
            assert teacher.start(self.teacher).wait() == 0

    def prepare(self, run: Path) -> None:
        """Makes the folder of a run ready for its first start."""
        shutil.rmtree(run, ignore_errors=True)
        if self.name == "distill":
            shutil.copytree(self.teacher, run)

    def words(self, run: Path) -> list[str]:
        """The command line in a folder."""
        return [f"--{'teacher' if self.name == 'distill' else 'out'}={run}", *FLAGS[self.name].split()]

    def out(self, run: Path) -> Path:
        """The folder that the command writes."""
        return run / "students" / "qwen2-small" if self.name == "distill" else run

    def start(self, run: Path) -> subprocess.Popen[bytes]:
        """Starts the command in a new process."""
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, str(ROOT / "experiments" / f"{self.name}.py"), *self.words(run)],
                env=os.environ | self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def call(self, run: Path) -> None:
        """Runs the command in this process, which keeps compiled programs."""
        main = importlib.import_module(f"experiments.{self.name}").main
        before, sys.argv = sys.argv, [self.name, *self.words(run)]
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                warnings.simplefilter("ignore")
                main()
        finally:
            sys.argv = before


def random_kills(experiment: Experiment, whole: dict[str, Any], seconds: float, kills: int, seed: int) -> bool:
    """Kills at random moments, ``kills`` times in total; compares the result of each chain of kills."""
    draw = random.Random(seed)
    counted: collections.Counter[str] = collections.Counter()
    run, chains, good = experiment.folder / "killed", 0, True
    experiment.prepare(run)
    while counted.total() < kills or run.exists():
        process = experiment.start(run)
        moment = draw.uniform(0.1 * seconds, seconds) if counted.total() < kills else 10_000
        try:
            status = process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            counted[where(experiment.out(run))] += 1
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            continue
        chains += 1
        wrong = [f"status {status}"] if status else differences(whole, ends(experiment.out(run)))
        print(f"chain {chains}, {dict(sorted(counted.items()))}: {wrong or 'same result'}", flush=True)
        good &= not wrong
        if wrong:
            shutil.copytree(run, experiment.folder / f"wrong-{seed}-{chains}", dirs_exist_ok=True)
        shutil.rmtree(run)
        if counted.total() < kills:
            experiment.prepare(run)
    print(f"{experiment.name}: {counted.total()} random kills: {dict(sorted(counted.items()))}", flush=True)
    return good


def kills_between_writes(experiment: Experiment, whole: dict[str, Any], most: int, seed: int) -> bool:
    """Resumes from each state that a kill between two writes can leave, or from ``most`` of them if it is not 0."""
    run, states = experiment.folder / "observed", experiment.folder / "states"
    shutil.rmtree(states, ignore_errors=True)
    states.mkdir()
    experiment.prepare(run)
    experiment.out(run).mkdir(parents=True, exist_ok=True)
    with snapshots(experiment.out(run), states) as taken:
        experiment.call(run)
    assert not (wrong := differences(whole, ends(experiment.out(run)))), wrong
    picked = random.Random(seed).sample(taken, min(most or len(taken), len(taken)))
    counted: collections.Counter[str] = collections.Counter()
    good = True
    for i, one in enumerate(picked, 1):
        again = experiment.folder / "again"
        experiment.prepare(again)
        shutil.copytree(one, experiment.out(again), dirs_exist_ok=True)
        stage = where(experiment.out(again))
        counted[stage] += 1
        try:
            experiment.call(again)
            wrong = differences(whole, ends(experiment.out(again)))
        except BaseException as error:
            wrong = [f"{type(error).__name__}: {error}"]
        if wrong:
            print(f"{one.name} ({stage}): {wrong}", flush=True)
        elif i % 10 == 0:
            print(f"{i} of {len(picked)}: {dict(sorted(counted.items()))}", flush=True)
        good &= not wrong
    print(
        f"{experiment.name}: {len(picked)} of {len(taken)} states between writes: {dict(sorted(counted.items()))}",
        flush=True,
    )
    return good


def main() -> None:
    """Runs the checks of the command line; ends with status 1 if a result differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("experiment", choices=sorted(FLAGS))
    parser.add_argument("--kills", type=int, default=0, help="Number of random kills.")
    parser.add_argument("--states", type=int, default=-1, help="Number of states between writes; 0 takes all.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    experiment = Experiment(options.experiment, folder)
    os.environ.update(experiment.environment)
    whole, duration = folder / "whole", folder / "seconds"
    for _ in range(0 if duration.exists() else 2):  # the second run has compiled programs and is timed
        experiment.prepare(whole)
        began = time.monotonic()
        assert experiment.start(whole).wait() == 0, folder / "log"
        duration.write_text(f"{time.monotonic() - began}")
    seconds = float(duration.read_text())
    found = ends(experiment.out(whole))
    print(f"{options.experiment}: {seconds:.0f} s without interruption, {len(found)} items compared", flush=True)
    good = True
    if options.kills:
        good &= random_kills(experiment, found, seconds, options.kills, options.seed)
    if options.states >= 0:
        good &= kills_between_writes(experiment, found, options.states, options.seed)
    sys.exit(not good)


if __name__ == "__main__":
    main()
