#!/usr/bin/env bash
# On-policy rounds: each asks, locates and corrects with the policy of the round before, which is also the reference.
#
#     bash demo/rounds.sh MODEL problems.jsonl FOLDER [ROUNDS]       # the last policy is FOLDER/round-ROUNDS/model
#
# A round takes its share of the problems. What follows are defaults to change: JUDGE=gpt-4o ASK="--base-url URL …"
# TRAIN="--lr 5e-7 --epochs 4" PYTHON=… LAUNCH="torchrun --nproc-per-node 8". Run again, it goes on where it stopped.
set -euo pipefail
if [ $# -lt 3 ]; then sed -n '2,7s/^#//p' "$0" >&2 && exit 2; fi
model=$1 problems=$2 folder=$3 rounds=${4:-3}
stages=$(cd "$(dirname "$0")/.." && pwd) python=${PYTHON:-python}
for ((round = 1; round <= rounds; round++)); do
    out=$folder/round-$round
    mkdir -p "$out"
    awk -v n="$rounds" -v r="$round" 'NR % n == r % n' "$problems" > "$out/problems.jsonl"
    "$python" "$stages/collect.py" --model "$model" ${ASK:-} --out "$out/wrong.jsonl" --resume "$out/problems.jsonl" |
        "$python" "$stages/locate.py" --judge "${JUDGE:-equations}" --out "$out/located.jsonl" --resume |
        "$python" "$stages/correct.py" --model "$model" ${ASK:-} --out "$out/pairs.jsonl" --resume > /dev/null
    ${LAUNCH:-"$python"} "$stages/train.py" --model "$model" ${TRAIN:-} --pairs "$out/pairs.jsonl" \
        --out "$out/model" --resume
    model=$out/model
done
