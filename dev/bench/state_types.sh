#!/usr/bin/env bash
# What smaller optimizer state costs in loss: the same run with moments in fp32, bf16 and 8 bits, in fp32 and in bf16 weights without
# masters, and with gradients of a block at a time, clipped by the norm of the step before; on real text (FOLDOC, see
# dev/examples/foldoc.sh). The mark: losses within 0.5% of the fp32 state's. Writes the report on the standard output.
#
#   dev/bench/state_types.sh [STEPS] >dev/reports/state_types_MACHINE.md        (STEPS: 1000; minutes on two cores)
set -euo pipefail
cd "$(dirname "$0")/../.."
steps=${1:-1000} size=${SIZE:-L2:H4:C64:T64} out=${OUT:-runs/state_types}
[ -e data/foldoc/train_000000.bin ] || bash dev/examples/foldoc.sh >&2
at() { sed -n "s/^{\"step\":$2,\"val_loss\":\([-+.0-9e]*\).*/\1/p" "$out/$1/log.jsonl" | tail -n 1 | sed -E 's/(\.[0-9]{4}).*/\1/'; }
apart() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%+.2f%%", 100 * (a / b - 1) }'; }
run() {  # run NAME OPTIONS...
    local name=$1
    shift
    [ -n "$(at "$name" "$steps" 2>/dev/null)" ] ||
        ./train_gpt2 train -i data/foldoc -e "$size" -b 32 -d 2048 -x "$steps" -u $((steps / 20)) -v $((steps / 4)) -l 3e-3 -o "$out/$name" "$@" >&2
}
echo "# Optimizer state in fewer bits"
echo
echo "\`dev/bench/state_types.sh $steps\`: $size on FOLDOC, 2,048 tokens a step, AdamW; validation loss, and how far it is from the first line's;"
echo "another seed says how far that is anyway."
echo
echo "| weights | moments | bytes of state a parameter | step $((steps / 4)) | step $((steps / 2)) | step $steps | |"
echo "|---|---|---|---|---|---|---|"
line() {  # line NAME WEIGHTS MOMENTS BYTES OPTIONS...
    local name=$1 weights=$2 moments=$3 bytes=$4
    shift 4
    run "$name" "$@"
    echo "| $weights | $moments | $bytes | $(at "$name" $((steps / 4))) | $(at "$name" $((steps / 2))) | $(at "$name" "$steps") | $(apart "$(at "$name" "$steps")" "$(at fp32 "$steps")") |"
}
line fp32 fp32 fp32 8
line fp32-seed "fp32, another seed" fp32 8 --seed 7
line fp32-last "fp32, \`--fuse-update last-norm\`" fp32 8 --fuse-update last-norm
line fp32-bf16 fp32 bf16 4 --state-type bf16
line fp32-int8 fp32 "8 bits" 2.06 --state-type int8
line bf16-masters "bf16, fp32 masters" fp32 12 --precision bf16
line bf16 "bf16, rounded to the nearest" fp32 8 --precision bf16 --no-master-weights
line bf16-sr "bf16, stochastic rounding" fp32 8 --precision bf16 --no-master-weights --stochastic-rounding
line bf16-sr-bf16 "bf16, stochastic rounding" bf16 4 --precision bf16 --no-master-weights --stochastic-rounding --state-type bf16
line bf16-sr-int8 "bf16, stochastic rounding" "8 bits" 2.06 --precision bf16 --no-master-weights --stochastic-rounding --state-type int8
