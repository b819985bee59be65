#!/usr/bin/env bash
# The whole method on the demo's world, on a CPU, from nothing to one table:
#
#     bash demo/run.sh [FOLDER]        # results in FOLDER, default runs/demo; SEED=1 for another world and policy
#
# Run again after an interruption it goes on where it stopped. To start afresh, remove FOLDER.
set -euo pipefail
out=$(realpath -m "${1:-runs/demo}") seed=${SEED:-0}
cd "$(dirname "$0")/.."
set --  # env.sh takes arguments
. demo/env.sh
mkdir -p "$out"
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1  # so small a model gains nothing from more threads

phase() { # phase NAME COMMAND…: run it unless an earlier run has finished it; stderr to NAME.log, seconds to times.tsv
    grep -qs "^$1	" "$out/times.tsv" && return
    local name=$1 begin=$SECONDS
    echo "$name …" >&2
    if ! "${@:2}" 2>> "$out/$name.log"; then
        tail "$out/$name.log" >&2
        exit 1
    fi
    printf '%s\t%d\n' "$name" $((SECONDS - begin)) >> "$out/times.tsv"
}

ask="--max-tokens 200 --batch-size 256 --seed $seed --resume"

pairs() { # wrong answers | first wrong steps | right steps instead; all three at once
    "$PYTHON" collect.py --model "$out/sft" $ask --samples 1 --temperature 1 --top-p 1 "$out/world/train.jsonl" --out "$out/wrong.jsonl" |
        "$PYTHON" locate.py --judge equations --resume --out "$out/located.jsonl" |
        "$PYTHON" correct.py --model "$out/sft" $ask --samples 16 --temperature 1 --top-p 1 --out "$out/pairs.jsonl" > /dev/null
    awk -v held="$out/pairs-held-out.jsonl" 'NR % 10 == 0 { print > held; next } 1' "$out/pairs.jsonl" > "$out/pairs-train.jsonl"
}

phase world "$PYTHON" demo/world.py --out "$out/world" --seed "$seed"
phase sft "$PYTHON" train.py --objective sft --model "$out/world/model" --pairs "$out/world/sft.jsonl" --out "$out/sft" \
    --lr 3e-3 --warmup 0.05 --epochs 2 --batch-size 16 --seed "$seed" --resume
phase before "$PYTHON" evaluate.py --model "$out/sft" $ask "$out/world/test.jsonl" --out "$out/before.jsonl"
phase pairs pairs
phase step-dpo "$PYTHON" train.py --objective step-dpo --model "$out/sft" --pairs "$out/pairs-train.jsonl" \
    --eval-pairs "$out/pairs-held-out.jsonl" --out "$out/step-dpo" --beta 0.4 --lr 5e-5 --epochs 3 --batch-size 32 --seed "$seed" --resume
phase after "$PYTHON" evaluate.py --model "$out/step-dpo" $ask "$out/world/test.jsonl" --out "$out/after.jsonl"
"$PYTHON" -m demo.table "$out" | tee "$out/table.txt"
