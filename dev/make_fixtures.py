#!/usr/bin/env python3
"""Writes test/fixtures/gpt2_*: small models and what PyTorch computes with them, the oracle of test/test_model.cpp.

    python dev/make_fixtures.py [OUTPUT_DIRECTORY]          needs torch, transformers, safetensors; the tests need none of them

For each size: NAME/config.json and NAME/model.safetensors, as transformers' GPT2LMHeadModel.save_pretrained writes them, and
NAME_reference.safetensors with, computed in float64 from the float32 weights and stored as F32:

    inputs, targets (2,B,T) I32         two batches; the loss is the mean cross entropy of these targets (nothing is shifted)
    logits (B,T,V), loss (1)            of batch 0
    grad.PARAMETER                      gradient of that loss, names and orientation as in model.safetensors
    adamw_losses, adamw_norms (10)      loss and gradient norm (before clipping) of ten steps; step s (from 0) uses batch s % 2
    adamw.PARAMETER                     weights after the ten steps

AdamW: lr 1e-3, betas 0.9 and 0.95, eps 1e-8, weight decay 0.1 on matrices (embeddings too) and on nothing else, gradients
clipped to global norm 1.0. Weights are random and large: with GPT-2's own initialisation most of the network is close to
linear and biases and norms are trivial, so that errors would hide.
"""
import os
import sys

import safetensors.torch
import torch
import transformers

SIZES = {  # odd on purpose: no C, HS, T or V is a multiple of a vector or a tile, except one HS
    "gpt2_l3h2c28": dict(L=3, NH=2, C=28, V=131, T=17, B=3, seed=1),
    "gpt2_l1h3c48": dict(L=1, NH=3, C=48, V=193, T=33, B=2, seed=2),
}


def make(directory, name, L, NH, C, V, T, B, seed):
    generator = torch.Generator().manual_seed(seed)
    config = transformers.GPT2Config(n_layer=L, n_head=NH, n_embd=C, vocab_size=V, n_positions=T, resid_pdrop=0.0, embd_pdrop=0.0,
                                     attn_pdrop=0.0, bos_token_id=V - 1, eos_token_id=V - 1, attn_implementation="eager")
    model = transformers.GPT2LMHeadModel(config).train()
    with torch.no_grad():
        for parameter_name, p in model.named_parameters():
            x = torch.randn(p.shape, generator=generator)
            is_norm_weight = p.dim() == 1 and ".ln_" in parameter_name and parameter_name.endswith("weight")
            p.copy_(1 + 0.3 * x if is_norm_weight else 0.3 * x if p.dim() == 1 else 0.2 * x)
    model.save_pretrained(os.path.join(directory, name))
    extra = os.path.join(directory, name, "generation_config.json")
    if os.path.exists(extra):
        os.remove(extra)

    inputs = torch.randint(0, V, (2, B, T), generator=generator)
    targets = torch.randint(0, V, (2, B, T), generator=generator)
    model.double()

    def loss_of(batch):
        logits = model(inputs[batch]).logits
        return logits, torch.nn.functional.cross_entropy(logits.reshape(-1, V), targets[batch].reshape(-1))

    out = {"inputs": inputs.int(), "targets": targets.int()}
    logits, loss = loss_of(0)
    loss.backward()
    out["logits"], out["loss"] = logits.detach(), loss.detach().reshape(1)
    parameters = dict(model.named_parameters())  # tied: the LM head is wte and appears once
    out.update({"grad." + n: p.grad.clone() for n, p in parameters.items()})

    groups = [dict(params=[p for p in parameters.values() if p.dim() == d], weight_decay=w) for d, w in ((2, 0.1), (1, 0.0))]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, foreach=False)
    losses, norms = [], []
    for step in range(10):
        optimizer.zero_grad()
        _, loss = loss_of(step % 2)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0).double())
        losses.append(loss.detach())
        optimizer.step()
    out["adamw_losses"], out["adamw_norms"] = torch.stack(losses), torch.stack(norms)
    out.update({"adamw." + n: p.detach() for n, p in parameters.items()})

    out = {n: (t if t.dtype == torch.int32 else t.float()).contiguous() for n, t in out.items()}
    safetensors.torch.save_file(out, os.path.join(directory, name + "_reference.safetensors"),
                                metadata={"written_by": "dev/make_fixtures.py, torch " + torch.__version__.split("+")[0] +
                                          ", transformers " + transformers.__version__})  # one key: their order is random
    print(f"{name}: loss {out['loss'].item():.6f}, AdamW losses {losses[0]:.6f} ... {losses[-1]:.6f}, norm {norms[0]:.4f}")


def main():
    directory = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "../test/fixtures")
    torch.set_num_threads(1)  # the order of sums, and so the last bits, should not depend on the machine's cores
    for name, size in SIZES.items():
        make(directory, name, **size)


if __name__ == "__main__":
    main()
