#!/usr/bin/env bash
# The whole method on the demo's world, on a CPU, from nothing to one table:
#
#     bash demo/run.sh [FOLDER]        # results in FOLDER, default runs/demo; SEED=1 for another world and policy
#
# Run again after an interruption, it goes on where it stopped. To start afresh, remove FOLDER.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd) seed=${SEED:-0}
folder=${1:-$root/runs/demo}
mkdir -p "$folder" && out=$(cd "$folder" && pwd)
cd "$root"
set --  # what env.sh is given are requirement files
. demo/env.sh
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

phase() { # phase NAME COMMAND…: unless it was finished before, run it; stderr to NAME.log, seconds to times.tsv
    local name=$1 begin=$SECONDS
    grep -qs "^$name"$'\t' "$out/times.tsv" && return
    echo "$name …" >&2
    if ! "${@:2}" 2> "$out/$name.log"; then
        tail "$out/$name.log" >&2
        exit 1
    fi
    printf '%s\t%d\n' "$name" $((SECONDS - begin)) >> "$out/times.tsv"
}

train() { # two threads: training runs alone
    OMP_NUM_THREADS=2 "$PYTHON" train.py --seed "$seed" --resume "$@"
}

ask() { # ask STAGE…: with the policy's folder and how to sample it
    "$PYTHON" "$@" --seed "$seed" --max-tokens 200 --batch-size 256 --resume
}

pairs() { # wrong answers | their first wrong steps | right steps instead: three programs at once, every row also kept
    local policy=(--model "$out/sft" --temperature 1 --top-p 1)
    ask collect.py "${policy[@]}" --samples 1 --out "$out/wrong.jsonl" "$out/world/train.jsonl" |
        "$PYTHON" locate.py --judge equations --out "$out/located.jsonl" --resume |
        ask correct.py "${policy[@]}" --samples 8 --out "$out/pairs.jsonl" > /dev/null || return
    # one answer a problem and one pair an answer: every tenth pair is of problems that the others know nothing of
    awk 'NR % 10 == 0' "$out/pairs.jsonl" > "$out/pairs-held-out.jsonl"
    awk 'NR % 10 != 0' "$out/pairs.jsonl" > "$out/pairs-train.jsonl"
}

# Rates, β and epochs were chosen on world/validation.jsonl, never on the test problems.
phase world "$PYTHON" demo/world.py --out "$out/world" --seed "$seed"
phase sft train --objective sft --model "$out/world/model" --pairs "$out/world/sft.jsonl" --out "$out/sft" \
    --lr 3e-3 --warmup 0.05 --epochs 2 --batch-size 16
phase before ask evaluate.py --model "$out/sft" --out "$out/before.jsonl" "$out/world/test.jsonl"
phase pairs pairs
phase step-dpo train --objective step-dpo --model "$out/sft" --pairs "$out/pairs-train.jsonl" \
    --eval-pairs "$out/pairs-held-out.jsonl" --out "$out/step-dpo" --lr 2e-5 --beta 0.4 --epochs 3 --batch-size 32
phase after ask evaluate.py --model "$out/step-dpo" --out "$out/after.jsonl" "$out/world/test.jsonl"
"$PYTHON" -m demo.table "$out" | tee "$out/table.txt"
