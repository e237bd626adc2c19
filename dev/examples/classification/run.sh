#!/usr/bin/env bash
# Which field of computing is a definition about? Definitions of FOLDOC that the model (../foldoc.sh) has not read, of four
# fields: company, jargon, language, networking; half of them to learn from, half to be asked about. Chance is 25%.
#
#   dev/examples/classification/run.sh        (minutes on two cores; its output: output.txt beside it)
#
# The base model is asked by label words: which field's name is likeliest behind the definition. Beside it: a head, the model
# tuned to write the label words, and P-tuning with label words. The marks: each of them beats the base model and chance.
# Then full tuning and P-tuning with 32 examples and 32 to choose the best checkpoint by, as in the paper (Liu et al. 2021), five draws.
#
# There the paper's order is not found: 0.748 (standard deviation 0.020) for the whole model, 0.553 (0.075) for P-tuning. Steps are
# not what it lacks: 80 epochs in place of 24, on the fifth draw, leave its validation loss between 1.13 and 1.22 (full tuning comes to
# 0.3 or 0.4), and its training loss between 0.5 and 1.1: in front of this model ten vectors do not fit even 32 examples. The paper
# has models of 100 million parameters and more, in which a prompt finds the task; this one has 1.3 million and has read 4 MB, and
# the task has to be put into its weights.
set -euo pipefail
cd "$(dirname "$0")/../../.."
step() { printf '\n== %s\n' "$*"; }
say() { echo "$*" | sed "s/  */ /g"; "$@"; }
here=dev/examples/classification
data=data/fields

step "1. A model that has read FOLDOC (dev/examples/foldoc.sh)"
bash dev/examples/foldoc.sh

step "2. Definitions and their fields"
mkdir -p $data
# The first 200 characters of each, as labelled texts, and as pairs with the question behind the text.
awk -F '\t' -v dir=$data '{
    text = substr($3, 1, 200); gsub(/[\\"]/, "\\\\&", text)
    what = ++n[$2] % 2 ? "train" : "test"
    printf "{\"text\": \"%s\", \"label\": \"%s\"}\n", text, $2 >(dir "/" what ".jsonl")
    printf "{\"prompt\": \"%s\\nField:\", \"completion\": \" %s\"}\n", text, $2 >(dir "/" what "_pairs.jsonl")
}' data/foldoc/held_out.tsv
wc -l $data/train.jsonl $data/test.jsonl
head -n 4 $data/test.jsonl

# Accuracy by label words on the half that is asked about; all that is done in silence leaves its output in $data/log.
accuracy() { ./train_gpt2 eval -e "$1" --task $data/test.jsonl --prompt '{text}\nField:' --json | sed -n 's/.*"acc": *\([0-9.]*\).*/\1/p'; }
# The same where the model writes the label itself, which is stricter: with prompts between text and answer.
written() { ./train_gpt2 eval -e "$1" --task $data/test_pairs.jsonl --answer-tokens 4 --json | sed -n 's/.*"exact_match": *\([0-9.]*\).*/\1/p'; }
tune() {  # tune OUTPUT OPTIONS...: prints the best checkpoint's directory
    rm -rf "$1"
    ./train_gpt2 finetune -e runs/foldoc -o "$@" >$data/log 2>&1 || { tail -n 3 $data/log >&2; exit 1; }
    sed -n 's/^best: .*: //p' $data/log
}
result() { printf '  %-32s %.4f\n' "$@"; }

step "3. By label words, the model as it is: which prompt does best, by half of the examples to learn from"
say ./train_gpt2 eval -e runs/foldoc --task $data/train.jsonl --prompts $here/prompts.txt
base=$(accuracy runs/foldoc)

step "4. All 360 examples, of which every tenth chooses the best checkpoint"
full=$(accuracy "$(tune runs/fields-full -i $data/train_pairs.jsonl -l 3e-4 --epochs 5)")
result "tuned to write the label words" $full
lora=$(accuracy "$(tune runs/fields-lora -i $data/train_pairs.jsonl -l 3e-3 --epochs 8 --lora-rank 8)")
result "the same by LoRA" $lora
prompts=$(written "$(tune runs/fields-prompts -i $data/train_pairs.jsonl -l 5e-3 --epochs 8 -b 2 --prompt-tokens 10 --template $here/template.txt)")
result "P-tuning" $prompts
head=$(tune runs/fields-head --head classify -i $data/train.jsonl -l 5e-4 --epochs 6)
head=$(./train_gpt2 eval -e "$head" -j $data/test.jsonl --json | sed -n 's/.*"acc[a-z]*": *\([0-9.]*\).*/\1/p')
result "a head" $head

step "5. 32 examples to learn from, 32 to choose the best checkpoint by: five draws"
for draw in 1 2 3 4 5; do
    # Eight of each field, and eight more.
    awk -v seed=$draw 'BEGIN { state = seed } { state = (state * 16807 + NR) % 2147483647; print state "\t" $0 }' $data/train_pairs.jsonl | sort -n | cut -f 2 |
        awk -v dir=$data -F '"completion": ' '{ n[$2]++ } n[$2] <= 8 { print >(dir "/few.jsonl") } n[$2] > 8 && n[$2] <= 16 { print >(dir "/choose.jsonl") }'
    full_32=$(written "$(tune runs/fields-few -i $data/few.jsonl -j $data/choose.jsonl -l 2e-4 --epochs 10)")
    prompts_32=$(written "$(tune runs/fields-few -i $data/few.jsonl -j $data/choose.jsonl -l 5e-3 --epochs 24 -b 1 -v 40 \
        --prompt-tokens 10 --template $here/template.txt)")
    echo "draw $draw: the whole model $full_32, P-tuning $prompts_32"
done | tee $data/draws

step "Results: accuracy on the 360 definitions that are asked about; chance 0.2500"
result "the model as it is" $base
result "tuned to write the label words" $full
result "the same by LoRA" $lora
result "P-tuning" $prompts
result "a head" $head
awk '{ gsub(",", ""); n++; a += $6; aa += $6 * $6; b += $8; bb += $8 * $8 } END {
    printf "  32 examples, the whole model       %.4f, standard deviation %.4f\n", a / n, sqrt((aa - a * a / n) / (n - 1))
    printf "  32 examples, P-tuning              %.4f, standard deviation %.4f\n", b / n, sqrt((bb - b * b / n) / (n - 1)) }' $data/draws
for way in $full $prompts $head; do
    awk -v way=$way -v base=$base 'BEGIN { exit !(way > base && way > 0.25) }' || { echo "a mark is missed"; exit 1; }
done
