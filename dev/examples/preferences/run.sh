#!/usr/bin/env bash
# A small GPT that has read FOLDOC (../foldoc.sh) learns to answer by a rule that anybody can check (rule.py): from pairs of its own
# answers, which the rule has judged, by a reward model and by DPO; and from the rule itself, by PPO. Both learn beside plain text
# (--text), so that they stay language models.
#
#   dev/examples/preferences/run.sh        (minutes on two cores; what came of it: README.md)
#
# The marks: the rule holds for less than 30% of the answers before, for more than 80% after DPO and after PPO, to questions that
# nobody has learnt from or chosen a setting by; the language model's loss of held-out text rises by at most 5%; the reward model
# is right about more than 90% of held-out pairs. SEED: another one.
set -euo pipefail
cd "$(dirname "$0")/../../.."
step() { printf '\n== %s\n' "$*"; }
say() { echo "$*" | sed "s/  */ /g"; "$@"; }
here=dev/examples/preferences data=data/preferences
tune() { say ./train_gpt2 finetune --seed "${SEED:-1337}" "$@" | sed -nE '/^\.\/|^done|accuracy|step [0-9]*0\/[0-9]+ \| reward/ { s/ \| lr .*//; p }'; }
write() { ./train_gpt2 sample --max-tokens 48 --seed "${SEED:-1337}" --json "$@"; }  # answers

step "1. A model that has read FOLDOC (dev/examples/foldoc.sh) learns to answer questions of it"
bash dev/examples/foldoc.sh
rm -rf $data runs/preferences-*
mkdir -p $data
python3 $here/rule.py prompts data/foldoc/entries.tsv data/foldoc/held_out $data
head -n 1 $data/answers.jsonl
tune -e runs/foldoc -i $data/answers.jsonl --epochs 1 -b 16 -d 2048 -l 1e-3 -u 10 -v 0 -o runs/preferences-base

step "2. Its answers, judged: pairs of one that keeps the rule and one that does not"
write -e runs/preferences-base --prompt-file $data/held_out.jsonl --num-samples 6 >$data/base.jsonl
write -e runs/preferences-base --prompt-file $data/train.jsonl --num-samples 6 >$data/sampled.jsonl
python3 $here/rule.py pairs $data/sampled.jsonl >$data/pairs.jsonl
python3 $here/rule.py pairs $data/base.jsonl >$data/pairs_held_out.jsonl
wc -l $data/pairs.jsonl $data/pairs_held_out.jsonl
head -n 1 $data/pairs.jsonl

step "3. A reward model"
tune -e runs/preferences-base -i $data/pairs.jsonl -j $data/pairs_held_out.jsonl --objective reward -l 1e-3 --epochs 1 -b 16 -d 2048 \
    -o runs/preferences-reward

text="--text data/foldoc/train_000000.bin"
step "4. DPO"
tune -e runs/preferences-base -i $data/pairs.jsonl -j $data/pairs_held_out.jsonl --objective dpo --beta 0.1 $text --text-weight 0.5 \
    -l 5e-4 --epochs 3 -b 16 -d 2048 -o runs/preferences-dpo

step "5. PPO, rewarded by the rule"
tune -e runs/preferences-base -i $data/train.jsonl --objective ppo --rollouts 64 --max-tokens 48 --reward-command "python3 $here/rule.py" \
    --kl 0.05 $text -l 3e-4 -u 3 -x 50 -v 0 -b 32 --rollout-epochs 2 --minibatches 2 -o runs/preferences-ppo

step "Results: how often the rule holds, words, share of distinct answers; loss of held-out text; five answers drawn at random"
for way in base dpo ppo; do
    write -e runs/preferences-$way --prompt-file $data/test.jsonl --num-samples 2 >$data/answers-$way.jsonl
    loss=$(./train_gpt2 eval -e runs/preferences-$way -j data/foldoc/val_000000.bin --json | sed 's/.*"loss":\([0-9.]*\).*/\1/')
    [ $way != base ] || base=$loss
    echo "$way: $(python3 $here/rule.py rate $data/answers-$way.jsonl); $(awk "BEGIN { printf \"%.4f, %+.1f%%\", $loss, 100 * ($loss / $base - 1) }")"
    python3 $here/rule.py show $data/answers-$way.jsonl
done
