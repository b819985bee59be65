#!/usr/bin/env bash
# Makes the policy that the demo starts from: solutions of both worlds with planted slips, one SFT run, weights in bf16.
#
#     bash demo/policy.sh FOLDER [SEED]
#
# demo/policy is seed 0, made at commit 834bca6. It is the first policy of docs/reproduction.md. Thousands of steps
# amplify what rounding leaves: another CPU, or code that sums in another order (as it has since 1f1d248), makes another
# policy of the same seed.
set -euo pipefail
folder=$(mkdir -p "$1" && cd "$1" && pwd) seed=${2:-0}
cd "$(dirname "$0")/.."
set --
. demo/env.sh
export TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
for world in decision number; do
    "$PYTHON" demo/world.py --world $world --out "$work/$world" --test 1 --train 1 --validation 1
done
cat "$work"/{decision,number}/sft.jsonl > "$work/sft.jsonl"
OMP_NUM_THREADS=1 "$PYTHON" train.py --objective sft --model "$work/decision/model" --pairs "$work/sft.jsonl" \
    --out "$work/sft" --lr 3e-3 --warmup 0.05 --epochs 1 --batch-size 16 --seed "$seed" --save-every 0
rm -f "$work"/sft/{metrics,dropped}.jsonl
cp "$work"/sft/* "$folder"
"$PYTHON" - "$folder/model.safetensors" <<'PY'
import sys
from safetensors.torch import load_file, save_file
weights = {name: tensor.bfloat16() for name, tensor in load_file(sys.argv[1]).items()}  # half the size
save_file(weights, sys.argv[1], {"format": "pt"})
PY
