#!/usr/bin/env bash
# The entries of the speedrun (docs/speedrun.md): each entry with each seed, one run at a time on each GPU. The same
# command again skips what is finished; a run that was stopped resumes, but is no record.
#
#   BASE=qwen.gguf launch/speedrun.sh                         all entries, seeds 0 1 2
#   BASE=qwen.gguf ENTRIES="plain lr" SEEDS="3 4 5" TARGET=0.2 LIMIT=20 launch/speedrun.sh
#   SMALL=1 launch/speedrun.sh                                the same commands with a small model, to test this script
#   KEEP=1 RUNS=runs/speedrun RESULTS=RUNS/records PYTHON=python
#
# LIMIT is the largest number of minutes on a run's clock. RESULTS gets the record of each finished run, in
# speedrun-ENTRY-seedSEED. The checkpoints of a finished run are removed unless KEEP is set: they have 6 GB at 0.5B.
# pool.sh describes GPUS and MINUTES; K above 1 is refused, since runs that share a GPU have no clean times.
set -u
cd "$(dirname "$0")/.." || exit 1
ENTRIES=${ENTRIES:-plain lr updates-2 updates-4 clip-higher drop-groups batch-256 group-32 length-256 kl dr-grpo often combined}
SEEDS=${SEEDS:-0 1 2} TARGET=${TARGET:-0.17} LIMIT=${LIMIT:-15} BASE=${BASE:-} SMALL=${SMALL:-} KEEP=${KEEP:-}
RUNS=${RUNS:-runs/speedrun} PYTHON=${PYTHON:-python} RESULTS=${RESULTS:-$RUNS/records}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

# What each entry changes of plain, which has one update a rollout and no KL; the clip acts from the second update on.
flags_of() { # flags_of ENTRY
  case $1 in
    plain) ;;
    lr) echo --rl.learning-rate=6e-6 --rl.warmup-steps=10 ;;
    updates-2) echo --rl.minibatches=2 ;;
    updates-4) echo --rl.minibatches=4 ;;
    clip-higher) echo --rl.minibatches=4 --rl.eps-high=0.28 ;;
    drop-groups) echo --rl.drop-equal-groups ;;
    batch-256) echo --rl.prompts=16 ;;
    batch-128) echo --rl.prompts=8 --every=20 ;;
    batch-128-lr) echo --rl.prompts=8 --rl.learning-rate=6e-6 --rl.warmup-steps=20 --every=20 ;;
    batch-256-updates-2) echo --rl.prompts=16 --rl.minibatches=2 ;;
    group-32) echo --rl.prompts=16 --rl.group=32 ;;
    length-256) echo --sampling.max-tokens=256 ;;
    kl) echo --rl.beta=0.001 ;;
    dr-grpo) echo --rl.algorithm=dr-grpo ;;
    often) echo --every=5 ;;
    combined) echo --rl.learning-rate=6e-6 --rl.minibatches=2 --sampling.max-tokens=256 --every=5 ;;
    *) echo "error: ENTRIES: no settings for $1" >&2 && exit 2 ;;
  esac
}

for entry in $ENTRIES; do flags_of "$entry" >/dev/null || exit 2; done
if [ "${K:-1}" != 1 ]; then echo "error: K=$K: runs that share a GPU have no clean times" >&2 && exit 2; fi
if [ -z "$BASE$SMALL" ]; then echo "error: BASE: give the path of a .gguf file or of a Hugging Face folder" >&2 && exit 2; fi
small=()
. launch/pool.sh
open_pool
if [ -n "$SMALL" ]; then
  small=(--preset=small --rl.steps=2 --rl.prompts=8 --rl.microbatch=0 --task.problems.train-size=40
    --task.evaluation.problems=8 --task.measurement.problems=4 --task.transfer.held-out-size=4 --verifier.workers=1)
  if [ -z "$BASE" ]; then
    run base "$PYTHON" experiments/r1_zero.py --only pretrain --out "$RUNS/base" --pretrain.steps=6 --pretrain.batch=16 \
      --pretrain.hidden-size=64 --pretrain.num-layers=1 --pretrain.corpus.documents=300 --problems.train-size=40 \
      --evaluation.problems=4
    wait
    BASE=$RUNS/base/pretrain
  fi
fi
for seed in $SEEDS; do
  for entry in $ENTRIES; do
    flags=$(flags_of "$entry")
    # The flags of SMALL are last, so that its completions stay short.
    # shellcheck disable=SC2086
    run "$entry-seed$seed" "$PYTHON" experiments/speedrun.py "--base=$BASE" "--entry=$entry" "--seed=$seed" \
      "--target=$TARGET" "--minutes=$LIMIT" "--out=$RUNS/$entry-seed$seed" ${small[0]:+"${small[0]}"} $flags \
      "${small[@]:1}" ${SMALL:+--sampling.max-tokens=48}
  done
done
wait
mkdir -p "$RESULTS" || exit 1
for seed in $SEEDS; do
  for entry in $ENTRIES; do
    run=$RUNS/$entry-seed$seed
    if [ -e "$run/record/record.json" ]; then
      rm -rf "$RESULTS/speedrun-$entry-seed$seed" && cp -r "$run/record" "$RESULTS/speedrun-$entry-seed$seed"
      if [ -z "$KEEP" ]; then rm -rf "$run/speedrun/"[0-9]*; fi
    fi
  done
done
