#!/usr/bin/env bash
# HellaSwag's 10,042 validation questions, to data/hellaswag/hellaswag_val.jsonl.   (Zellers et al. 2019, https://arxiv.org/abs/1905.07830)
set -euo pipefail
cd "$(dirname "$0")/.."
. data/fetch.sh

fetch "$GITHUB_RAW/rowanz/hellaswag/master/data/hellaswag_val.jsonl" data/hellaswag/hellaswag_val.jsonl jsonl
say "for example: ./train_gpt2 eval --model gpt2 --task hellaswag"
