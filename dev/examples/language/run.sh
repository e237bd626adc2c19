#!/usr/bin/env bash
# From English to German: a small GPT learns the King James Bible, gets German words, and goes on with German quotations
# and jokes (Debian's packages bible-kjv and fortunes-de); beside it a new model learns German from nothing.
#
#   dev/examples/language/run.sh        (minutes on two cores; its output: output.txt beside it)
#
# The marks: on German text that no vocabulary has seen, the extended one needs at least 20% fewer tokens than the English
# one; and the model that goes on reaches the new model's last validation loss in at most half its steps. Both have the same
# vocabulary, so that their losses compare.
set -euo pipefail
cd "$(dirname "$0")/../../.."
step() { printf '\n== %s\n' "$*"; }
say() { echo "$*" | sed "s/  */ /g"; "$@"; }

german() {  # the package's texts, wherever it is
    for dir in /usr/share/games/fortunes/de .deps/usr/share/games/fortunes/de; do
        [ ! -d $dir ] || { echo $dir; return; }
    done
}
mkdir -p data/download
if [ ! -s data/download/bible.txt ]; then NAME=bible FETCH_TRIES=0 bash data/text.sh >/dev/null || true; fi
[ -n "$(german)" ] || bash dev/setup.sh fortunes-de >/dev/null
# One of twenty lines-between-% texts is held out: neither the vocabulary nor the model learns from it.
cat "$(german)"/{zitate,witze,unfug,infodrom,sprueche,sprichworte,stilblueten,anekdoten} | awk -v RS='\n%\n' '
    { print $0 "\n" > (NR % 20 ? "data/download/german.txt" : "data/download/german_held_out.txt") }'
wc -c data/download/bible.txt data/download/german.txt data/download/german_held_out.txt

batch="-b 16 -d 2048 -m 20 -k cosine -c 0.1 -n 0"
english=data/language-english german=data/language-german both=data/language-english-german
rm -rf $english $german $both runs/language-*

step "1. English: a vocabulary of 2,048 words, and a model"
say ./tokenize train --vocab-size 2048 -o $english data/download/bible.txt
say ./tokenize encode -o $english data/download/bible.txt
say ./train_gpt2 train -e L4:H4:C128:T128 -i $english $batch -l 2e-3 -u 50 -x 900 -v 300 -o runs/language-english

step "2. German: 2,048 words more, behind the English ones"
say ./tokenize train --extend $english --vocab-size 4096 -o $both data/download/german.txt
say ./tokenize encode --vocab $both -o $both -j data/download/german_held_out.txt data/download/german.txt
say ./tokenize encode --vocab $english -o $german -j data/download/german_held_out.txt data/download/german.txt
tokens() { od -An -t d4 -j 8 -N 4 "$1/val_000000.bin" | tr -d ' '; }
old=$(tokens $german) new=$(tokens $both)

steps=400
step "3. A new model, $steps steps"
say ./train_gpt2 train -e L4:H4:C128:T128 -i $both $batch -l 2e-3 -u 50 -x $steps -v 100 -o runs/language-new

step "4. The English model with the German words, $((steps / 2)) steps"
say ./train_gpt2 finetune -e runs/language-english --vocab $both -i $both $batch -l 2e-3 -u 20 -x $((steps / 2)) -v 50 \
    -o runs/language-german

step "5. What it writes now"
say ./train_gpt2 sample -e runs/language-german --prompt "Die Menschen" --max-tokens 60 --temperature 0.7 --top-k 40 --seed 1

step "Results"
last() { sed -n 's/.*"val_loss":\([0-9.]*\).*/\1/p' "$1/log.jsonl" | tail -n 1; }
reached=$(awk -v want="$(last runs/language-new)" '
    match($0, /"step":[0-9]+/) { step = substr($0, RSTART + 7, RLENGTH - 7) }
    match($0, /"val_loss":[0-9.]+/) && substr($0, RSTART + 11, RLENGTH - 11) + 0 <= want + 0 { print step; exit }' \
    runs/language-german/log.jsonl)
awk -v old="$old" -v new="$new" 'BEGIN {
    printf "held-out German: %d tokens in the English vocabulary, %d in the extended one: %.1f%% fewer\n", old, new, 100 - 100 * new / old }'
echo "validation loss of the new model after $steps steps: $(last runs/language-new)"
echo "of the English model with German words after $((steps / 2)): $(last runs/language-german); the new model's was reached by step ${reached:-(never)}"
awk -v old="$old" -v new="$new" -v step="${reached:-1000000}" -v half=$((steps / 2)) 'BEGIN { exit !(new <= 0.8 * old && step <= half) }' ||
    { echo "a mark is missed"; exit 1; }
