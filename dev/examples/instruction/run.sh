#!/usr/bin/env bash
# A small GPT that has read a dictionary (../foldoc.sh) learns to answer in the form of another: "What does LFS stand for?", by
# pairs made from V.E.R.A., the Virtual Entity of Relevant Acronyms (Oliver Heidelbach; Debian's package dict-vera). Three ways:
# the whole model, an adapter (LoRA), and prompts in front of a model that stays as it is (P-tuning).
#
#   dev/examples/instruction/run.sh        (minutes on two cores; its output: output.txt beside it)
#
# The mark: on acronyms that no pair has had, the loss of the completions is at least 30% below that of the model which has only
# read, asked in the same form; for each of the three. That some of them stand in the first dictionary is all three's advantage alike.
set -euo pipefail
cd "$(dirname "$0")/../../.."
step() { printf '\n== %s\n' "$*"; }
say() { echo "$*" | sed "s/  */ /g"; "$@"; }
here=dev/examples/instruction

step "1. A model that has read FOLDOC (dev/examples/foldoc.sh)"
bash dev/examples/foldoc.sh

step "2. Pairs of V.E.R.A."
dictionary() {
    for dir in /usr .deps/usr; do
        [ ! -e $dir/share/dictd/vera.dict.dz ] || { zcat <$dir/share/dictd/vera.dict.dz; return; }
    done
    return 1
}
mkdir -p data/vera data/download
dictionary >data/download/vera.txt || { bash dev/setup.sh dict-vera >/dev/null && dictionary >data/download/vera.txt; }
# Acronyms of two to five letters that are the initials of their words. Every twentieth is held out, with all that it stands for.
awk '/^[A-Z][A-Z][A-Z]?[A-Z]?[A-Z]?$/ {
        acronym = $0; getline; sub(/^ +/, ""); sub(/( [[(]|,).*/, "")
        if (!/^[A-Za-z \/-]+$/) next
        n = split($0, words, /[ \/-]+/); initials = ""
        for (i = 1; i <= n; i++) initials = initials substr(words[i], 1, 1)
        if (initials != acronym) next
        if (acronym != last) distinct++
        last = acronym
        printf "{\"prompt\": \"What does %s stand for?\", \"completion\": \"It stands for %s.\"}\n", acronym, $0 >(distinct % 20 ? "data/vera/train.jsonl" : "data/vera/held_out.jsonl")
    }' data/download/vera.txt
wc -l data/vera/train.jsonl data/vera/held_out.jsonl
head -n 3 data/vera/held_out.jsonl

rm -rf runs/vera-*
tune() {  # tune NAME OPTIONS...
    say ./train_gpt2 finetune -e runs/foldoc -i data/vera/train.jsonl -j data/vera/held_out.jsonl --epochs 3 -b 8 -d 1024 -v 100 \
        -o "runs/vera-$1" "${@:2}" | grep -vE 'tok/s|written in'
}
step "3. The whole model"
tune full --template $here/template.txt -l 1e-3
step "4. Low-rank matrices beside its own (LoRA)"
tune lora --template $here/template.txt -l 1e-2 --lora-rank 8
step "5. Ten prompts, five on either side of the question"
tune prompts --template $here/prompts.txt -l 5e-3 --prompt-tokens 10 --prompt-encoder lstm

step "6. What they answer to acronyms that no pair has had"
grep -o 'What[^"]*' data/vera/held_out.jsonl | awk 'NR % 40 == 1' >data/vera/questions
sed 's/$/\n\/reset/' data/vera/questions >data/vera/asked
for way in full lora prompts; do
    echo "./train_gpt2 chat -e runs/vera-$way --temperature 0 <data/vera/asked"
    ./train_gpt2 chat -e runs/vera-$way --temperature 0 <data/vera/asked | paste -d ' ' data/vera/questions -
done
awk -F '"' 'NR % 40 == 1 { print "V.E.R.A.:", $8 }' data/vera/held_out.jsonl

step "Results"
loss() { ./train_gpt2 eval -e "$@" -j data/vera/held_out.jsonl --json | sed -n 's/.*"loss": *\([0-9.]*\).*/\1/p'; }
base=$(loss runs/foldoc --template $here/template.txt)
echo "loss of the held-out completions"
echo "  of the model that has read    $base"
missed=0
for way in full lora prompts; do
    tuned=$(loss runs/vera-$way)
    awk -v way=$way -v base="$base" -v tuned="$tuned" 'BEGIN {
        printf "  %-28s  %.4f, %.1f%% below\n", way, tuned, 100 - 100 * tuned / base; exit !(tuned <= 0.7 * base) }' || missed=1
done
[ $missed = 0 ] || { echo "a mark is missed"; exit 1; }
