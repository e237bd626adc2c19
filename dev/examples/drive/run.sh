#!/usr/bin/env bash
# Tokens that are not text: a small GPT learns to drive on a simulated highway, from logs of drivers of mixed quality, from a
# careful driver's take-overs, and from rewards. README.md beside it says what is what.
#
#   dev/examples/drive/run.sh        (minutes on two cores)
#
# VOCAB_SIZE=500000: as many words as the drive language may have; those that no log has cost memory and no time. The marks: PPO
# at least halves the collisions per km of the pretrained model, at no less progress, and in at least 95% of scenes the car
# is at the end where and as fast as the control tokens say.
set -euo pipefail
cd "$(dirname "$0")/../../.."
step() { printf '\n== %s\n' "$*"; }
say() { echo "$*" | sed "s/  */ /g"; "$@"; }
quiet() { grep -vE 'tok/s|written in|^(memory|recompute):' || true; }
here=dev/examples/drive data=data/drive
stages() { say python3 $here/stages.py "$@"; }
size=${VOCAB_SIZE:-2000}

SECONDS=0
rm -rf $data runs/drive-*
step "1. Logs of drivers of mixed quality"
say python3 $here/logs.py --drives 4000 --vocab-size $size -o $data
say ./tokenize examples -i $data/logs.jsonl -j $data/held_out.jsonl -e $data -o $data/examples
words=$(grep -o '"special"' $data/tokenizer.json | wc -l)

step "2. Pretraining on them: of $size words $words are in use"
say ./train_gpt2 train -e L3:H4:C64:T48:V$size:U$words -i $data/examples -j $data/examples -b 32 -d 6144 -l 4e-3 -u 50 -x 600 -v 100 \
    -o runs/drive-pretrained | quiet
stages futures runs/drive-pretrained --of 64

step "3. Where the careful driver takes over"
stages takeovers runs/drive-pretrained --scenes 1000
head -n 1 $data/pairs.jsonl

step "4. Supervised fine-tuning on what the careful driver would have done; then once more, with the drives of what came of it"
tune="-i $data/corrected.jsonl -b 32 -d 6144"
say ./train_gpt2 finetune -e runs/drive-pretrained $tune --epochs 2 -l 2e-3 -o runs/drive-tuned-once | quiet
stages watch runs/drive-tuned-once --scenes 1500
say ./train_gpt2 finetune -e runs/drive-tuned-once $tune --epochs 4 -l 3e-3 -q 0.02 -o runs/drive-tuned | quiet

step "5. A reward model, and DPO, of the take-overs"
pairs="-i $data/pairs.jsonl -j $data/pairs_held_out.jsonl -b 16 -d 1536 --epochs 2"
say ./train_gpt2 finetune -e runs/drive-pretrained $pairs --objective reward -l 1e-3 -o runs/drive-reward | quiet
say ./train_gpt2 finetune -e runs/drive-pretrained $pairs --objective dpo --beta 0.3 -l 3e-4 -o runs/drive-dpo | quiet

step "6. PPO on safety, progress and comfort, by the simulator, from scenes to which the fine-tuned model comes"
stages watch runs/drive-tuned --scene 2000 --scenes 600
say ./train_gpt2 finetune -e runs/drive-tuned -i $data/prompts.jsonl --objective ppo --rollouts 512 --max-tokens 3 --minibatches 4 \
    --rollout-epochs 2 --reward-command "python3 $here/stages.py reward --weights 2,1,0.3" --kl 0.1 -l 1e-4 -u 2 -x 30 -v 0 -b 64 \
    -o runs/drive-ppo | grep -E '^(./train|step [0-9]*[05]/|done)'

step "Results: closed loop in the simulator"
rm -f $data/results.jsonl
stages evaluate careful mixed runs/drive-pretrained runs/drive-dpo runs/drive-tuned-once runs/drive-tuned runs/drive-ppo --scenes 600 -o $data/results.jsonl
stages evaluate runs/drive-pretrained runs/drive-ppo --scenes 200 --of 8 -o $data/results.jsonl
stages futures runs/drive-ppo --of 64
stages picture runs/drive-pretrained runs/drive-ppo --of 32 -o $data/scenes.svg
echo "$((SECONDS / 60)) minutes"
python3 - $data/results.jsonl <<'PY'
import json, sys
rows = {}
for line in open(sys.argv[1]):
    row = json.loads(line)
    rows[row["model"]] = row
def cell(name):
    row = rows[name]
    return "%.3f +- %.3f" % (row["per_km"], row["collisions"] ** 0.5 / row["km"])
print("collisions per km, with standard errors: pretrained %s, fine-tuned %s, PPO %s" % tuple(
    map(cell, ("runs/drive-pretrained", "runs/drive-tuned", "runs/drive-ppo"))))
before, after = rows["runs/drive-pretrained"], rows["runs/drive-ppo"]
print("collisions per km %.3f -> %.3f, progress %.3f -> %.3f, control tokens obeyed in %.1f%% of scenes" % (
    before["per_km"], after["per_km"], before["progress"], after["progress"], 100 * after["obeyed"]))
if after["per_km"] > before["per_km"] / 2 or after["progress"] < before["progress"] or after["obeyed"] < 0.95:
    sys.exit("a mark is missed")
PY
