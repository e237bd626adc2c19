#!/usr/bin/env bash
# Step times of the CPU program on an idle and on a busy machine: commands side by side, in turn, so that what the machine
# does meanwhile meets them alike.
#
#   dev/bench/bench_busy.sh COMMAND...       each a way to start the program: ./train_gpt2, "env OMP_WAIT_POLICY=passive ./train_gpt2"
#
# In the environment: ROUNDS (5), BUSY (4: processes that only compute), MODELS ("L4:H4:C128:T128/2048 L6:H6:C256:T128/2048":
# shape/tokens a step; the first is the quickstart's), STEPS (idle 40, busy 20). Prints for each model and load, for each
# command: milliseconds a step (median of all rounds' medians; mean), the mean's ratio to the first command's, and the
# CPU time of a step, user + system.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
cd "$(dirname "$0")/../.."
rounds=${ROUNDS:-5} busy=${BUSY:-4} models=${MODELS:-L4:H4:C128:T128/2048 L6:H6:C256:T128/2048}
work=$(mktemp -d)
loops=()
quiet() {
    [ ${#loops[@]} -eq 0 ] || kill "${loops[@]}" 2>/dev/null || true
    loops=()
}
trap 'quiet; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# The repository's own text, with a vocabulary of 2048 as in the quickstart.
cat README.md llmc/*/*.h llmc/*/*.cpp >"$work/text.txt"
./tokenize train --vocab-size 2048 -o "$work/data" "$work/text.txt" >/dev/null
./tokenize encode --vocab "$work/data" -o "$work/data" "$work/text.txt" >/dev/null

# run COMMAND SHAPE TOKENS STEPS: the run's CPU seconds, user + system
run() {
    rm -rf "$work/run"
    { time $1 train -i "$work/data" -e "$2" -b 16 -d "$3" -v 0 -x "$4" -o "$work/run" >"$work/out" 2>&1; } 2>"$work/time" ||
        { tail -n 2 "$work/out" >&2; exit 1; }
    awk '{ print $1 + $2 }' "$work/time"
}
TIMEFORMAT='%U %S'
# measure COMMAND SHAPE TOKENS STEPS: "median mean cpu" in ms a step. The first quarter of the steps warms up; CPU time is
# that of the whole run, less that of a run of one step.
measure() {
    local one all
    one=$(run "$1" "$2" "$3" 1) all=$(run "$1" "$2" "$3" "$4")
    grep -o '"ms":[0-9.e+-]*' "$work/run/log.jsonl" | cut -d: -f2 | tail -n +$(($4 / 4 + 1)) | sort -g |
        awk -v cpu="$(awk -v a="$all" -v b="$one" -v n="$4" 'BEGIN { print 1e3 * (a - b) / (n - 1) }')" \
            '{ x[NR] = $1; sum += $1 } END { print x[int((NR + 1) / 2)], sum / NR, cpu }'
}
median() { sort -g | awk '{ x[NR] = $1 } END { print (x[int((NR + 1) / 2)] + x[int(NR / 2) + 1]) / 2 }'; }

for model in $models; do
    shape=${model%/*} tokens=${model#*/}
    for load in idle busy; do
        steps=${STEPS:-$([ $load = idle ] && echo 40 || echo 20)}
        if [ $load = busy ]; then
            for ((i = 0; i < busy; i++)); do (while :; do :; done) & loops+=($!); done
        fi
        for ((r = 0; r < rounds; r++)); do
            for ((c = 1; c <= $#; c++)); do measure "${!c}" "$shape" "$tokens" "$steps" >>"$work/$load.$c"; done
        done
        quiet
        echo "$shape, $tokens tokens a step, $([ $load = idle ] && echo idle || echo "$busy busy processes"), $(nproc) cores, $rounds rounds of $steps steps:"
        for ((c = 1; c <= $#; c++)); do
            read -r m1 < <(cut -d' ' -f1 "$work/$load.$c" | median)
            read -r m2 < <(cut -d' ' -f2 "$work/$load.$c" | median)
            read -r m3 < <(cut -d' ' -f3 "$work/$load.$c" | median)
            [ "$c" -gt 1 ] || first=$m2
            printf '  %8.1f ms median  %8.1f ms mean  x %.3f  cpu %8.1f ms   %s\n' "$m1" "$m2" "$(awk -v a="$m2" -v b="$first" 'BEGIN { print a / b }')" "$m3" "${!c}"
            rm -f "$work/$load.$c"
        done
    done
done
