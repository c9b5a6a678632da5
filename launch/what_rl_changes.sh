#!/usr/bin/env bash
# The study of what RL changes: R1-Zero on SmolLM2-135M with each seed, evaluated with 256 samples of each held-out
# problem before and after, and the comparison of all finished runs. The same command again resumes what was stopped.
#
#   launch/what_rl_changes.sh                      two-digit sums, differences and products, seeds 0 1 2
#   PROBLEMS="--problems.digits=1 --problems.terms=3 --problems.operations=+-*" launch/what_rl_changes.sh
#   SMALL=1 launch/what_rl_changes.sh              the same commands with a small model and few steps, to test this script
#   SEEDS="0 1 2" STEPS=200 SAMPLES=256 HELD_OUT=256 BASE=smollm2
#   RUNS=runs/what-rl-changes RESULTS=RUNS/study MINUTES=600
#
# pool.sh describes K, GPUS and MINUTES.
set -u
cd "$(dirname "$0")/.." || exit 1
SEEDS=${SEEDS:-0 1 2} STEPS=${STEPS:-200} SAMPLES=${SAMPLES:-256} HELD_OUT=${HELD_OUT:-256} BASE=${BASE:-smollm2}
RUNS=${RUNS:-runs/what-rl-changes} PYTHON=${PYTHON:-python} SMALL=${SMALL:-} RESULTS=${RESULTS:-$RUNS/study}
PROBLEMS=${PROBLEMS:---problems.digits=2 --problems.operations=+-* --problems.held-out-share=0.1}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

read -ra problems <<<"$PROBLEMS"
# Without the reward for the format: on problems that the base hardly solves, all answers soon have the format and few of
# them are right, and then no group has spread.
flags=(--preset smollm2 "--base=$BASE" --rewards accuracy "--rl.steps=$STEPS" "--evaluation.problems=$HELD_OUT"
  "--evaluation.samples=$SAMPLES" "${problems[@]}")
if [ -n "$SMALL" ]; then
  SAMPLES=8
  flags=(--preset tiny --pretrain.steps=6 --pretrain.batch=16 --pretrain.hidden-size=64 --pretrain.num-layers=1
    --pretrain.corpus.documents=300 --problems.train-size=40 --rl.steps=2 --rl.prompts=4 --rl.group=4
    --evaluation.problems=4 "--evaluation.samples=$SAMPLES" --verifier.workers=1 --rewards length accuracy format)
fi
. launch/pool.sh
open_pool
for seed in $SEEDS; do
  run "seed$seed" "$PYTHON" experiments/r1_zero.py "${flags[@]}" --seed "$seed" --out "$RUNS/seed$seed"
done
wait
finished=()
for seed in $SEEDS; do
  if [ -e "$RUNS/seed$seed/summary.json" ]; then finished+=("$RUNS/seed$seed"); fi
done
if ((${#finished[@]})); then
  "$PYTHON" experiments/what_rl_changes.py "${finished[@]}" --out "$RESULTS" "--samples=$SAMPLES"
fi
