"""The scripts that start many runs, with a program in place of Python that records how it was called."""

import os
import subprocess

import pytest

from tests.helpers.paths import ROOT

RECORDER = """#!/usr/bin/env bash
echo "$CUDA_VISIBLE_DEVICES|$*" >>"$CALLS"
while [ $# -gt 0 ]; do
  if [ "$1" = --out ]; then mkdir -p "$2" && touch "$2/summary.json"; fi
  case $* in *"$FAIL"*) exit 3 ;; esac
  shift
done
"""


@pytest.fixture
def launch(tmp_path):
    """Calls a script and returns its status and the calls that it made: (GPU, arguments)."""
    recorder = tmp_path / "recorder"
    recorder.write_text(RECORDER)
    recorder.chmod(0o755)

    def call(script, **settings):
        calls = tmp_path / "calls"
        calls.unlink(missing_ok=True)
        environment = {"PYTHON": recorder, "CALLS": calls, "RUNS": tmp_path / "runs", "GPUS": "0 1", "FAIL": "nothing"}
        environment |= settings
        done = subprocess.run(
            [f"launch/{script}"],
            cwd=ROOT,
            env=os.environ | {name: str(value) for name, value in environment.items()},
            capture_output=True,
            text=True,
            check=False,
        )
        lines = calls.read_text().splitlines() if calls.exists() else []
        return done.returncode, [line.split("|") for line in lines]

    return call


def test_algorithms_of_one_seed_start_from_one_base_and_finished_runs_are_not_repeated(launch, tmp_path):
    names = "grpo dr-grpo reinforce++ dapo"
    status, calls = launch("algorithms.sh", ALGORITHMS=names, SEEDS="0 1", FAIL="/grpo-seed1")
    # RL and all other stages are two calls, and the second is not made after a failure.
    assert status == 0 and len(calls) == 2 + 7 * 2 + 1 + 1
    bases, runs, (_, table) = calls[:2], calls[2:-1], calls[-1]
    assert all("--only pretrain" in words for _, words in bases)
    assert {gpu for gpu, _ in runs} == {"0", "1"}
    assert len([words for _, words in runs if words.endswith("--only r1-zero")]) == 8
    for name in names.split():
        for seed in "01":
            folder = f"{tmp_path}/runs/{name}-seed{seed} "
            first, *second = (words for _, words in runs if f"--out {folder}" in words)
            words = first.removesuffix(" --only r1-zero")
            assert second == [words] * ((name, seed) != ("grpo", "1"))
            assert f"--base {tmp_path}/runs/base-seed{seed}/pretrain --seed {seed} " in words
            assert f"--rl.algorithm={name} " in words and words.endswith("--rl.steps=100")
            # The learning rate is divided by the square root of the updates.
            many = "--rl.minibatches=16 --rl.learning-rate=0.0001 --rl.overlong-buffer=10 "
            assert (many if name == "dapo" else "--rl.minibatches=1 --rl.learning-rate=0.0004 ") in words
            assert (f" {folder}" in table) == bool(second)  # only finished runs are compared
    # dr-grpo-seed1 has ended well, which grpo-seed1 has not.
    _, again = launch("algorithms.sh", ALGORITHMS=names, SEEDS="0 1")
    wanted = [(True, False), (True, False), (True, True)]
    assert [("/grpo-seed1 " in words, "compare.py" in words) for _, words in again] == wanted
    assert launch("algorithms.sh", ALGORITHMS="grpo nope") == (2, [])


def test_a_search_runs_each_algorithm_with_each_rate(launch):
    _, calls = launch("algorithms.sh", ALGORITHMS="ppo", SEEDS=3, RATES="1e-4 4e-4")
    flags = [words for _, words in calls if words.endswith("--only r1-zero")]
    for rate, half in (("1e-4", "5e-05"), ("4e-4", "0.0002")):
        (words,) = (words for words in flags if f"/ppo-{rate}-seed3 " in words)
        assert f"--rl.minibatches=4 --rl.learning-rate={half} " in words


def test_ablations_start_from_one_base_and_their_results_are_collected(launch, tmp_path):
    runs = tmp_path / "runs"
    (runs / "ordinary" / "r1-zero").mkdir(parents=True)
    (runs / "ordinary" / "r1-zero" / "metrics.jsonl").write_text("one\n")
    for axis in ("beta", "group"):
        (runs / axis / "ablation").mkdir(parents=True)
        (runs / axis / "ablation" / "results.csv").write_text("one\n")
    status, calls = launch("ablations.sh", AXES="beta group", SEEDS=3, FAIL="rl.beta")
    assert status == 0
    words = [words for _, words in calls]
    assert ["--only pretrain" in one for one in words] == [True] + 5 * [False]
    for dtype, one in zip(("float32", "bfloat16"), words[1:3], strict=True):
        measured = f"--measure 1 8 64 --base {runs}/base/pretrain --dtype {dtype} --out {runs}/cost-{dtype}"
        assert measured in one
    assert words[3].startswith("experiments/r1_zero.py") and words[3].endswith(f"{runs}/ordinary --rl.steps=100")
    assert any("--grid rl.group+rl.prompts=4+64,8+32,16+16 --seeds 3" in one for one in words[4:])
    assert all(f"--base {runs}/base/pretrain" in one for one in words[1:])
    assert sorted(path.name for path in (runs / "results" / "group").iterdir()) == ["results.csv", "summary.json"]
    assert not (runs / "results" / "beta").exists()  # it has failed
    assert {path.name for path in (runs / "results").glob("ordinary*")} == {"ordinary.json", "ordinary.jsonl"}
    _, calls = launch("ablations.sh", AXES="beta group", SEEDS=3, BASE="mine")
    ((_, again),) = calls
    assert "--grid rl.beta=0,0.01,0.04,0.1 --seeds 3 --base mine " in again
    assert launch("ablations.sh", AXES="beta nope") == (2, [])


def test_the_study_compares_the_finished_runs_and_nothing_starts_without_time(launch, tmp_path):
    _, calls = launch("what_rl_changes.sh", SEEDS="0 1", HELD_OUT=5)
    runs, (_, study) = calls[:-1], calls[-1]
    assert len(runs) == 2 and all("--evaluation.problems=5 --evaluation.samples=256" in words for _, words in runs)
    assert f"what_rl_changes.py {tmp_path}/runs/seed0 {tmp_path}/runs/seed1 --out" in study
    _, calls = launch("what_rl_changes.sh", SEEDS="0 1 2", MINUTES=0)
    assert [words.split()[0] for _, words in calls] == ["experiments/what_rl_changes.py"]  # of the two finished ones
