#!/usr/bin/env python3
"""PPO on a GPT-2 in PyTorch, to compare `finetune --objective ppo` with: the same model, prompts, lengths and updates.

    python dev/bench/torch_ppo.py --model DIR --prompts prompts.jsonl --rollouts 64 --max-tokens 64 --epochs 4 --steps 3

A step, as libraries do it: transformers' generate with its key-value cache writes an answer to each of --rollouts prompts,
--batch at a time; one pass of the policy gives log p and values of the answers' tokens, one of the frozen reference log q; a
reward (1 up to --words words, then --words / words, as our length:N) comes with the last token, and each token pays
--kl (log p - log q); generalised advantages, whitened; then --epochs times --minibatches updates by the clipped loss and the
value head's, in micro-batches of --batch, AdamW. Logits are made for the answers' tokens only, log p once a token of an update.
Prompts of different lengths are filled up in front and masked. With --lora-rank an adapter (PEFT) learns, and the reference is the
model without it. The clock begins when the model is loaded; the first step warms up and does not count.

Needs torch and transformers (--lora-rank: peft). Prints a line a step and one JSON object at the end, which --output also
gets: samples a second over all steps but the first, seconds of sampling, of looking back and of learning, versions.
"""
import argparse
import copy
import json
import resource
import statistics
import time

import torch
import torch.nn.functional as F
import transformers


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True, help="a directory that transformers loads, with its tokenizer")
    p.add_argument("--prompts", required=True, help='JSON lines, {"prompt": ...}')
    p.add_argument("--rollouts", type=int, default=64, help="answers a step [64]")
    p.add_argument("--max-tokens", type=int, default=64, help="of an answer [64]")
    p.add_argument("--prompt-tokens", type=int, default=0, help="cut prompts to their last N tokens [0: not]")
    p.add_argument("--epochs", type=int, default=4, help="how often a step goes through its answers [4]")
    p.add_argument("--minibatches", type=int, default=1, help="updates each time [1]")
    p.add_argument("--batch", type=int, default=8, help="sequences of a forward and backward pass [8]")
    p.add_argument("--sample-batch", type=int, default=0, help="answers that grow at once [0: --rollouts, at most 64]")
    p.add_argument("--steps", type=int, default=3, help="steps that count, after one that does not [3]")
    p.add_argument("--lora-rank", type=int, default=0)
    p.add_argument("--words", type=int, default=20)
    p.add_argument("--learning-rate", type=float, default=1e-5)
    p.add_argument("--kl", type=float, default=0.05)
    p.add_argument("--clip", type=float, default=0.2)
    p.add_argument("--gae-lambda", type=float, default=0.95)
    p.add_argument("--value-weight", type=float, default=0.1)
    p.add_argument("--precision", default="fp32", choices=["fp32", "amp", "bf16"], help="amp: fp32 weights under autocast to "
                   "bf16; bf16: weights, too [fp32]")
    p.add_argument("--ignore-end", action="store_true", help="answers go on to --max-tokens, whatever they say")
    p.add_argument("--threads", type=int, default=0, help="[0: PyTorch's choice]")
    p.add_argument("--seed", type=int, default=1337)
    p.add_argument("--output", help="also write the JSON here")
    return p.parse_args()


class Policy(torch.nn.Module):
    """A GPT-2 with a value head on its last hidden state."""

    def __init__(self, lm):
        super().__init__()
        self.lm = lm
        self.value = torch.nn.Linear(lm.config.n_embd, 1, dtype=lm.dtype)
        torch.nn.init.zeros_(self.value.weight), torch.nn.init.zeros_(self.value.bias)


def gpt2_of(lm):
    return lm.get_base_model() if hasattr(lm, "get_base_model") else lm


def look(lm, tokens, mask, first):
    """log p (n,A) of tokens[:, first:], and the hidden states (n,A,C) that they were predicted from."""
    base = gpt2_of(lm)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    hidden = base.transformer(tokens[:, :-1], attention_mask=mask[:, :-1], position_ids=positions[:, :-1], use_cache=False)[0]
    hidden = hidden[:, first - 1:]
    logits = base.lm_head(hidden).float()
    return -F.cross_entropy(logits.transpose(1, 2), tokens[:, first:], reduction="none"), hidden


def advantages_of(rewards, values, log_p, log_q, mask, kl, lam):
    """Generalised advantages and targets (n,A); gamma is 1."""
    n, length = values.shape
    last = mask.sum(1) - 1
    pay = -kl * (log_p - log_q)
    pay[torch.arange(n), last] += rewards
    advantage, result = torch.zeros(n), torch.zeros(n, length)
    following = torch.zeros(n)
    for t in reversed(range(length)):
        here = mask[:, t].float()
        advantage = here * (pay[:, t] + following - values[:, t] + lam * advantage)
        following = here * values[:, t]
        result[:, t] = advantage
    targets = result + values
    m = mask.float()
    mean = (result * m).sum() / m.sum()
    deviation = ((((result - mean) ** 2) * m).sum() / m.sum() + 1e-8).sqrt()
    return (result - mean) / deviation * m, targets


class Trainer:
    def __init__(self, a):
        self.a = a
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(a.model)
        self.end = self.tokenizer.eos_token_id
        lm = transformers.AutoModelForCausalLM.from_pretrained(
            a.model, torch_dtype=torch.bfloat16 if a.precision == "bf16" else torch.float32)
        for name in ("attn_pdrop", "embd_pdrop", "resid_pdrop"):
            setattr(lm.config, name, 0.0)
        self.reference = None
        if a.lora_rank > 0:
            import peft
            lm = peft.get_peft_model(lm, peft.LoraConfig(r=a.lora_rank, lora_alpha=2 * a.lora_rank, fan_in_fan_out=True,
                                                         target_modules=["c_attn", "c_proj", "c_fc"]))
        elif a.kl > 0:
            self.reference = copy.deepcopy(lm).eval().requires_grad_(False)
        self.policy = Policy(lm).eval()  # no dropout
        self.trained = [p for p in self.policy.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=a.learning_rate, betas=(0.9, 0.95), weight_decay=0.1)
        self.prompts = [self.tokenizer(json.loads(line)["prompt"])["input_ids"] for line in open(a.prompts) if line.strip()]
        if a.prompt_tokens > 0:
            self.prompts = [p[-a.prompt_tokens:] for p in self.prompts]
        self.next = 0

    def autocast(self):
        return torch.autocast("cpu", torch.bfloat16, enabled=self.a.precision == "amp")

    def batches(self, rows, size):
        return [rows[i:i + size] for i in range(0, len(rows), size)]

    def sample(self):
        """tokens, mask (n,P+A), answer mask (n,A): prompts end at P."""
        a = self.a
        prompts = [self.prompts[(self.next + i) % len(self.prompts)] for i in range(a.rollouts)]
        self.next += a.rollouts
        P = max(map(len, prompts))
        tokens = torch.tensor([[self.end] * (P - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (P - len(p)) + [1] * len(p) for p in prompts])
        written = []
        with torch.inference_mode(), self.autocast():
            for rows in self.batches(torch.arange(a.rollouts), a.sample_batch or min(64, a.rollouts)):
                out = self.policy.lm.generate(
                    input_ids=tokens[rows], attention_mask=mask[rows], do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                    use_cache=True, max_new_tokens=a.max_tokens, min_new_tokens=a.max_tokens if a.ignore_end else None,
                    pad_token_id=self.end, eos_token_id=self.end)[:, P:]
                written.append(F.pad(out, (0, a.max_tokens - out.shape[1]), value=self.end))
        answers = torch.cat(written).clone()
        ended = (answers == self.end).cumsum(1)
        answer_mask = torch.where(ended - (answers == self.end).long() == 0, 1, 0)  # with the token that ends it
        return torch.cat([tokens, answers], 1), torch.cat([mask, answer_mask], 1), answer_mask, P

    def rewards(self, tokens, answer_mask, P):
        texts = self.tokenizer.batch_decode([row[P:][m.bool()] for row, m in zip(tokens, answer_mask)], skip_special_tokens=True)
        return torch.tensor([min(1.0, self.a.words / max(1, len(t.split()))) for t in texts])

    def look_back(self, tokens, mask, P):
        log_p, log_q, values = [], [], []
        with torch.inference_mode(), self.autocast():
            for rows in self.batches(torch.arange(len(tokens)), self.a.batch):
                p, hidden = look(self.policy.lm, tokens[rows], mask[rows], P)
                log_p.append(p), values.append(self.policy.value(hidden).squeeze(-1).float())
                if self.a.kl == 0:
                    log_q.append(p)
                elif self.reference is not None:
                    log_q.append(look(self.reference, tokens[rows], mask[rows], P)[0])
                else:
                    with self.policy.lm.disable_adapter():
                        log_q.append(look(self.policy.lm, tokens[rows], mask[rows], P)[0])
        return torch.cat(log_p).clone(), torch.cat(log_q).clone(), torch.cat(values).clone()

    def learn(self, tokens, mask, answer_mask, P, log_p_old, advantages, targets):
        a = self.a
        clipped = looked_at = 0.0
        for _ in range(a.epochs):
            for part in torch.randperm(a.rollouts).chunk(a.minibatches):
                count = answer_mask[part].sum()
                for rows in self.batches(part, a.batch):
                    m = answer_mask[rows].float()
                    with self.autocast():
                        log_p, hidden = look(self.policy.lm, tokens[rows], mask[rows], P)
                        values = self.policy.value(hidden).squeeze(-1).float()
                    ratio = (log_p - log_p_old[rows]).exp()
                    gain = ratio * advantages[rows]
                    bound = ratio.clamp(1 - a.clip, 1 + a.clip) * advantages[rows]
                    loss = -torch.minimum(gain, bound) + a.value_weight * (values - targets[rows]) ** 2
                    ((loss * m).sum() / count).backward()
                    clipped += ((bound < gain).float() * m).sum().item()
                    looked_at += m.sum().item()
                torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
        return clipped / looked_at

    def step(self):
        began = time.time()
        tokens, mask, answer_mask, P = self.sample()
        sampled = time.time()
        rewards = self.rewards(tokens, answer_mask, P)
        log_p, log_q, values = self.look_back(tokens, mask, P)
        advantages, targets = advantages_of(rewards, values, log_p, log_q, answer_mask, self.a.kl, self.a.gae_lambda)
        looked = time.time()
        clipped = self.learn(tokens, mask, answer_mask, P, log_p, advantages, targets)
        kl = ((log_p - log_q) * answer_mask).sum().item() / answer_mask.sum().item()
        return dict(reward=rewards.mean().item(), kl=kl, clipped=clipped, tokens=int(answer_mask.sum()), sampling=sampled - began,
                    looking_back=looked - sampled, learning=time.time() - looked, seconds=time.time() - began)


def main():
    a = parse()
    assert a.rollouts % a.minibatches == 0, "--rollouts must be a multiple of --minibatches"
    if a.threads > 0:
        torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    trainer = Trainer(a)
    steps = []
    for i in range(a.steps + 1):
        s = trainer.step()
        print(f"step {i}{' (warm-up)' if i == 0 else ''} | reward {s['reward']:.4f} | kl {s['kl']:.5f} | clipped {s['clipped']:.3f} | "
              f"{s['tokens']} tokens | sampling {s['sampling']:.2f} s, looking back {s['looking_back']:.2f} s, learning "
              f"{s['learning']:.2f} s | {a.rollouts / s['seconds']:.3f} samples/s", flush=True)
        steps.append(s)
    timed = steps[1:]
    result = {"samples_s": a.rollouts * len(timed) / sum(s["seconds"] for s in timed)}
    for what in ("sampling", "looking_back", "learning"):
        result[what + "_s"] = statistics.mean(s[what] for s in timed)
    result.update(rollouts=a.rollouts, max_tokens=a.max_tokens, epochs=a.epochs, minibatches=a.minibatches, batch=a.batch,
                  precision=a.precision, lora_rank=a.lora_rank, threads=torch.get_num_threads(), torch=torch.__version__,
                  transformers=transformers.__version__,
                  peak_memory_gb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9)
    print(json.dumps(result))
    if a.output:
        open(a.output, "w").write(json.dumps(result) + "\n")


main()
