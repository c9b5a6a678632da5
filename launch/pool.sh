# Functions for scripts that start many commands on one host, each on one GPU; to be sourced.
#
#   K=1              commands at a time on a GPU; with more than one, times and peak memory are not those of a whole GPU
#   GPUS="0 1"       the GPUs to use; all that nvidia-smi lists if not given, one process on the CPU without any
#   RUNS             the folder of logs and of parts.tsv (name, status, seconds)
#   MINUTES          no command starts after this many minutes, and those that run then are stopped with SIGTERM:
#                    r1_zero.py saves the current step, and the same command resumes

open_pool() { # starts the clock and makes a slot for each command that may run at the same time
  K=${K:-1} MINUTES=${MINUTES:-600}
  read -ra GPU_LIST <<<"${GPUS:-$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | tr '\n' ' ')}"
  if ((${#GPU_LIST[@]} == 0)); then GPU_LIST=(none); fi
  mkdir -p "$RUNS/logs" || exit 1
  END=$((SECONDS + MINUTES * 60))
  local fifo slot gpu
  fifo=$(mktemp -u) && mkfifo "$fifo" && exec 3<>"$fifo" && rm "$fifo" || exit 1
  for ((slot = 0; slot < K; slot++)); do for gpu in "${GPU_LIST[@]}"; do echo "$gpu" >&3; done; done
  if ((K > 1)); then export XLA_PYTHON_CLIENT_MEM_FRACTION=.$(printf '%02d' $((90 / K))); fi
}

run() { # run NAME COMMAND...: runs a command on the next free slot, unless RUNS/parts.tsv says that it has ended well
  local name=$1 gpu
  shift
  # Whole names: grpo-seed0 is also the end of dr-grpo-seed0.
  if cut -f 1,2 "$RUNS/parts.tsv" 2>/dev/null | grep -qxF "$name"$'\t0'; then return 0; fi
  read -r -u 3 gpu
  {
    local began=$SECONDS left=$((END - SECONDS)) status=timeout
    if ((left > 20)); then
      if [ "$gpu" != none ]; then export CUDA_VISIBLE_DEVICES=$gpu; fi
      timeout --kill-after=60 "$left" "$@" >>"$RUNS/logs/$name.log" 2>&1
      status=$?
    fi
    printf '%s\t%s\t%s\n' "$name" "$status" "$((SECONDS - began))" >>"$RUNS/parts.tsv"
    echo "$name: status $status after $((SECONDS - began)) s"
    if [ "$status" != 0 ]; then tail -n 1 "$RUNS/logs/$name.log" 2>/dev/null; fi
    echo "$gpu" >&3
  } &
}
