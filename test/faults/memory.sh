#!/usr/bin/env bash
# Lets memory run out at every point of a short training run, and looks at how the run ends: it goes on, or it ends with
# exit code 1 and an error line. Anything else, a signal above all, is a fault.
#
#   test/faults/memory.sh [STEP]     STEP kB between the limits that are tried (500); in a built project
#
# First by limits of the address space (ulimit -v), where nothing more is to be had from some point on; then, if strace is
# there, by one mmap call that fails, each of them in turn, and by all from each on. The last line: so many runs of each
# kind. Before main() the dynamic loader speaks for itself; such runs are left out.
set -u
program=$PWD/train_gpt2 tokenize=$PWD/tokenize step=${1:-500}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
for i in $(seq 2000); do echo "The $((i % 7)) men of the $((i % 11)) hills saw $((i % 13)) birds."; done >text
"$tokenize" train --vocab-size 300 -o data text >/dev/null && "$tokenize" encode --vocab data -o data text >/dev/null || exit 1
run=("$program" train -i data -e L2:H2:C64:T64 -b 4 -d 256 -x 4 -n 2 -v 2 -s 2 -o run)
export OMP_NUM_THREADS=2
ulimit -c 0

went_on=0 ended=0 faults=0
look_at() { # look_at HOW STATUS
    if [ "$2" = 0 ]; then went_on=$((went_on + 1))
    elif [ "$2" = 1 ] && grep -q 'error: ' err; then ended=$((ended + 1))
    elif [ "$2" != 127 ]; then faults=$((faults + 1)) && echo "FAULT: $1: exit code $2: $(tail -n 1 err)"
    fi
    rm -rf run
}
for kilobytes in $(seq 60000 "$step" 250000); do
    { (ulimit -v "$kilobytes" && exec timeout 60 "${run[@]}") >out 2>err </dev/null; } 2>/dev/null
    look_at "ulimit -v $kilobytes" $?
done
if command -v strace >/dev/null; then
    calls=$(strace -f -qq -e trace=mmap "${run[@]}" 2>&1 >/dev/null | grep -c 'mmap(')
    rm -rf run
    for which in '' +; do
        for n in $(seq 2 "$calls"); do # the first is the loader's own, which ends by signal 11
            { (exec timeout 60 strace -f -qq -o /dev/null -e trace=mmap -e "inject=mmap:error=ENOMEM:when=$n$which" "${run[@]}") >out 2>err </dev/null; } 2>/dev/null
            look_at "mmap call $n$which" $?
        done
    done
else
    echo "strace is missing: single calls that fail are not tried"
fi
echo "$((went_on + ended)) runs well ($went_on went on, $ended ended in one line), $faults faults"
[ "$faults" = 0 ]
