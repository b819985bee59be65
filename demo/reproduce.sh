#!/usr/bin/env bash
# The paper's comparisons on the demo's worlds: bash demo/reproduce.sh [--quick] [--jobs 2] [--out FOLDER]
# Goes on where it stopped. Ends with FOLDER/report.md and FOLDER/figure2.png.
set -euo pipefail
cd "$(dirname "$0")/.."
args=("$@")
set -- demo/requirements.txt  # for env.sh
. demo/env.sh "$@"
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
"$PYTHON" -m demo.reproduce "${args[@]}"
"$PYTHON" -m demo.reproduce "${args[@]}" --report
