#!/usr/bin/env bash
# PPO's samples a second, ours against a loop in PyTorch and against TRL's trainer: the same model, prompts and lengths, full
# fine-tuning in fp32, four epochs of one update, one after the other in each of ROUNDS rounds.
#
#   PYTHON=python3 dev/bench/bench_ppo.sh [SIZE] [ROUNDS]       SIZE: L6:H6:C384:T256:V50257; PYTHON has torch, transformers
#
# The vocabulary is one of the README; the model has GPT-2's number of rows, and random weights: what is measured does not depend
# on them. TRL is left out where it is not installed.
set -euo pipefail
cd "$(dirname "$0")/../.."
size=${1:-L6:H6:C384:T256:V50257} rounds=${2:-2} python=${PYTHON:-python3} rollouts=${ROLLOUTS:-16} tokens=64 epochs=4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat README.md OPTIONS.md >"$work/text.txt"
{ ./tokenize train --vocab-size 1000 -o "$work/data" "$work/text.txt" && ./tokenize encode --vocab "$work/data" -o "$work/data" "$work/text.txt"; } >"$work/log" 2>&1 ||
    { cat "$work/log"; exit 1; }
run() { "$@" >"$work/log" 2>&1 || { tail -5 "$work/log"; exit 1; }; }
run ./train_gpt2 train -e "$size" -i "$work/data/train_*.bin" -b 1 -t 64 -d 64 -x 1 -v 0 -o "$work/model"
run ./train_gpt2 export -e "$work/model" -o "$work/hf"
"$python" - "$work" <<'END'
import json, random, sys
random.seed(1)
words = "model step loss token batch memory layer head weight data run file norm rate prompt answer".split()
def text(n): return " ".join(random.choice(words) for _ in range(n))
with open(sys.argv[1] + "/p.jsonl", "w") as p, open(sys.argv[1] + "/pairs.jsonl", "w") as pairs:
    for i in range(64):
        p.write(json.dumps({"prompt": text(40)}) + "\n")
        pairs.write(json.dumps({"prompt": text(40), "chosen": " " + text(20), "rejected": " " + text(30)}) + "\n")
END
run ./train_gpt2 finetune -e "$work/hf" -i "$work/pairs.jsonl" --objective reward -t 256 -d 256 -x 1 -v 0 -o "$work/rm"
ours() {
    rm -rf "$work/ppo"
    run ./train_gpt2 finetune -e "$work/hf" -i "$work/p.jsonl" --objective ppo --reward "$work/rm" --rollouts "$rollouts" \
        --max-tokens $tokens --rollout-epochs $epochs -b 8 -x 3 -v 0 -o "$work/ppo"
    "$python" -c "
import json, sys
ms = [json.loads(l)['ms'] for l in open(sys.argv[1])][1:]
print('%.4f' % ($rollouts * len(ms) / sum(ms) * 1000))" "$work/ppo/log.jsonl"
}
theirs() {
    "$python" "dev/bench/$1" --model "$work/hf" --prompts "$work/p.jsonl" --rollouts "$rollouts" --max-tokens $tokens \
        --epochs $epochs --batch 8 --steps 2 2>"$work/err" | tail -1 |
        "$python" -c "import json, sys; print('%.4f' % json.load(sys.stdin)['samples_s'])" || { tail -3 "$work/err" >&2; echo nan; }
}
echo "PPO, samples a second: $size, fp32, $rollouts answers of up to $tokens tokens a step, $epochs epochs"
for ((round = 1; round <= rounds; round++)); do
    a=$(ours) b=$(theirs torch_ppo.py) c=nan
    "$python" -c "import trl" 2>/dev/null && c=$(theirs trl_ppo.py)
    "$python" -c "print('round $round: ours %.3f | PyTorch loop %.3f, ours is %.2f times that | TRL %.3f, ours is %.2f times that' % ($a, float('$b'), $a / float('$b'), float('$c'), $a / float('$c')))"
done
