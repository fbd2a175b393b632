# Sourced by .ci/run and tools/check-full: stages, each with its seconds of the clock and of processors, and their table.
# Whoever sources it has a folder in $work, and in the file that BRIM_SKIPPED names a line from each command that had
# nothing to run with.
stages=()   # name|seconds|processor seconds|result
stage_log='' # of the last stage

processor_seconds() { # of all that ran below this shell and has ended
    times >"$work/times" # not in a subshell, which begins at 0
    awk -F'[ms ]+' 'NR == 2 { printf "%d\n", 60 * $1 + $2 + 60 * $3 + $4 + 0.5 }' "$work/times" >"$work/seconds"
    read -r cpu <"$work/seconds"
}

# stage NAME COMMAND…: runs it in a shell of its own, with all that it says in a log too; returns what it returns (with
# pipefail). A function must not count on `set -e`, which is off here: its commands are joined with &&.
stage() {
    local name=$1 began=$SECONDS cpu before skipped code=0 result=passed
    shift
    printf '\n== %s\n' "$name"
    stage_log=$work/stage-${#stages[@]}
    skipped=$(wc -l <"$BRIM_SKIPPED")
    processor_seconds
    before=$cpu
    "$@" 2>&1 | tee "$stage_log" || code=$?
    processor_seconds
    [ "$(wc -l <"$BRIM_SKIPPED")" -eq "$skipped" ] || result="not run"
    [ $code -eq 0 ] || result="failed ($code)"
    stages+=("$name|$((SECONDS - began))|$((cpu - before))|$result")
    printf -- '-- %s: %s, %d s, %d s of processors\n' "$name" "$result" $((SECONDS - began)) $((cpu - before))
    return $code
}

stage_table() {
    printf '\n%-52s %8s %12s  %s\n' stage seconds processors result
    printf '%s\n' "${stages[@]}" | awk -F'|' '{ printf "%-52s %8d %12d  %s\n", $1, $2, $3, $4; s += $2; p += $3 }
        END { printf "%-52s %8d %12d\n", "in all", s, p }'
}
