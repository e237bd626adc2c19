#!/usr/bin/env bash
# Memory of the three stages on a model of GPT-2 124M's size, by /usr/bin/time: fine-tuning, a reward model, PPO with it; prompts
# and answers of 64 tokens, batches of 8, bf16; adapters (policy, reference, reward and value on one frozen base), then the whole
# model, which PPO has three of (policy, reference, reward model).
#
#   dev/bench/reward_memory.sh [adapters|whole ...]       a step each; minutes where the processor has bf16 products, else long
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
run() { "$@" >"$work/log" 2>&1 || { tail -5 "$work/log"; exit 1; }; }
cat README.md OPTIONS.md >"$work/text.txt"
run ./tokenize train --vocab-size 1000 -o "$work/data" "$work/text.txt"
run ./tokenize encode --vocab "$work/data" -o "$work/data" "$work/text.txt"
run ./train_gpt2 train -e L12:H12:C768:T1024:V50257 -i "$work/data/train_*.bin" -b 1 -t 64 -d 64 -x 1 -v 0 --precision bf16 -o "$work/model"
run ./train_gpt2 export -e "$work/model" --type bf16 -o "$work/base"
rm -rf "$work/model"
sentence="a model learns a token and a batch of text at a time and a step has as many as fit in memory so that no more is"
for i in $(seq 16); do  # some 64 tokens a prompt
    echo "{\"prompt\": \"$i $sentence\"}" >>"$work/prompts.jsonl"
    echo "{\"prompt\": \"$i $sentence\", \"completion\": \" $sentence $i\"}" >>"$work/examples.jsonl"
    echo "{\"prompt\": \"$i $sentence\", \"chosen\": \" $sentence.\", \"rejected\": \" $sentence $i\"}" >>"$work/pairs.jsonl"
done
stage() {  # stage NAME OPTIONS...
    local name=$1
    shift
    rm -rf "$work/$name"
    run /usr/bin/time -f "%M" -o "$work/peak" ./train_gpt2 finetune -e "$work/base" --precision bf16 -b 8 -x 1 -v 0 -o "$work/$name" "$@"
    awk -v what="$how, $name" '{ printf "%-28s %.2f GB\n", what, $1 * 1024 / 1e9 }' "$work/peak"
}
for how in "${@:-adapters}"; do
    lora="--lora-rank 8"
    [ "$how" = adapters ] || lora=
    stage fine-tuning -i "$work/examples.jsonl" -t 128 -d 1024 $lora
    stage reward -i "$work/pairs.jsonl" -t 256 -d 2048 --objective reward $lora
    stage ppo -i "$work/prompts.jsonl" --objective ppo --reward "$work/reward" --rollouts 8 --rollout-epochs 1 --max-tokens 64 $lora
done
