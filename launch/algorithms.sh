#!/usr/bin/env bash
# The table of algorithms: each algorithm on the tiny preset with each seed, from the same base model per seed, and the
# comparison of all finished runs. The same command again resumes what was stopped and skips what is finished.
#
#   launch/algorithms.sh                        all algorithms, seeds 0 1 2, one command at a time on each GPU
#   K=4 GPUS="0" launch/algorithms.sh           four at a time on one GPU: times are not clean
#   MINUTES=9 launch/algorithms.sh              stops after nine minutes
#   SMALL=1 launch/algorithms.sh                the same commands with a small model and few steps, to test this script
#   ALGORITHMS="grpo ppo" SEEDS="0 1" STEPS=100 RATE=4e-4 RUNS=runs/algorithms RESULTS=RUNS/table PYTHON=python
#   RATES="1e-4 2e-4 4e-4 8e-4" SEEDS=3 RUNS=runs/rates launch/algorithms.sh    each algorithm with each learning rate
#
# All algorithms have the schedule, prompts, group size and number of steps of the preset, and so the same number of
# samples; algorithms that drop groups sample more. The learning rate is RATE, divided by the square root of the updates
# of a rollout: at the same rate 16 updates instead of one make CISPO collapse. pool.sh describes K, GPUS and MINUTES.
set -u
cd "$(dirname "$0")/.." || exit 1
ALGORITHMS=${ALGORITHMS:-grpo dr-grpo dapo rloo reinforce++ gspo cispo ppo prime} SEEDS=${SEEDS:-0 1 2}
STEPS=${STEPS:-100} RATE=${RATE:-4e-4} RATES=${RATES:-} RUNS=${RUNS:-runs/algorithms} PYTHON=${PYTHON:-python}
SMALL=${SMALL:-} RESULTS=${RESULTS:-$RUNS/table}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

# Flags beside those that the name brings. Minibatches are the updates of a rollout, as in the papers. DAPO's overlong
# buffer is a fifth of the longest completion, which has 48 tokens.
settings() { # settings NAME RATE
  local updates flags=()
  case $1 in
    dapo) updates=16 flags=(--rl.overlong-buffer=10) ;; # arXiv 2503.14476
    gspo) updates=4 ;;                                  # arXiv 2507.18071
    cispo) updates=16 ;;                                # arXiv 2506.13585
    ppo) updates=4 ;;                                   # arXiv 1707.06347: several updates, no fixed number
    grpo | dr-grpo | rloo | reinforce++ | prime) updates=1 ;;
    *) echo "error: ALGORITHMS: no settings for $1" >&2 && exit 2 ;;
  esac
  echo "--rl.minibatches=$updates" "--rl.learning-rate=$(awk "BEGIN { print $2 / sqrt($updates) }")" "${flags[@]}"
}

for name in $ALGORITHMS; do settings "$name" "$RATE" >/dev/null || exit 2; done
base=() train=("--rl.steps=$STEPS")
if [ -n "$SMALL" ]; then
  base=(--pretrain.steps=6 --pretrain.batch=16 --pretrain.hidden-size=64 --pretrain.num-layers=1
    --pretrain.corpus.documents=300)
  train=(--rl.steps=2 --rl.prompts=4 --rl.group=4)
  for flag in --problems.train-size=40 --evaluation.problems=4 --verifier.workers=1 "--rewards length accuracy format"; do
    read -ra words <<<"$flag" && base+=("${words[@]}") && train+=("${words[@]}")
  done
fi
. launch/pool.sh
open_pool
for seed in $SEEDS; do
  run "base-seed$seed" "$PYTHON" experiments/r1_zero.py --seed "$seed" --only pretrain --out "$RUNS/base-seed$seed" \
    "${base[@]}"
done
wait
for seed in $SEEDS; do
  for name in $ALGORITHMS; do
    for rate in ${RATES:-$RATE}; do
      flags=$(settings "$name" "$rate")
      label=$name${RATES:+-$rate}-seed$seed
      # RL has a process of its own, since the peak of memory is that of a process.
      # shellcheck disable=SC2016,SC2086
      run "$label" sh -c '"$@" --only r1-zero && "$@"' sh "$PYTHON" experiments/r1_zero.py --preset tiny \
        --base "$RUNS/base-seed$seed/pretrain" --seed "$seed" --out "$RUNS/$label" "--rl.algorithm=$name" $flags \
        "${train[@]}"
    done
  done
done
wait
finished=()
for name in $ALGORITHMS; do
  for rate in ${RATES:-$RATE}; do
    for seed in $SEEDS; do
      folder=$RUNS/$name${RATES:+-$rate}-seed$seed
      if [ -e "$folder/summary.json" ]; then finished+=("$folder"); fi
    done
  done
done
if ((${#finished[@]})); then
  "$PYTHON" experiments/compare.py "${finished[@]}" --out "$RESULTS" --title "Algorithms · preset tiny · seeds $SEEDS"
fi
