#!/usr/bin/env bash
# Every optimizer at its best learning rate, on real text (FOLDOC, see dev/examples/foldoc.sh): a sweep of learning rates each
# (dev/sweep.sh), then Muon once more in three quarters of the steps, with its whole schedule in them. The mark: its loss at the end is
# at most AdamW's after all steps. Writes the report on the standard output; what was done goes on where it ended.
#
#   dev/bench/optimizers.sh [STEPS] >dev/reports/optimizers_MACHINE.md        (STEPS: 800; half an hour on two cores)
#
# SIZE, TOKENS (of a step), OUT (runs/optimizers).
set -euo pipefail
cd "$(dirname "$0")/../.."
steps=${1:-800} size=${SIZE:-L4:H4:C128:T128} tokens=${TOKENS:-4096} out=${OUT:-runs/optimizers}
rates() {  # around what each is used with: five a factor of two or so apart
    case $1 in
        adamw) echo 1e-3 2e-3 4e-3 8e-3 16e-3 ;;
        muon) echo 2.5e-3 5e-3 1e-2 2e-2 4e-2 ;;
        sgd) echo 0.003 0.01 0.03 0.1 0.3 ;;
        adagrad) echo 5e-3 1e-2 2e-2 4e-2 8e-2 ;;
        adadelta) echo 0.125 0.25 0.5 1 2 ;;
    esac
}
[ -e data/foldoc/train_000000.bin ] || bash dev/examples/foldoc.sh >&2
options="-i data/foldoc -e $size -b $((tokens / 128 < 32 ? tokens / 128 : 32)) -d $tokens -u $((steps / 20))"
best() { awk 'NR == 2' "$out/$1/table.txt"; }  # steps, loss, trial
loss() { best "$1" | awk '{ print $2 }'; }
optimizers="adamw muon sgd adagrad adadelta"
for optimizer in $optimizers; do
    # shellcheck disable=SC2046,SC2086 # lists of words
    dev/sweep.sh -o "$out/$optimizer" --grid -l $(rates "$optimizer") -- --optimizer "$optimizer" -x "$steps" $options >&2
done
shorter=$((steps * 3 / 4)) rate=$(best muon | awk '{ print $NF }') run=$out/muon_shorter
# shellcheck disable=SC2086
./train_gpt2 train --optimizer muon -l "$rate" -x $shorter -v $shorter $options -o "$run" --resume >&2
muon=$(sed -n "s/^{\"step\":$shorter,\"val_loss\":\([-+.0-9e]*\).*/\1/p" "$run/log.jsonl" | tail -n 1 | sed -E 's/(\.[0-9]{5}).*/\1/')

echo "# Optimizers on real text"
echo
echo "\`dev/bench/optimizers.sh $steps\`: $size on FOLDOC, $tokens tokens a step, $steps steps; for each optimizer five learning rates by"
echo "successive halving (\`dev/sweep.sh\`): what did not come to the end was behind at the step that is named."
echo
echo "| optimizer | learning rate | steps | validation loss |"
echo "|---|---|---|---|"
for optimizer in $optimizers; do
    awk -v name="$optimizer" 'NR > 1 && $1 ~ /^[0-9]+$/ { print "| " name " | " $NF " | " $1 " | " $2 " |" }' "$out/$optimizer/table.txt"
done
echo
echo "Muon in three quarters of the steps ($shorter, learning rate $rate): $muon; AdamW in all of them: $(loss adamw)."
awk -v a="$muon" -v b="$(loss adamw)" 'BEGIN { print "The mark (at most 0.75 of the steps): " (a <= b ? "met" : "missed"); exit a > b }'
