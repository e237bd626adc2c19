#!/usr/bin/env bash
# Web text as published GPT-2 token shards of 100M tokens (200 MB) each, to data/fineweb/ or data/fineweb_edu/.
#
#   data/fineweb.sh fineweb|fineweb_edu [SHARDS]        SHARDS for training, 1 if not said; and always the validation shard
set -euo pipefail
cd "$(dirname "$0")/.."
. data/fetch.sh

name=${1:-fineweb}
shards=${2:-1}
case $name in
    fineweb) repository=kjj0/fineweb10B-gpt2 prefix=fineweb most=103 ;;
    fineweb_edu) repository=karpathy/fineweb-edu-100B-gpt2-token-shards prefix=edu_fineweb most=1001 ;;
    *) complain "data/fineweb.sh: there is fineweb and fineweb_edu, not $name"; exit 2 ;;
esac
case $shards in '' | *[!0-9]*) shards=0 ;; esac
if [ "$shards" -lt 1 ] || [ "$shards" -gt $most ]; then
    complain "SHARDS: a number from 1 to $most for $name"
    exit 2
fi

dir=data/$name
fetch "$HF_ENDPOINT/datasets/$repository/resolve/main/${prefix}_val_000000.bin" "$dir/val_000000.bin" shard
# the published training shards count from 1
for ((i = 1; i <= shards; i++)); do
    shard=$(printf %06d $i)
    fetch "$HF_ENDPOINT/datasets/$repository/resolve/main/${prefix}_train_$shard.bin" "$dir/train_$shard.bin" shard
done
# GPT-2's vocabulary, so that samples can be read
fetch "$HF_ENDPOINT/openai-community/gpt2/resolve/main/vocab.json" "$dir/vocab.json" json
fetch "$HF_ENDPOINT/openai-community/gpt2/resolve/main/merges.txt" "$dir/merges.txt" text
say "data set: $dir (for example: ./train_gpt2 train -i '$dir/train_*.bin' -j '$dir/val_*.bin')"
