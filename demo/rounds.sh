#!/usr/bin/env bash
# On-policy rounds, on any model and task: each asks, locates and corrects with the policy of the round before, which is
# also the reference.
#
#     bash demo/rounds.sh MODEL problems.jsonl FOLDER [ROUNDS]       # the last policy is FOLDER/round-ROUNDS/model
#
# A round takes its share of the problems. Run again, it goes on where it stopped. To be set before the command:
#
#     TEST=test.jsonl              problems to ask before the first round and after each
#     PROMPT=qwen2-boxed           prompt format of all stages; chat if not set
#     JUDGE=gpt-4o                 equations if not set
#     ASK="--max-tokens 1024"      flags of the stages that ask the policy
#     COLLECT, LOCATE, CORRECT, EVALUATE, TRAIN="--lr 5e-7 --epochs 4"      flags of one stage
#     SERVE="vllm serve"           serves the policy whose folder is its last word, at URL=http://localhost:8000/v1
#     LAUNCH="torchrun --nproc-per-node 8"      starts train.py; PYTHON=python starts the other stages
set -euo pipefail
if [ $# -lt 3 ]; then sed -n '2,16s/^#//p' "$0" >&2 && exit 2; fi
model=$1 problems=$2 folder=$3 rounds=${4:-3}
stages=$(cd "$(dirname "$0")/.." && pwd) python=${PYTHON:-python} judge=${JUDGE:-equations} test=${TEST:-}
url=${URL:-http://localhost:8000/v1} prompt="--prompt ${PROMPT:-chat}"
ask="$prompt ${ASK:-}${SERVE:+ --base-url $url}"
mkdir -p "$folder" && out=$(cd "$folder" && pwd)
. "$stages/demo/phases.sh"
[ -r "$problems" ] || stop "$problems: no such file"
keep_to "model $model
problems $problems
ROUNDS=$rounds
TEST=$test
JUDGE=$judge
ASK=$ask
COLLECT=${COLLECT:-}
LOCATE=${LOCATE:-}
CORRECT=${CORRECT:-}
EVALUATE=${EVALUATE:-}
TRAIN=${TRAIN:-}"

with_server() { # with_server COMMAND…: while the policy is served, if it is to be; its GPUs are free again afterwards
    if [ ! "${SERVE:-}" ]; then
        "$@"
        return
    fi
    $SERVE "$model" > "$out/server.log" 2>&1 & server=$!
    trap 'kill $server' EXIT
    until "$python" -c "import urllib.request; urllib.request.urlopen('$url/models')" 2> /dev/null; do
        kill -0 $server || { cat "$out/server.log" >&2 && return 1; }
        sleep 1
    done
    "$@" || return
    trap - EXIT
    kill $server
    wait $server || true
}

pairs() { # pairs ROUND
    local here=$out/round-$1 round=$1
    set --
    case $judge in *rollouts*) set -- --model "$model" $ask ;; esac
    awk -v n="$rounds" -v r="$round" 'NR % n == r % n' "$problems" > "$here/problems.jsonl" || return
    "$python" "$stages/collect.py" --model "$model" $ask ${COLLECT:-} --out "$here/wrong.jsonl" --resume \
            "$here/problems.jsonl" |
        "$python" "$stages/locate.py" --judge "$judge" "$@" ${LOCATE:-} --out "$here/located.jsonl" --resume |
        "$python" "$stages/correct.py" --model "$model" $ask ${CORRECT:-} --out "$here/pairs.jsonl" --resume > /dev/null
}

answers() { # answers ROUND: of the policy that comes out of it; round 0 has the first model
    local here=$out/round-$1 round=$1
    set --
    if [ "$round" -gt 0 ]; then set -- --compare "$out/round-0/test.jsonl"; fi
    "$python" "$stages/evaluate.py" --model "$model" $ask ${EVALUATE:-} "$@" --out "$here/test.jsonl" --resume "$test"
}

for ((round = 0; round <= rounds; round++)); do
    mkdir -p "$out/round-$round"
    if [ $round -gt 0 ]; then expect round-$round/pairs && expect round-$round/train; fi
    if [ "$test" ]; then expect round-$round/test; fi
done
if [ "$test" ]; then phase round-0/test with_server answers 0; fi
for ((round = 1; round <= rounds; round++)); do
    phase round-$round/pairs with_server pairs $round
    phase round-$round/train ${LAUNCH:-"$python"} "$stages/train.py" --model "$model" $prompt ${TRAIN:-} \
        --pairs "$out/round-$round/pairs.jsonl" --out "$out/round-$round/model" --resume
    model=$out/round-$round/model
    if [ "$test" ]; then phase round-$round/test with_server answers $round; fi
done
if [ "$test" ]; then (cd "$out" && grep -e '^all ' -e ^difference round-*/test.log); fi
show_times
echo "the last policy: $model"
