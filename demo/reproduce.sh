#!/usr/bin/env bash
# The paper's comparisons on the demo's worlds:
#
#     bash demo/reproduce.sh [--quick] [--model FOLDER] [--jobs 2] [--out FOLDER]
#
# Goes on where it stopped. Ends with report.md and figure2.png in --out, default runs/reproduce.
set -euo pipefail
from=$PWD root=$(cd "$(dirname "$0")/.." && pwd)
args=("$@")
cd "$root"
set -- demo/requirements.txt  # for env.sh
. demo/env.sh "$@"
cd "$from"
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 PYTHONPATH=$root
set -- ${args[@]+"${args[@]}"}
"$PYTHON" -m demo.reproduce "$@"
"$PYTHON" -m demo.reproduce "$@" --report
