#!/usr/bin/env bash
# GPT-2's weights and vocabulary from the Hub, to the directory that --model then names: gpt2/ (0.5 GB), gpt2-medium/ (1.5 GB),
# gpt2-large/ (3.2 GB), gpt2-xl/ (6.4 GB) beside the programs.
#
#   data/gpt2.sh [SIZE]
set -euo pipefail
cd "$(dirname "$0")/.."
. data/fetch.sh

size=${1:-gpt2}
case $size in
    gpt2 | gpt2-medium | gpt2-large | gpt2-xl) ;;
    *) complain "SIZE: gpt2, gpt2-medium, gpt2-large or gpt2-xl, not $size"; exit 2 ;;
esac
from=$HF_ENDPOINT/openai-community/$size/resolve/main
fetch "$from/config.json" "$size/config.json" json
fetch "$from/vocab.json" "$size/vocab.json" json
fetch "$from/merges.txt" "$size/merges.txt" text
for file in generation_config.json tokenizer_config.json; do  # not every size has them
    fetch "$from/$file" "$size/$file" json 2>/dev/null || { [ $? -eq 3 ] || fetch "$from/$file" "$size/$file" json; }
done
fetch "$from/model.safetensors" "$size/model.safetensors" safetensors
say "model: $size (for example: ./train_gpt2 sample --model $size --prompt 'The meaning of life is')"
