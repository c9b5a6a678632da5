#!/usr/bin/env bash
# The ablations of GRPO on the tiny preset: one call of experiments/ablate.py for each axis, all from one base model, and
# the cost of many trainings at once. The same command again resumes what was stopped and skips what is finished.
#
#   launch/ablations.sh                          all axes, 8 seeds, one command at a time on each GPU
#   MINUTES=20 launch/ablations.sh               stops after twenty minutes
#   SMALL=1 launch/ablations.sh                  the same commands with a small model and few steps, to test this script
#   AXES="beta clip" SEEDS=8 STEPS=100 BASE=PATH RUNS=runs/ablations RESULTS=RUNS/results PYTHON=python
#
# All arms of an axis have the same number of samples, 256 a step. RESULTS gets summary.json and results.csv of each
# finished axis, cost-DTYPE.json, and summary and metrics of one training by the ordinary loop. BASE is the folder of a
# checkpoint; without it a base model is pretrained. pool.sh describes K, GPUS and MINUTES.
set -u
cd "$(dirname "$0")/.." || exit 1
AXES=${AXES:-group beta clip std length temperature reference updates} SEEDS=${SEEDS:-8} STEPS=${STEPS:-100}
RUNS=${RUNS:-runs/ablations} PYTHON=${PYTHON:-python} SMALL=${SMALL:-} RESULTS=${RESULTS:-$RUNS/results}
BASE=${BASE:-}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

groups="rl.group+rl.prompts=4+64,8+32,16+16"
if [ -n "$SMALL" ]; then groups="rl.group+rl.prompts=4+8,8+4,16+2"; fi

# The axis, and the settings without which it has no effect: the clip acts from the second update of a rollout on, and
# there is no reference without a KL term.
flags_of() { # flags_of AXIS
  case $1 in
    group) echo "--grid $groups" ;;
    beta) echo --grid rl.beta=0,0.01,0.04,0.1 ;;
    clip) echo --grid rl.eps-high=0.2,0.28,1 --rl.minibatches=4 ;;
    std) echo --grid rl.normalise-std=true,false ;;
    length) echo --grid rl.aggregate=sequence,token,constant ;;
    temperature) echo --grid sampling.temperature=1.0,0.6,0.8,1.2 ;;
    reference) echo --grid rl.reference-every=0,10,50 --rl.beta=0.04 ;;
    updates) echo --grid rl.minibatches=1,2,4,8 ;;
    *) echo "error: AXES: no settings for $1" >&2 && exit 2 ;;
  esac
}

for axis in $AXES; do flags_of "$axis" >/dev/null || exit 2; done
counts="1 8 64" pretrain=() ordinary=("--rl.steps=$STEPS")
if [ -n "$SMALL" ]; then
  SEEDS=2 counts="1 2"
  pretrain=(--pretrain.steps=6 --pretrain.batch=16 --pretrain.hidden-size=64 --pretrain.num-layers=1
    --pretrain.corpus.documents=300 --problems.train-size=40)
  ordinary=(--rl.steps=2 --rl.prompts=4 --sampling.max-tokens=16 --problems.train-size=40 --evaluation.problems=4)
fi
train=("${ordinary[@]}" ${SMALL:+--chunks.every=1})
. launch/pool.sh
open_pool
if [ -z "$BASE" ]; then
  run base "$PYTHON" experiments/r1_zero.py --only pretrain --out "$RUNS/base" "${pretrain[@]}"
  wait
  BASE=$RUNS/base/pretrain
fi
# Alone on the host, one after another, for clean times: trainings at once in either type, and the ordinary loop.
for dtype in float32 bfloat16; do
  # shellcheck disable=SC2086
  run "cost-$dtype" "$PYTHON" experiments/ablate.py --measure $counts --base "$BASE" --dtype "$dtype" \
    --out "$RUNS/cost-$dtype" "${train[@]}"
  wait
done
run ordinary "$PYTHON" experiments/r1_zero.py --base "$BASE" --out "$RUNS/ordinary" "${ordinary[@]}"
wait
for axis in $AXES; do
  # shellcheck disable=SC2046
  run "$axis" "$PYTHON" experiments/ablate.py $(flags_of "$axis") --seeds "$SEEDS" --base "$BASE" --out "$RUNS/$axis" \
    "${train[@]}"
done
wait
mkdir -p "$RESULTS" || exit 1
for dtype in float32 bfloat16; do
  if [ -e "$RUNS/cost-$dtype/cost.json" ]; then cp "$RUNS/cost-$dtype/cost.json" "$RESULTS/cost-$dtype.json"; fi
done
if [ -e "$RUNS/ordinary/summary.json" ]; then
  cp "$RUNS/ordinary/summary.json" "$RESULTS/ordinary.json"
  cp "$RUNS/ordinary/r1-zero/metrics.jsonl" "$RESULTS/ordinary.jsonl"
fi
for axis in $AXES; do
  if [ -e "$RUNS/$axis/summary.json" ]; then
    mkdir -p "$RESULTS/$axis" && cp "$RUNS/$axis/summary.json" "$RUNS/$axis/ablation/results.csv" "$RESULTS/$axis"
  fi
done
