#!/usr/bin/env bash
# torch 2.13.0: a node that comes late to an elastic torchrun does not join it, and ends it.
#
# Three nodes on one machine, `--nnodes 2:3` with the c10d rendezvous. Two are started and run; the
# third comes later. Its ranks do nothing but wait.
#
# One would guess: the two stop their ranks, all three meet again, and there are three ranks, as the
# documentation of elastic launches has it.
# What happens: the two stop their ranks and meet with the third in a new round, for which the keys
# in the store have a new prefix. The third waits there for the address of rank 0. Rank 0 wrote it in
# the first round and keeps it: since the store of the rendezvous is shared, it is only made anew by
# a node that becomes rank 0. So nobody writes it. After 60 seconds the first two end with an error of
# the store (exit code 1), and the third with them: the run is over because a node was added.
# With TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 the same three nodes are three ranks after some seconds.
# Seen:
#     store shared (default): world sizes 2; the nodes ended with 1 1 1
#     store not shared:       world sizes 2 3
#
# Installs into a temporary folder. Exits with 0 where it behaves so, else with 1.
set -euo pipefail
folder=$(mktemp -d)
pids=()
clear() { kill -9 "${pids[@]}" 2>/dev/null || true; rm -rf "$folder"; }
trap clear EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy==2.4.6

cat > rank.py <<'PY'
import os, pathlib, time
size, rank = os.environ["WORLD_SIZE"], os.environ["RANK"]
pathlib.Path(os.environ["SEEN"], f"{size}-{rank}").touch()
time.sleep(300)
PY

start() {  # the port and the node's number
  venv/bin/python -m torch.distributed.run --nnodes 2:3 --nproc-per-node 1 --max-restarts 3 \
    --rdzv-backend c10d --rdzv-id job --rdzv-endpoint "127.0.0.1:$1" --local-addr 127.0.0.1 \
    --rdzv-conf "is_host=$((${2} == 0)),last_call_timeout=3" "$folder/rank.py" > "node-$1-$2.log" 2>&1 &
  pids+=($!)
}

wait_for() {  # a file, and how many seconds at most
  for _ in $(seq "$(($2 * 5))"); do [ -e "$1" ] && return 0; sleep 0.2; done
  return 1
}

try() {  # the port
  export SEEN="$folder/seen-$1"
  mkdir "$SEEN"
  pids=()
  start "$1" 0; start "$1" 1
  wait_for "$SEEN/2-1" 120 || { echo "the first two nodes never began"; exit 1; }
  sleep 2
  start "$1" 2
  codes=""
  if ! wait_for "$SEEN/3-2" 30; then
    for pid in "${pids[@]}"; do code=0; wait "$pid" || code=$?; codes="$codes $code"; done
  fi
  kill -9 "${pids[@]}" 2>/dev/null || true
  pkill -9 -f "$folder/rank.py" 2>/dev/null || true
  sizes=$(ls "$SEEN" | cut -d- -f1 | sort -u | tr '\n' ' ')
}

try 29871
echo "store shared (default): world sizes $sizes; the nodes ended with$codes"
[ "$sizes" = "2 " ] && [ "$codes" = " 1 1 1" ] || exit 1
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
try 29872
echo "store not shared:       world sizes $sizes"
[ "$sizes" = "2 3 " ]
