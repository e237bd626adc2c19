#!/usr/bin/env bash
# TinyStories: 2.2 GB of short stories in simple words, to data/tinystories/.       (Eldan & Li 2023, https://arxiv.org/abs/2305.07759)
# With a vocabulary of its own (VOCAB_SIZE, 4096) and the published validation stories. Stories are separated by <|endoftext|>.
set -euo pipefail
cd "$(dirname "$0")/.."
. data/fetch.sh

TOKENIZE=${TOKENIZE:-./tokenize}
from=$HF_ENDPOINT/datasets/roneneldan/TinyStories/resolve/main
texts=data/download
dir=data/tinystories
if [ ! -e $dir ]; then
    fetch "$from/TinyStoriesV2-GPT4-valid.txt" $texts/TinyStoriesV2-GPT4-valid.txt text
    fetch "$from/TinyStoriesV2-GPT4-train.txt" $texts/TinyStoriesV2-GPT4-train.txt text
    [ -x "$TOKENIZE" ] || { complain "$TOKENIZE is missing: run make tokenize"; exit 1; }
    # made under another name, so that a data set is either whole or not there
    rm -rf $dir.part
    mkdir -p $dir.part
    "$TOKENIZE" train --vocab-size "${VOCAB_SIZE:-4096}" -o $dir.part $texts/TinyStoriesV2-GPT4-train.txt
    "$TOKENIZE" encode --vocab $dir.part -o $dir.part --val-inputs $texts/TinyStoriesV2-GPT4-valid.txt -- $texts/TinyStoriesV2-GPT4-train.txt
    mv $dir.part $dir
fi
say "data set: $dir (for example: ./train_gpt2 train -i '$dir/train_*.bin' -j '$dir/val_*.bin')"
