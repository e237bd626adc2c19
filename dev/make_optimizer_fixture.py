"""Writes test/fixtures/optimizers.json: what PyTorch's optimizers make of a few numbers and of matrices (test/test_optimizer.cpp).

    python3 dev/make_optimizer_fixture.py > test/fixtures/optimizers.json        (PyTorch 2.9 or newer, for Muon)

Weight decay is taken off before each step, as AdamW does; the proximal step of L1 (Duchi & Singer 2009, section 2) follows it. All in
double. Muon's Newton-Schulz iteration is in bf16 in PyTorch and once more here in double, from Jordan's formula.
"""
import json

import torch

torch.manual_seed(5)
LR, DECAY, L1, STEPS = 0.05, 0.1, 2, 4


def steps(start, gradients, make, decay=DECAY, l1=0.0):
    p = torch.nn.Parameter(start.clone())
    optimizer = make([p])
    for g in gradients:
        with torch.no_grad():
            p.mul_(1 - LR * decay)
        p.grad = g.clone()
        optimizer.step()
        with torch.no_grad():
            p.copy_(torch.sign(p) * torch.clamp(p.abs() - LR * l1, min=0))
    return p.detach().flatten().tolist()


def orthogonalised(u):
    x = u / (u.norm() + 1e-7)
    if u.size(0) > u.size(1):
        x = x.T
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if u.size(0) > u.size(1) else x


def muon(start, gradients, momentum=0.95):
    p, m = start.clone(), torch.zeros_like(start)
    for g in gradients:
        p *= 1 - LR * DECAY
        m = momentum * m + g
        p -= LR * 0.2 * max(p.shape) ** 0.5 * orthogonalised(g + momentum * m)
    return p.flatten().tolist()


def main():
    n = 70
    start, gradients = torch.randn(n, dtype=torch.double), [torch.randn(n, dtype=torch.double) for _ in range(STEPS)]
    o = torch.optim
    out = {"torch": torch.__version__, "lr": LR, "weight_decay": DECAY, "l1": L1, "start": start.tolist(),
           "gradients": [g.tolist() for g in gradients]}
    out["adamw"] = steps(start, gradients, lambda p: o.AdamW(p, lr=LR, betas=(0.9, 0.95), eps=1e-8, weight_decay=0))
    out["sgd"] = steps(start, gradients, lambda p: o.SGD(p, lr=LR, momentum=0.9))
    out["adagrad"] = steps(start, gradients, lambda p: o.Adagrad(p, lr=LR, eps=1e-10))
    out["adadelta"] = steps(start, gradients, lambda p: o.Adadelta(p, lr=LR, rho=0.95, eps=1e-6))
    out["sgd_l1"] = steps(start, gradients, lambda p: o.SGD(p, lr=LR, momentum=0.9), l1=L1)
    out["muon"] = []
    for rows, cols in ((6, 4), (5, 9), (8, 8)):
        start = 0.1 * torch.randn(rows, cols, dtype=torch.double)
        gradients = [torch.randn(rows, cols, dtype=torch.double) for _ in range(STEPS)]
        torchs = steps(start, gradients, lambda p: o.Muon(p, lr=LR, weight_decay=0, momentum=0.95, nesterov=True, adjust_lr_fn="match_rms_adamw"))
        out["muon"].append({"rows": rows, "cols": cols, "start": start.flatten().tolist(),
                            "gradients": [g.flatten().tolist() for g in gradients], "by_formula": muon(start, gradients), "by_torch": torchs})
    print(json.dumps(out))


main()
