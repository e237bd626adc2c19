#!/usr/bin/env bash
# The memory that training takes at its peak (VmHWM), beside what it says before it begins: the CPU program at many sizes.
#
#   dev/bench/memory_table.sh [-o REPORT.md]      some minutes; status 1 where a run takes 2% more than it stated
set -euo pipefail
cd "$(dirname "$0")/../.."
report=/dev/stdout
[ "${1:-}" != -o ] || report=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat README.md OPTIONS.md >"$work/text.txt"
./tokenize train --vocab-size 300 -o "$work/data" "$work/text.txt" >/dev/null
./tokenize encode --vocab "$work/data" -o "$work/data" "$work/text.txt" >/dev/null
sentence="a model learns a token and a batch of text at a time and a step has as many as fit"
for i in $(seq 2000); do
    echo "{\"prompt\": \"$i $sentence\", \"completion\": \" $sentence $i\"}" >>"$work/examples.jsonl"
    echo "{\"text\": \"$i $sentence\", \"label\": \"$((i % 3))\"}" >>"$work/labels.jsonl"
    echo "{\"prompt\": \"$i $sentence\", \"chosen\": \" $sentence.\", \"rejected\": \" $sentence $i\"}" >>"$work/pairs.jsonl"
done
status=0
measure() {  # measure WHAT COMMAND OPTIONS...
    local what=$1 line
    shift
    rm -rf "$work/run"
    if ! ./train_gpt2 "$@" -o "$work/run" >"$work/log" 2>&1; then
        echo "| $what | failed: $(tail -1 "$work/log") | | |" >>"$work/rows"
        status=1
        return
    fi
    line=$(sed -n 's/^memory: \([0-9.]*\) \([kMG]B\) at the peak, \([0-9.]*\) \([kMG]B\) stated$/\1 \2 \3 \4/p' "$work/log")
    awk -v what="$what" '
        function bytes(x, unit) { return x * (unit == "kB" ? 1e3 : unit == "MB" ? 1e6 : 1e9) }
        { ratio = bytes($1, $2) / bytes($3, $4)
          printf "| %s | %s %s | %s %s | %.3f |\n", what, $3, $4, $1, $2, ratio
          exit ratio > 1.02 }' <<<"$line" >>"$work/rows" || status=1
}
train() { measure "\`$1\`" train -i "$work/data/train_*.bin" -j "$work/data/val_*.bin" -v 0 $1; }

for precision in fp32 bf16; do
    for recompute in 0 1 2 3; do train "-e L4:H4:C256:T256:V8000 -b 4 -d 2048 -x 2 -r $recompute --precision $precision"; done
    for state in bf16 int8; do train "-e L3:H7:C364:T200:V20001 -b 5 -d 1000 -x 2 --state-type $state --precision $precision"; done
    for B in 1 3 8; do train "-e L4:H4:C256:T256:V8000 -b $B -d 2048 -x 3 -n 1 --precision $precision"; done
    for optimizer in muon sgd adagrad adadelta; do train "-e L3:H7:C364:T200:V8001 -b 5 -d 1000 -x 2 --optimizer $optimizer --precision $precision"; done
    train "-e L2:H8:C1024:T128:V12000 -b 4 -d 1024 -x 2 --precision $precision"
    train "-e L6:H6:C384:T64:V300 -d 256 -x 2 --fuse-update last-norm --precision $precision"
    train "-e L2:H4:C256:T1500:V300 -b 1 -d 1500 -x 2 --precision $precision"
    train "-e L3:H3:C342:T150:V5003 -b 7 -d 3000 -x 2 -s 1 -g 5 --precision $precision"
    train "-e L6:H6:C384:T256:V12000 -b 3 -d 2048 -x 2 --dropout 0.1 --precision $precision"
done
train "-e L3:H7:C364:T200:V20001 -b 5 -d 1000 -x 2 --precision bf16 -w 0"
for limit in 150MB 250MB; do train "-e L4:H4:C256:T256:V8000 -d 4096 -x 2 --memory-limit $limit"; done
train "-e L6:H6:C384:T256:V300 -b 2 -d 512 -x 1"
mv "$work/run" "$work/base"
for more in "" "--lora-rank 8" "--lora-rank 8 --precision bf16"; do
    common="-e $work/base -v 0 -b 3 -d 2048 -x 2"
    measure "finetune${more:+ \`$more\`}" finetune $common -i "$work/data/train_*.bin" -j "$work/data/val_*.bin" $more
    measure "examples${more:+ \`$more\`}" finetune $common -i "$work/examples.jsonl" $more
    measure "a head${more:+ \`$more\`}" finetune $common -i "$work/labels.jsonl" --head classify $more
done
measure "DPO \`--lora-rank 8\`" finetune -e "$work/base" -v 0 -b 4 -d 2048 -x 2 -i "$work/pairs.jsonl" --objective dpo --lora-rank 8
measure "distillation" finetune -e "$work/base" -v 0 -b 3 -d 2048 -x 2 -i "$work/data/train_*.bin" -j "$work/data/val_*.bin" --objective distill --teacher "$work/base"
{
    echo "# Memory of training on a CPU, stated and measured"
    echo
    echo "By \`dev/bench/memory_table.sh\`, on $(nproc) cores of $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)."
    echo "Stated: what the run says before it begins. Measured: VmHWM of the process at its end."
    echo
    echo "| run | stated | measured | measured / stated |"
    echo "|---|---|---|---|"
    cat "$work/rows"
} >"$report"
exit $status
