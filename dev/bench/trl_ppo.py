#!/usr/bin/env python3
"""TRL's PPOTrainer on a GPT-2, to compare `finetune --objective ppo` with: the same model, prompts, lengths and updates.

    python dev/bench/trl_ppo.py --model DIR --prompts prompts.jsonl --rollouts 16 --max-tokens 64 --epochs 4 --steps 2

As TRL's own example does it: a policy, a reference, a reward model and a value model, each of the size of --model. Seconds are
those between the ends of two steps; the first step warms up and does not count. Needs torch, transformers 4.48, trl 0.15.
Prints one JSON object at the end.
"""
import argparse
import json
import time

import torch
import transformers
import trl
from datasets import Dataset

p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument("--model", required=True)
p.add_argument("--prompts", required=True)
p.add_argument("--rollouts", type=int, default=16)
p.add_argument("--max-tokens", type=int, default=64)
p.add_argument("--epochs", type=int, default=4)
p.add_argument("--batch", type=int, default=8)
p.add_argument("--steps", type=int, default=2, help="that count, after one that does not")
a = p.parse_args()

torch.manual_seed(1337)
tokenizer = transformers.AutoTokenizer.from_pretrained(a.model, padding_side="left")
tokenizer.pad_token = tokenizer.eos_token
rows = [tokenizer(json.loads(line)["prompt"])["input_ids"] for line in open(a.prompts) if line.strip()]
data = Dataset.from_dict({"input_ids": (rows * (1 + a.rollouts * (a.steps + 1) // len(rows)))[:a.rollouts * (a.steps + 1)]})
causal = transformers.AutoModelForCausalLM.from_pretrained
score = transformers.AutoModelForSequenceClassification.from_pretrained
scored = dict(num_labels=1, pad_token_id=tokenizer.pad_token_id)
config = trl.PPOConfig(
    output_dir="/tmp/trl_ppo", per_device_train_batch_size=a.batch, gradient_accumulation_steps=a.rollouts // a.batch,
    num_mini_batches=1, num_ppo_epochs=a.epochs, total_episodes=a.rollouts * (a.steps + 1), response_length=a.max_tokens,
    local_rollout_forward_batch_size=min(64, a.rollouts), temperature=1.0, num_sample_generations=0, kl_coef=0.05,
    learning_rate=1e-5, report_to=[], save_strategy="no", use_cpu=True, stop_token="eos", logging_steps=1)


class Clock(transformers.TrainerCallback):
    ends = []

    def on_step_end(self, *args, **more):
        self.ends.append(time.time())


trainer = trl.PPOTrainer(args=config, processing_class=tokenizer, model=causal(a.model), ref_model=causal(a.model),
                         reward_model=score(a.model, **scored), value_model=score(a.model, **scored), train_dataset=data,
                         eval_dataset=data.select(range(1)), callbacks=[Clock()])
trainer.train()
ends = Clock.ends
assert len(ends) == a.steps + 1, ends
print(json.dumps({"samples_s": a.rollouts * a.steps / (ends[-1] - ends[0]), "rollouts": a.rollouts, "max_tokens": a.max_tokens,
                  "epochs": a.epochs, "batch": a.batch, "threads": torch.get_num_threads(), "torch": torch.__version__,
                  "transformers": transformers.__version__, "trl": trl.__version__}))
