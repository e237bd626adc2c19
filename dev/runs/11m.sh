#!/usr/bin/env bash
# An 11-million-parameter GPT on the default data set: 600 steps of 4,096 tokens.
# 11m_bible.log is what it said where that data set is the King James Bible (two passes), on two cores of an AMD EPYC (Zen 5).
set -euo pipefail
cd "$(dirname "$0")/../.."
make -s train_gpt2 tokenize
data=$(bash data/text.sh | sed -n 's/^data set: //p' | tail -n 1)
exec ./train_gpt2 train -i "$data/train_*.bin" -j "$data/val_*.bin" -e L6:H6:C384:T256 -o "runs/$(basename "$data")-11m" --resume \
    -b 16 -t 256 -d 4096 -x 600 -l 1e-3 -u 50 -q 0.1 -c 0.1 --dropout 0.1 --seed 1337 -v 100 -m 4 -s 200 -g 100 -n 200
