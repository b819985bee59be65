# Long phases, with progress on stderr. Sourced by scripts that set $out, the folder of their run:
#
#     keep_to SETTINGS FILE…  # exit 2 if $out was begun with other settings (lines of text) or other files
#     expect NAME [SECONDS]   # of every phase, in order, before the first: how long it took elsewhere, if known
#     phase NAME COMMAND…     # run it, unless it was finished before; its stderr goes to $out/NAME.log
#     show_times              # where the time went
#
# $out/times.tsv has a line for each finished phase: its name and its seconds. A phase without SECONDS is expected to
# take as long as the last finished one of the same name behind the slash: round-2/train as long as round-1/train.
names=() elsewhere=()

stop() { # stop REASON: the user's mistake, in one line
    echo "$0: $*" >&2
    exit 2
}

changes() { # changes SIGN FILE TEXT: lines of FILE that are not in TEXT (SIGN is <), or the other way round (>)
    printf '%s\n' "$3" | diff "$2" - | sed -n "s/^$1 //p" | tr '\n' ' ' || true
}

keep_to() {
    local settings=$1 sums= changed before
    shift
    if [ $# -gt 0 ]; then sums=$(cksum -- "$@"); fi
    if [ ! -e "$out/settings.txt" ]; then
        [ -z "$(ls -A "$out")" ] || stop "$out: is not empty, and holds no run that is known; remove it or name another"
        printf '%s\n' "$sums" > "$out/code.txt"
        printf '%s\n' "$settings" > "$out/settings.txt"
    fi
    changed=$(changes '>' "$out/settings.txt" "$settings")
    before=$(changes '<' "$out/settings.txt" "$settings")
    [ -z "$changed" ] || stop "$out: was begun with $before(now $changed); remove it or name another"
    changed=$(changes '>' "$out/code.txt" "$sums" | tr ' ' '\n' | grep '[^0-9]' | tr '\n' ' ' || true)
    [ -z "$changed" ] || stop "$out: was made before a change of ${changed% }; remove it or name another"
}

expect() {
    names+=("$1") elsewhere+=("${2:-0}")
}

took() { # took NAME: seconds of a finished phase; nothing of another
    grep -s "^$1"$'\t' "$out/times.tsv" | cut -f 2 || true
}

clock() { # clock SECONDS: 1:05, or 1:02:03 with hours
    local hours=$(($1 / 3600)) minutes=$(($1 / 60 % 60)) seconds=$(($1 % 60))
    if [ $hours -gt 0 ]; then
        printf '%d:%02d:%02d' $hours $minutes $seconds
    else
        printf '%d:%02d' $minutes $seconds
    fi
}

forecast() { # forecast NAME…: seconds that these phases will take together; nothing when one of them is not known
    local name i here=0 there=0 sum=0 last
    for i in "${!names[@]}"; do  # how much slower is this machine?
        if [ "$(took "${names[i]}")" ] && [ "${elsewhere[i]}" -gt 0 ]; then
            here=$((here + $(took "${names[i]}"))) there=$((there + elsewhere[i]))
        fi
    done
    for name in "$@"; do
        for i in "${!names[@]}"; do
            [ "${names[i]}" = "$name" ] && break
        done
        if [ "${elsewhere[i]}" -gt 0 ]; then
            last=${elsewhere[i]}
            if [ $here -gt 0 ]; then last=$((last * here / there)); fi
        else
            last=$(grep -s "/${name##*/}"$'\t' "$out/times.tsv" | tail -n 1 | cut -f 2 || true)
        fi
        [ "$last" ] || return 0
        sum=$((sum + last))
    done
    echo $sum
}

progress() { # progress NAME SECONDS: one line about the phase that has run for so long
    local name left=() this all
    for name in "${names[@]}"; do
        [ "$(took "$name")" ] || left+=("$name")
    done
    printf '%s (%d of %d) %s' "$1" $((${#names[@]} - ${#left[@]} + 1)) ${#names[@]} "$(clock "$2")"
    this=$(forecast "$1") all=$(forecast "${left[@]}")
    if [ "$this" ]; then printf ' of about %s' "$(clock "$this")"; fi
    if [ "$all" ]; then printf ', about %s left in all' "$(clock $((all > $2 ? all - $2 : 0)))"; fi
}

watch() { # watch NAME: on a terminal, the line of progress anew every second while this script runs
    local begin=$SECONDS line stage width
    while kill -0 $$ 2> /dev/null; do
        line=$(progress "$1" $((SECONDS - begin)) 2> /dev/null)
        # what its stage last said, as in "collect.py:  25% 1/4 [00:05<00:15"
        stage=$(grep -so '^[a-z.]*: .*<[0-9:]*' "$out/$1.log" | tail -n 1 || true)
        width=$(tput cols 2> /dev/null || echo 80)
        printf '\r%.*s \033[K' $((width - 2)) "$line${stage:+; $stage]}" >&2
        sleep 1
    done
}

phase() {
    local name=$1 begin=$SECONDS watcher= code=0
    if [ "$(took "$name")" ]; then return; fi
    if [ -t 2 ]; then watch "$name" & watcher=$!; else echo "$(progress "$name" 0)" >&2; fi
    "${@:2}" 2> "$out/$name.log" || code=$?
    if [ "$watcher" ]; then
        kill "$watcher"
        wait "$watcher" 2> /dev/null || true
        printf '\r\033[K' >&2
    fi
    if [ $code -ne 0 ]; then
        tail "$out/$name.log" >&2
        exit $code
    fi
    printf '%s\t%d\n' "$name" $((SECONDS - begin)) >> "$out/times.tsv"
    echo "$name took $(clock $((SECONDS - begin)))" >&2
}

show_times() {
    local name seconds sum=0
    while IFS=$'\t' read -r name seconds; do sum=$((sum + seconds)); done < "$out/times.tsv"
    printf '%-24s%8s%8s\n' phase time share
    while IFS=$'\t' read -r name seconds; do
        printf '%-24s%8s%6d %%\n' "$name" "$(clock "$seconds")" $((sum ? 100 * seconds / sum : 0))
    done < "$out/times.tsv"
    printf '%-24s%8s\n' all "$(clock $sum)"
}
