#!/usr/bin/env bash
# Tries a grid of options on one training run, within a time budget: successive halving (Jamieson & Talwalkar 2016,
# https://arxiv.org/abs/1502.07943). Every trial is the whole run, schedule and all, stopped early: all go to an eighth of the steps, the
# better half of them to a quarter, and so on to the end. What was stopped has its checkpoint, so the same command goes on where the time
# ended, and any trial can be finished by hand: ./train_gpt2 train -o OUT/TRIAL --resume.
#
#   dev/sweep.sh -o OUT [--time MINUTES] [--keep FRACTION] --grid OPTION VALUE... [--grid ...] -- OPTIONS OF train
#
#   dev/sweep.sh -o runs/sweep --time 30 --grid -l 1e-3 3e-3 1e-2 --grid --optimizer adamw muon -- -i data/book -e L4:H4:C128:T128 -x 800
#
# -x (--max-steps) is needed. Writes OUT/table.txt and OUT/sweep.svg (the best eight). TRAIN_GPT2: the program (./train_gpt2). Needs no Python.
set -euo pipefail
program=${TRAIN_GPT2:-./train_gpt2}
out='' minutes=0 keep=0.5 steps='' trials=('') fixed=()
fail() { echo "error: $*; see the head of dev/sweep.sh" >&2; exit 2; }

cross() {  # cross OPTION VALUE...: each trial so far with each value
    local option=$1 value trial new=()
    shift
    for trial in "${trials[@]}"; do
        for value in "$@"; do new+=("${trial:+$trial }$option $value"); done
    done
    trials=("${new[@]}")
}
while [ $# -gt 0 ]; do
    case $1 in
        -o) out=${2:-}; shift 2 ;;
        --time) minutes=${2:-}; shift 2 ;;
        --keep) keep=${2:-}; shift 2 ;;
        --grid)
            option=${2:-} values=()
            [[ $option == -* ]] || fail "--grid needs an option, not '$option'"
            shift 2
            while [ $# -gt 0 ] && [[ $1 != --grid && $1 != -- && $1 != --time && $1 != --keep && $1 != -o ]]; do values+=("$1"); shift; done
            [ ${#values[@]} -gt 0 ] || fail "--grid $option has no values"
            cross "$option" "${values[@]}" ;;
        --) shift; fixed=("$@"); break ;;
        *) fail "what is '$1'?" ;;
    esac
done
for ((i = 0; i < ${#fixed[@]}; i++)); do
    [[ ${fixed[i]} != -x && ${fixed[i]} != --max-steps ]] || steps=${fixed[i + 1]:-}
    [[ ${fixed[i]} != -o && ${fixed[i]} != --output ]] || fail "-o goes in front of --"
done
[ -n "$out" ] || fail "-o is missing"
[[ $minutes =~ ^[0-9]+$ ]] || fail "--time $minutes: whole minutes"
[[ $keep =~ ^0?\.[0-9]+$ ]] || fail "--keep $keep: a fraction, such as 0.5"
[[ $steps =~ ^[0-9]+$ && $steps -ge 8 ]] || fail "-x (--max-steps) of 8 or more is needed behind --"
[ "${trials[0]}" != '' ] || fail "--grid is missing"
rung=$(((steps + 7) / 8))
ends=$((minutes > 0 ? SECONDS + 60 * minutes : 1 << 40))
name_of() { tr -c 'A-Za-z0-9.+-' _ <<<"$1" | sed 's/^_*-*//; s/_*$//; s/_-*/_/g'; }
log_of() { echo "$out/$(name_of "$1")/log.jsonl"; }
reached() {  # the validation loss of a trial at a step, the last that was logged; nothing if it has not got there
    sed -n "s/^{\"step\":$2,\"val_loss\":\([-+.0-9e]*\).*/\1/p" "$(log_of "$1")" 2>/dev/null | tail -n 1
}
stop() { kill -TERM "$1" 2>/dev/null || true; wait "$1" 2>/dev/null || true; }

# Brings a trial to a step. 1: it failed; 2: the time is up.
advance() {
    local trial=$1 target=$2 dir pid status=0
    dir=$out/$(name_of "$trial")
    [ -z "$(reached "$trial" "$target")" ] || return 0
    mkdir -p "$out"
    # shellcheck disable=SC2086 # a trial is a list of words
    "$program" train "${fixed[@]}" $trial -v $rung -o "$dir" --resume >"$dir.out" 2>&1 &
    pid=$!
    trap 'stop $pid; exit 130' INT TERM
    while kill -0 $pid 2>/dev/null; do
        sleep 0.1
        if [ "$target" -lt "$steps" ] && [ -n "$(reached "$trial" "$target")" ]; then stop $pid; break; fi
        if [ "$SECONDS" -ge "$ends" ]; then stop $pid; trap - INT TERM; return 2; fi
    done
    wait $pid 2>/dev/null || status=$?
    trap - INT TERM
    [ -n "$(reached "$trial" "$target")" ] && return 0
    echo "  failed ($status): $trial: $(tail -n 1 "$dir.out")" >&2
    return 1
}

# The trials that have got to a step, the best first: LOSS<tab>TRIAL
ranking() {
    local trial loss
    for trial in "${trials[@]}"; do
        loss=$(reached "$trial" "$1")
        [ -z "$loss" ] || printf '%s\t%s\n' "$loss" "$trial"
    done | sort -g
}

declare -A at=()  # the step to which each trial was taken
live=("${trials[@]}") ended='' target=0
echo "${#trials[@]} trials of $steps steps"
for part in 1 2 4 8; do
    target=$((part == 8 ? steps : part * rung))
    [ "$target" -lt "$steps" ] || target=$steps
    for trial in "${live[@]}"; do
        status=0
        advance "$trial" "$target" || status=$?
        if [ $status -eq 2 ]; then ended="the time is up; the same command goes on"; break 2; fi
        [ $status -eq 0 ] || continue
        at[$trial]=$target
        echo "  step $target: $(reached "$trial" "$target")  $trial"
    done
    survivors=()
    while IFS=$'\t' read -r _ trial; do
        for other in "${live[@]}"; do [ "$trial" != "$other" ] || survivors+=("$trial"); done
    done < <(ranking "$target")
    [ ${#survivors[@]} -gt 0 ] || { echo "error: every trial failed: see $out/*.out" >&2; exit 1; }
    [ "$target" -lt "$steps" ] || break
    left=$(awk -v n=${#survivors[@]} -v keep="$keep" 'BEGIN { k = int(n * keep + 0.999999); print k < 1 ? 1 : k }')
    live=("${survivors[@]:0:left}")
done

# The furthest first, and among those the best.
{
    printf '%-8s %-12s %s\n' steps 'val loss' trial
    for trial in "${!at[@]}"; do printf '%-8s %-12.5f %s\n' "${at[$trial]}" "$(reached "$trial" "${at[$trial]}")" "$trial"; done |
        sort -k1,1nr -k2,2g
    [ -z "$ended" ] || echo "$ended"
} | tee "$out/table.txt"
best=()
while read -r _ _ trial; do
    [ ${#best[@]} -ge 8 ] || [ ! -e "$(log_of "$trial")" ] || best+=("$out/$(name_of "$trial")")
done < <(tail -n +2 "$out/table.txt")
[ ${#best[@]} -eq 0 ] || "$program" plot "${best[@]}" -o "$out/sweep.svg"
