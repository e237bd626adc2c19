#!/usr/bin/env bash
# What an adapter saves: memory and time of a step, of the whole model and of LoRA, one after the other in turn.
#
#   dev/bench/bench_lora.sh [SIZE [B [T [RANK [STEPS]]]]]        d12 4 256 8 8; marks: memory 0.5, time 0.75 of the whole's
set -euo pipefail
cd "$(dirname "$0")/../.."
size=${1:-d12} B=${2:-4} T=${3:-256} rank=${4:-8} steps=${5:-8} precision=${PRECISION:-fp32}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
make -s train_gpt2 tokenize
cat ./*.md llmc/*/*.h >"$dir/text.txt"
./tokenize train --vocab-size 2000 -o "$dir/data" "$dir/text.txt" >/dev/null
./tokenize encode --vocab "$dir/data" -o "$dir/data" "$dir/text.txt" >/dev/null
common=(-i "$dir/data" -j "$dir/data/val_000000.bin" -b "$B" -t "$T" -d $((B * T)) -v 0 --precision "$precision")
./train_gpt2 train -e "$size:V50257" "${common[@]}" -x 1 -o "$dir/base" >/dev/null

# one NAME ARGUMENTS...: kB of memory at the most, and the median milliseconds of a step, the first two left out
one() {
    local name=$1
    shift
    rm -rf "$dir/$name"
    /usr/bin/time -f %M -o "$dir/memory" ./train_gpt2 finetune -e "$dir/base" "${common[@]}" -x "$steps" -o "$dir/$name" "$@" >/dev/null
    sed -n 's/.*"ms":\([0-9.]*\).*/\1/p' "$dir/$name/log.jsonl" | tail -n +3 | sort -n | awk -v kb="$(cat "$dir/memory")" '
        {x[NR] = $1} END {print kb, x[int((NR + 1) / 2)]}'
}
for ((round = 1; round <= ${ROUNDS:-3}; round++)); do
    read -r memory ms <<<"$(one whole)"
    read -r lora_memory lora_ms <<<"$(one lora --lora-rank "$rank")"
    awk -v r="$round" -v a="$memory" -v b="$ms" -v c="$lora_memory" -v d="$lora_ms" 'BEGIN {
        printf "round %d: whole %.2f GB, %.0f ms a step; LoRA %.2f GB, %.0f ms: %.2f of the memory, %.2f of the time\n",
            r, a / 1e6, b, c / 1e6, d, c / a, d / b}'
done
