#!/usr/bin/env bash
# Experiments on a host of eight GPUs in less than 25 minutes: speed on several meshes, R1-Zero with a batch that grows
# with the number of GPUs, the stages of R1, and a kill followed by resumes on several meshes. Each part writes a folder
# and a log under RUNS and a line of RUNS/parts.tsv (name, status, seconds); RUNS/summary.json compares the parts. A part
# that fails or exceeds its time limit does not stop the others. The same command again runs the missing parts.
#
#   launch/gpus8.sh                    eight GPUs
#   N=2 launch/gpus8.sh                two (a power of 2)
#   SMALL=1 launch/gpus8.sh            the same commands with small models on N CPU devices, to test this script
#   ONLY="zero resume" launch/gpus8.sh a subset of: singles r1single zero resume speed r1 speed7b
#   GPUS="4 5 6 7" N=4 launch/gpus8.sh on some of the GPUs, beside another command on the rest
#   BASE=PATH, PYTHON=python3, RUNS=runs/gpus8, MINUTES=25
set -u
cd "$(dirname "$0")/.." || exit 1
N=${N:-8} SMALL=${SMALL:-} BASE=${BASE:-smollm2} PYTHON=${PYTHON:-python} RUNS=${RUNS:-runs/gpus$N} MINUTES=${MINUTES:-25}
ONLY=${ONLY:-singles r1single zero resume speed r1 speed7b}
case $N in 2 | 4 | 8 | 16) ;; *) echo "error: N=$N: a power of 2 from 2 to 16" >&2; exit 2 ;; esac
read -ra gpus <<<"${GPUS:-$(seq -s ' ' 0 $((N - 1)))}"
if ((${#gpus[@]} != N)); then echo "error: GPUS=$GPUS names ${#gpus[@]} GPUs, and N=$N" >&2; exit 2; fi
mkdir -p "$RUNS/logs" || exit 1
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}
END=$((SECONDS + MINUTES * 60))

if [ -n "$SMALL" ]; then
  export JAX_PLATFORMS=cpu XLA_FLAGS="--xla_force_host_platform_device_count=$N"
  rl=(--rl.group=4 --sampling.max-tokens=16 --pretrain.steps=6 --pretrain.batch=16 --pretrain.hidden-size=64
    --pretrain.num-layers=1 --pretrain.corpus.documents=300 --problems.train-size=40 --evaluation.problems=4
    --rl.learning-rate=1e-3 --verifier.workers=1 --rewards length accuracy format)
  r1=(--pretrain.steps=3 --pretrain.batch=16 --pretrain.corpus.documents=400 --pretrain.num-layers=1
    --general-steps=1 --sampling.max-tokens=40 --cold-start-rows=16 --cold-start-select.problems=8
    --cold-start-sft.epochs=1 --cold-start-sft.batch=8 --rejection.problems=8 --sft.epochs=1 --sft.batch=8
    --reward-model.epochs=1 --evaluation.problems=6 --evaluation.samples=2 --general-repeats=1
    --problems.train-size=40 --verifier.workers=1)
  for stage in zero reasoning-rl final-rl; do r1+=("--$stage.steps=2" "--$stage.prompts=4" "--$stage.group=4"); done
  prompts=4 microbatch=16 steps=16 save=2 killed_at=5
  speed=(--model=tiny --repeats=1) speed7b=(--model=tiny --repeats=1)
else
  rl=(--preset=smollm2 "--base=$BASE")
  r1=(--preset=smollm2 "--base=$BASE")
  prompts=64 microbatch=256 steps=80 save=5 killed_at=12
  # A loop over blocks and half the prompts, so that compilation and runs fit into the time.
  speed=(--model=qwen2.5-1.5b --prompts=16 --microbatch=16 --unroll=false --repeats=2)
  # Training all weights does not fit on one GPU.
  speed7b=(--model=qwen2.5-7b --prompts=8 --group=8 --microbatch=8 --tokens=512 --beta=0 --remat=block --unroll=false
    --repeats=1)
fi
whole=() # meshes of all N devices, Nx1 first
for ((m = 1; m <= N; m *= 2)); do whole+=("$((N / m))x$m"); done
other=("${whole[1]}" 1x1) # meshes that resume from the checkpoint of Nx1: 4x2 and 1x1 for N=8

part() { # part NAME MINUTES COMMAND...: runs a command once, with a time limit and a log
  local name=$1 limit=$(($2 * 60)) began=$SECONDS status
  shift 2
  if grep -qP "^$name\t0\t" "$RUNS/parts.tsv" 2>/dev/null; then return 0; fi
  if ((END - SECONDS < limit)); then limit=$((END - SECONDS)); fi
  if ((limit < 10)); then
    echo "$name: no time left"
    printf '%s\tno time\t0\n' "$name" >>"$RUNS/parts.tsv"
    return 1
  fi
  timeout --kill-after=20 "$limit" "$@" >>"$RUNS/logs/$name.log" 2>&1
  status=$?
  printf '%s\t%s\t%s\n' "$name" "$status" "$((SECONDS - began))" >>"$RUNS/parts.tsv"
  echo "$name: status $status after $((SECONDS - began)) s"
  if ((status)); then tail -n 1 "$RUNS/logs/$name.log"; fi
  return "$status"
}

use_gpus() { # use_gpus FIRST COUNT: the GPUs that the commands after it see
  CUDA_VISIBLE_DEVICES=$(IFS=, && echo "${gpus[*]:$1:$2}")
}

wanted() { case " $ONLY " in *" $1 "*) return 0 ;; *) return 1 ;; esac; }

zero() { # zero MESH FACTOR STEPS FLAGS...: sets the array command to R1-Zero with FACTOR times the batch
  command=("$PYTHON" experiments/r1_zero.py "${rl[@]}" "--mesh=$1" "--rl.prompts=$((prompts * $2))"
    "--rl.microbatch=$((microbatch * ${1%x*}))" "--rl.steps=$3" "${@:4}")
}

meshes() { # meshes NAME MINUTES FLAGS... -- MESH...: speed on meshes; after a failure, each mesh is tried separately
  local name=$1 limit=$2 flags=()
  shift 2
  while [ "$1" != -- ]; do flags+=("$1") && shift; done
  shift
  local command=("$PYTHON" experiments/scaling.py "--out=$RUNS/scaling" "${flags[@]}" --meshes)
  part "$name" "$limit" "${command[@]}" "$@" && return
  for mesh in "$@"; do part "$name-$mesh" 4 "${command[@]}" "$mesh"; done
}

kill_and_resume() { # kills R1-Zero on Nx1, then resumes it on Nx1 and copies of it on other meshes
  local out=$RUNS/resume mesh pid command
  if [ ! -e "$RUNS/killed" ]; then
    zero "${whole[0]}" "$N" $((killed_at * 2)) "--save.every=$save" "--out=$out"
    "${command[@]}" >>"$RUNS/logs/resume.log" 2>&1 &
    pid=$!
    while kill -0 "$pid" 2>/dev/null && ((SECONDS < END)); do
      if [ -e "$out/r1-zero/metrics.jsonl" ] && (($(wc -l <"$out/r1-zero/metrics.jsonl") >= killed_at)); then break; fi
      sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null
    wait "$pid" 2>/dev/null
    if [ ! -e "$out/r1-zero/metrics.jsonl" ]; then return 1; fi
    for mesh in "${other[@]}"; do rm -rf "$RUNS/resume-$mesh" && cp -r "$out" "$RUNS/resume-$mesh"; done
    wc -l <"$out/r1-zero/metrics.jsonl" >"$RUNS/killed"
  fi
  for mesh in "${whole[0]}" "${other[@]}"; do
    if [ "$mesh" != "${whole[0]}" ]; then out=$RUNS/resume-$mesh; fi
    zero "$mesh" "$N" $((killed_at * 2)) "--save.every=$save" "--out=$out"
    part "resume-$mesh" 4 "${command[@]}"
  done
}

first_gpu() {
  local -x CUDA_VISIBLE_DEVICES
  use_gpus 0 1
  meshes speed-1x1 4 "${speed[@]}" -- 1x1
  local command
  zero 1x1 1 "$steps" "--out=$RUNS/zero-1x1"
  part zero-1x1 6 "${command[@]}"
}

second_gpu() {
  local -x CUDA_VISIBLE_DEVICES
  use_gpus 1 1
  part r1-1x1 11 "$PYTHON" experiments/r1.py "--out=$RUNS/r1-1x1" --mesh=1x1 "${r1[@]}"
}

gpus_from() { # gpus_from K: uses the K GPUs from number K
  local -x CUDA_VISIBLE_DEVICES
  use_gpus "$1" "$1"
  meshes "speed-$1x1" 5 "${speed[@]}" -- "$1x1"
  if wanted speed7b; then meshes "speed7b-$1x1" 5 "${speed7b[@]}" --scalings=strong -- "$1x1"; fi
}

# In parallel on separate GPUs: runs on one device, and meshes of fewer than N devices.
if wanted singles; then
  first_gpu &
  for ((first = 2; first * 2 <= N; first *= 2)); do gpus_from "$first" & done
fi
if wanted r1single; then second_gpu & fi
wait
# Sequential runs on all devices.
export CUDA_VISIBLE_DEVICES
use_gpus 0 "$N"
if wanted zero; then
  # Four times the samples of one device; its first steps/N steps are compared at equal samples.
  zero "${whole[0]}" "$N" $((steps * 4 / N)) "--out=$RUNS/zero-${whole[0]}"
  part "zero-${whole[0]}" 6 "${command[@]}"
fi
if wanted resume; then kill_and_resume; fi
if wanted speed; then meshes "speed-${whole[0]}" 4 "${speed[@]}" -- "${whole[0]}"; fi
if wanted r1; then
  part "r1-${whole[0]}" 8 "$PYTHON" experiments/r1.py "--out=$RUNS/r1-${whole[0]}" "--mesh=${whole[0]}" "${r1[@]}"
fi
if wanted speed; then meshes speed-others 6 "${speed[@]}" -- "${whole[@]:1}"; fi
if wanted speed7b; then meshes speed7b-whole 6 "${speed7b[@]}" --scalings=strong -- "${whole[@]}"; fi
"$PYTHON" launch/summary.py "$RUNS" "$N" "${whole[0]}"
