#!/usr/bin/env bash
# All tests, from nothing: bash tests/run.sh [pytest's arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
args=("$@")
set -- requirements-dev.txt demo/requirements.txt  # for env.sh
. demo/env.sh "$@"
OMP_NUM_THREADS=1 exec "$PYTHON" -m pytest -q -rfEs --durations=5 -n 2 --dist loadfile "${args[@]:-tests}"
