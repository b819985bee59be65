#!/usr/bin/env bash
# The whole method on the demo's world, on a CPU, from a policy to one table and a picture:
#
#     bash demo/run.sh [--from-scratch] [FOLDER]     # results in FOLDER, default runs/demo
#
# WORLD=decision asks yes/no questions instead of numbers, SEED=1 draws other problems. It starts from the policy in
# demo/policy; with --from-scratch from random weights, which takes longer.
# Run again after an interruption, it goes on where it stopped. To start afresh, remove FOLDER.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd) seed=${SEED:-0} world=${WORLD:-number} scratch=
if [ "${1:-}" = --from-scratch ]; then scratch=1 && shift; fi
folder=${1:-$root/runs/demo}
mkdir -p "$folder" && out=$(cd "$folder" && pwd)
cd "$root"
set -- demo/requirements.txt  # what env.sh is given are requirement files
. demo/env.sh "$@"
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

ask() { # ask STAGE…: with the policy's folder and how to sample it
    "$PYTHON" "$@" --seed "$seed" --max-tokens 200 --batch-size 256 --resume
}

pairs() { # wrong answers | their first wrong steps | right steps instead: three programs at once, every row also kept
    local policy=(--model "$out/policy" --temperature 1 --top-p 1)
    ask collect.py "${policy[@]}" --samples 1 --out "$out/wrong.jsonl" "$out/world/train.jsonl" |
        "$PYTHON" locate.py --judge equations --out "$out/located.jsonl" --resume |
        ask correct.py "${policy[@]}" --samples 8 --verify equations --out "$out/pairs.jsonl" > /dev/null || return
    # one answer a problem and one pair an answer: every tenth pair is of problems that the others know nothing of
    awk 'NR % 10 == 0' "$out/pairs.jsonl" > "$out/pairs-held-out.jsonl"
    awk 'NR % 10 != 0' "$out/pairs.jsonl" > "$out/pairs-train.jsonl"
}

problems=1200
if [ "$world" = decision ]; then problems=6000; fi  # nine of ten answers are right there
# Rate, β and epochs were chosen on validation problems by demo/reproduce.sh, never on the test problems.
phase world "$PYTHON" demo/world.py --world "$world" --out "$out/world" --seed "$seed" \
    --sft 1 --train $problems --validation 1
if [ "$scratch" ]; then
    phase policy bash demo/policy.sh "$out/policy" "$seed"
fi
[ -e "$out/policy" ] || cp -r demo/policy "$out/policy"
phase before ask evaluate.py --model "$out/policy" --out "$out/before.jsonl" "$out/world/test.jsonl"
phase pairs pairs
phase step-dpo "$PYTHON" train.py --model "$out/policy" --pairs "$out/pairs-train.jsonl" \
    --eval-pairs "$out/pairs-held-out.jsonl" --eval-every 5 --out "$out/step-dpo" --lr 3e-5 --beta 1 --epochs 3 \
    --batch-size 32 --seed "$seed" --resume
phase after ask evaluate.py --model "$out/step-dpo" --out "$out/after.jsonl" "$out/world/test.jsonl"
"$PYTHON" -m demo.table "$out" | tee "$out/table.txt"
