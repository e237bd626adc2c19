#!/usr/bin/env bash
# From a fresh clone to a GPT that has learnt from real text: sets up, builds, gets text, trains for two minutes, samples.
#
#   dev/quickstart.sh [TEXT]        or: make quickstart [TEXT=mybook.txt]
#
# Run again, it takes up what is there: the data, and the run where it was interrupted. In the environment: TRAIN_SECONDS (120),
# MODEL (L4:H4:C128:T128), VOCAB_SIZE (2048).
set -euo pipefail
text=${1:+$(realpath -m -- "$1")}
cd "$(dirname "$0")/.."

seconds=${TRAIN_SECONDS:-120}
model=${MODEL:-L4:H4:C128:T128}
step() { printf '\n== %s\n' "$*"; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ -n "$text" ] && [ ! -e "$text" ]; then
    echo "TEXT=$1: no such file or directory" >&2
    exit 2
fi

step "1. Compiler and libraries (dev/setup.sh)"
bash dev/setup.sh

step "2. Build"
program=train_gpt2
nvcc=$(command -v nvcc || echo "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc")
if nvidia-smi -L >"$work/gpus" 2>/dev/null && grep -q GPU "$work/gpus"; then
    gpu=$(sed -n '1s/^GPU 0: \(.*\) (UUID.*/\1/p' "$work/gpus")
    if [ ! -e train_gpt2.cu ]; then
        echo "There is an NVIDIA GPU (${gpu:-GPU 0}), but no train_gpt2.cu here: training on the CPU."
    elif [ ! -x "$nvcc" ]; then
        echo "There is an NVIDIA GPU (${gpu:-GPU 0}), but no nvcc to compile for it: training on the CPU."
        echo "With the CUDA Toolkit (12.4 or newer, https://developer.nvidia.com/cuda-downloads), make quickstart uses the GPU."
    else
        program=train_gpt2cu
    fi
fi
make --no-print-directory -j "$(nproc)" $program tokenize

step "3. Text to tokens (data/text.sh)"
bash data/text.sh ${text:+"$text"} | tee "$work/data"
data=$(sed -n 's/^data set: //p' "$work/data" | tail -n 1)
run=runs/$(basename "$data")-quickstart

step "4. Train"
if ls -d "$run"/step_* >/dev/null 2>&1; then
    echo "There is a run in $run: going on where it stopped (to start afresh, first: rm -r $run)."
fi
# --resume starts afresh where there is nothing to resume.
train=("./$program" train -i "$data/train_*.bin" -j "$data/val_*.bin" --model "$model" -o "$run" --resume
    -b 16 -d 2048 --time-limit "$seconds" -l 2e-3 -u 50 -v 200 -m 8 -s 400 -g 80 -n 400)
echo "${train[*]}"
"${train[@]}"

step "5. What it writes now"
"./$program" sample --model "$run" --prompt $'\n' --max-tokens 200 --temperature 0.8 --top-k 50

again="make quickstart"
[ -z "$text" ] || again+=" TEXT='$1'"
cat <<END

== Done. The model, its optimizer, the log and the plot are in $run:
$(printf '  %s\n' "$run"/step_* "$run"/log.jsonl "$run"/*.svg)

What to do next:
  write more:          ./$program sample --model $run --prompt 'And he said'
  talk to it:          ./$program sample --model $run
  measure it:          ./$program eval --model $run --val-data '$data/val_*.bin'
  train further:       ./$program finetune --model $run -i '$data/train_*.bin' -j '$data/val_*.bin' -o $run-more -b 16 -d 2048 -l 5e-4 -x 1000
  a larger model:      ./$program train -i '$data/train_*.bin' -j '$data/val_*.bin' --model L6:H6:C384:T256 -o $run-large --time-limit 1800
  go on after Ctrl-C:  the command that the program prints, or: $again
  your own text:       make quickstart TEXT=mybook.txt
  more:                make help, ./$program --help, README.md
END
