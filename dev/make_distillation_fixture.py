#!/usr/bin/env python3
"""Writes test/fixtures/distillation.json: distillation's loss and gradient by PyTorch, the oracle of test/test_distillation.cpp.

    python dev/make_distillation_fixture.py            needs torch; the tests need none

The loss of a row is (1 - mix) t^2 KL(softmax(teacher / t) || softmax(logits / t)) + mix cross entropy(logits, target), by
torch.nn.functional's kl_div and cross_entropy; the gradient that of the rows' sum, each times its weight and the normaliser,
by autograd. In float64, from logits that float32 holds. A target of -1 is not counted.
"""
import json
import pathlib

import torch
import torch.nn.functional as F

CASES = [dict(N=5, V=37, t=2.0, mix=0.25), dict(N=4, V=130, t=1.0, mix=0.5), dict(N=3, V=9, t=5.0, mix=0.0),
         dict(N=3, V=9, t=0.5, mix=1.0)]
NORMALISER = 0.375


def case(N, V, t, mix, generator):
    logits = (3 * torch.randn(N, V, generator=generator)).double().requires_grad_()
    teacher = (3 * torch.randn(N, V, generator=generator)).double()
    targets = torch.randint(0, V, (N,), generator=generator)
    targets[1] = -1
    weights = torch.tensor([0.5 + 0.25 * n for n in range(N)]).double()
    soft = F.kl_div(F.log_softmax(logits / t, -1), F.log_softmax(teacher / t, -1), reduction="none", log_target=True).sum(-1)
    hard = F.cross_entropy(logits, targets, ignore_index=-1, reduction="none")
    losses = torch.where(targets < 0, 0.0, (1 - mix) * t * t * soft + mix * hard)
    (losses * weights * NORMALISER).sum().backward()
    return dict(V=V, temperature=t, mix=mix, normaliser=NORMALISER, logits=logits.detach().flatten().tolist(),
                teacher=teacher.flatten().tolist(), targets=targets.tolist(), weights=weights.tolist(), losses=losses.detach().tolist(),
                gradient=logits.grad.flatten().tolist())


def main():
    generator = torch.Generator().manual_seed(1)
    out = dict(written_by="dev/make_distillation_fixture.py, torch " + torch.__version__.split("+")[0],
               cases=[case(generator=generator, **c) for c in CASES])
    path = pathlib.Path(__file__).resolve().parents[1] / "test/fixtures/distillation.json"
    path.write_text(json.dumps(out) + "\n")
    print(path, [sum(c["losses"]) for c in out["cases"]])


main()
