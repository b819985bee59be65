#!/usr/bin/env bash
# One round of the method on GSM8K, for a model that may be small: it first learns to answer in steps.
#
#     bash demo/gsm8k.sh MODEL gsm8k_train.jsonl gsm8k_test.jsonl FOLDER      # {"prompt", "answer", "solution"} a line
#
# Results are in FOLDER/rounds; run again, it goes on where it stopped. For a smaller machine, fewer solutions to learn
# from, problems to sample and test problems, the first of each file, are to be set before the command:
#
#     SFT=7473 PROBLEMS=7473 TESTS=1319
#
# Beside them stands what demo/rounds.sh takes. The judge is rollouts, which needs no other model.
set -euo pipefail
if [ $# -ne 4 ]; then sed -n '2,11s/^#//p' "$0" >&2 && exit 2; fi
model=$1 train=$2 test=$3 folder=$4
root=$(cd "$(dirname "$0")/.." && pwd) python=${PYTHON:-python}
mkdir -p "$folder" && out=$(cd "$folder" && pwd)
. "$root/demo/phases.sh"
keep_to "model $model
SFT=${SFT:-7473} PROBLEMS=${PROBLEMS:-7473} TESTS=${TESTS:-1319}" "$train" "$test"

rows() { # solutions in steps, to imitate; problems; test problems
    head -n "${SFT:-7473}" "$train" | (cd "$root" && "$python" -m demo.solutions) > "$out/sft.jsonl" || return
    head -n "${PROBLEMS:-7473}" "$train" > "$out/problems.jsonl"
    head -n "${TESTS:-1319}" "$test" > "$out/test.jsonl"
}

expect rows
expect sft
phase rows rows
phase sft ${LAUNCH:-"$python"} "$root/train.py" --objective sft --model "$model" --pairs "$out/sft.jsonl" \
    --out "$out/policy" --lr 1e-4 --epochs 1 --batch-size 32 --resume
TEST=$out/test.jsonl JUDGE=rollouts ASK="--max-tokens 256 ${ASK:-}" COLLECT="--samples 2 ${COLLECT:-}" \
    TRAIN="--lr 3e-6 --epochs 3 --batch-size 32 ${TRAIN:-}" \
    bash "$root/demo/rounds.sh" "$out/policy" "$out/problems.jsonl" "$out/rounds" 1
