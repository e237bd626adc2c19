#!/usr/bin/env python3
"""Writes test/fixtures/rewards.json: the losses and gradients of PPO, GRPO, DPO and a value head by PyTorch's autograd of
their papers' formulas, in double, and generalised advantages by their definition (Schulman et al. 2016, equation 11: a sum
over all later steps, not the recursion). test/test_rewards.cpp compares llmc/plain/objectives.h and
llmc/objectives/advantages.h with it.

    python3 dev/make_rewards_fixture.py        (PyTorch)
"""
import json
import os
import torch

torch.manual_seed(7)
torch.set_default_dtype(torch.float64)
N, CLIP, KL, VALUE_CLIP, VALUE_WEIGHT, LAMBDA = 40, 0.2, 0.3, 0.25, 0.7, 0.9


def floats(x):  # signals are floats in the program
    return x.float().double()


log_p = (-2.5 * torch.rand(N) - 0.05).requires_grad_()
old = floats(log_p.detach() + 0.3 * torch.randn(N))
reference = floats(log_p.detach() + 0.5 * torch.randn(N))
advantage, value, target = floats(torch.randn(N)), floats(torch.randn(N)), floats(torch.randn(N))
v = (value + 0.4 * torch.randn(N)).requires_grad_()

ratio = torch.exp(log_p - old)
surrogate = -torch.minimum(ratio * advantage, torch.clamp(ratio, 1 - CLIP, 1 + CLIP) * advantage)
penalty = torch.exp(reference - log_p) - (reference - log_p) - 1
ppo, grpo = surrogate, surrogate + KL * penalty
moved = value + torch.clamp(v - value, -VALUE_CLIP, VALUE_CLIP)
value_loss = VALUE_WEIGHT / 2 * torch.maximum((v - target) ** 2, (moved - target) ** 2)


def gradient(loss, x):
    return torch.autograd.grad(loss.sum(), x, retain_graph=True)[0].tolist()


# DPO of a pair of texts of three and four tokens.
chosen = (-torch.rand(3)).requires_grad_()
rejected = (-torch.rand(4)).requires_grad_()
q_chosen, q_rejected, BETA = -1.25, -2.5, 0.4
dpo = -torch.nn.functional.logsigmoid(BETA * ((chosen.sum() - q_chosen) - (rejected.sum() - q_rejected)))

# Advantages of an answer of five tokens whose reward is 1.5: A_t = sum over l of lambda^l delta_{t+l}.
reward, answer_kl = 1.5, 0.2
a_log_p, a_log_q, a_value = floats(-torch.rand(5)), floats(-torch.rand(5)), floats(torch.randn(5))
rewards = -answer_kl * (a_log_p - a_log_q)
rewards[-1] += reward
following = torch.cat([a_value[1:], torch.zeros(1)])
delta = rewards + following - a_value
gae = [sum(LAMBDA ** (i - t) * delta[i] for i in range(t, 5)).item() for t in range(5)]

out = {
    "clip": CLIP, "kl": KL, "value_clip": VALUE_CLIP, "value_weight": VALUE_WEIGHT,
    "log_p": log_p.tolist(), "old": old.tolist(), "reference": reference.tolist(), "advantage": advantage.tolist(),
    "ppo": ppo.tolist(), "dppo": gradient(ppo, log_p), "grpo": grpo.tolist(), "dgrpo": gradient(grpo, log_p),
    "v": v.tolist(), "value": value.tolist(), "target": target.tolist(),
    "value_loss": value_loss.tolist(), "dv": gradient(value_loss, v),
    "dpo": {"beta": BETA, "q_chosen": q_chosen, "q_rejected": q_rejected, "chosen": chosen.tolist(),
            "rejected": rejected.tolist(), "loss": dpo.item(), "dchosen": gradient(dpo, chosen),
            "drejected": gradient(dpo, rejected)},
    "gae": {"lambda": LAMBDA, "kl": answer_kl, "reward": reward, "log_p": a_log_p.tolist(), "log_q": a_log_q.tolist(),
            "value": a_value.tolist(), "advantage": gae},
}
path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../test/fixtures/rewards.json")
with open(path, "w") as f:
    json.dump(out, f)
    f.write("\n")
