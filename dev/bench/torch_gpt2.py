#!/usr/bin/env python3
"""GPT-2's training step in PyTorch, to compare train_gpt2.cu with: the same model, the same step, the same bytes.

Embedding tied to the LM head and padded to 50,304 rows, learned positions, pre-LN blocks, biases, GELU (tanh form),
causal scaled_dot_product_attention, cross entropy, clipping of the gradient's norm to 1, AdamW (fused) with weight
decay on matrices only. torch.compile, or without it where it does not work, which the result says.

Precision, `--precision`:
  amp    fp32 weights under autocast to bf16: like train_gpt2.cu the optimizer has fp32 weights, so this is the one to
         compare with
  pure   bf16 weights, gradients and moments, no fp32 copy: less work than train_gpt2.cu does; for information
  fp32

Prints one JSON object: tokens/s and ms of each run (median of steps, CUDA events), peak memory, versions, the time of
bare attention (SDPA, each backend that runs). Everything is random data. Ends by itself within --limit seconds.
"""
import argparse
import json
import math
import statistics
import sys
import time

BEGIN = time.time()


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", default="cuda", help="cuda, or cpu to see that the script works [cuda]")
    p.add_argument("--model", default="12,12,768", help="L,NH,C [12,12,768]")
    p.add_argument("--seq-len", type=int, default=1024)
    p.add_argument("--vocabulary", type=int, default=50257, help="padded to a multiple of 128")
    p.add_argument("--batches", default="32,64,16", help="micro-batches, in the order in which they are tried")
    p.add_argument("--precision", default="amp,pure", help="amp, pure, fp32: the first for every micro-batch, the others "
                   "for the best one, as time allows")
    p.add_argument("--steps", type=int, default=20, help="timed steps of each run")
    p.add_argument("--limit", type=float, default=115, help="seconds, warm-up included")
    p.add_argument("--no-compile", action="store_true")
    p.add_argument("--output", help="also write the JSON here, after each run")
    return p.parse_args()


O = parse()
result = {"best": None, "runs": [], "attention": [], "notes": []}
try:
    import torch
    import torch.nn as nn
    import torch.nn.functional as F
except ImportError as e:
    sys.exit(f"torch_gpt2.py: PyTorch is missing: {e}")

L, NH, C = (int(x) for x in O.model.split(","))
T, VP = O.seq_len, (O.vocabulary + 127) // 128 * 128
CUDA = O.device.startswith("cuda")


def left():
    return O.limit - (time.time() - BEGIN)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.qkv, self.attproj = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.fc, self.fcproj = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

    def forward(self, x):
        B = x.shape[0]
        q, k, v = (y.view(B, T, NH, C // NH).transpose(1, 2) for y in self.qkv(self.ln1(x)).split(C, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attproj(y.transpose(1, 2).reshape(B, T, C))
        return x + self.fcproj(F.gelu(self.fc(self.ln2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VP, C), nn.Embedding(T, C)
        self.blocks, self.lnf = nn.ModuleList([Block() for _ in range(L)]), nn.LayerNorm(C)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * L) if "proj" in name else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, tokens, targets):
        x = self.wte(tokens) + self.wpe(torch.arange(T, device=tokens.device))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.lnf(x), self.wte.weight)
        return F.cross_entropy(logits.view(-1, VP).float(), targets.view(-1))


def synchronize():
    if CUDA:
        torch.cuda.synchronize()


def median_ms(work, times, seconds):
    """Median of `times` runs back to back, each between two CUDA events; fewer, at least 3, if they outlast `seconds`."""
    begin, marks = time.time(), []
    if CUDA:  # the host runs ahead of the GPU; every third run it waits, so that `seconds` can end the loop
        for i in range(times):
            marks.append((torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)))
            marks[-1][0].record(), work(), marks[-1][1].record()
            if i % 3 == 2:
                marks[-2][1].synchronize()
                if time.time() - begin > seconds:
                    break
        torch.cuda.synchronize()
        samples = [a.elapsed_time(b) for a, b in marks]
    else:
        samples = []
        while len(samples) < times and (len(samples) < 3 or time.time() - begin < seconds):
            t = time.perf_counter()
            work()
            samples.append(1e3 * (time.perf_counter() - t))
    return statistics.median(samples), len(samples)


def train(B, precision, compiled):
    torch.manual_seed(1)
    with torch.device(O.device):
        model = GPT()
    if precision == "pure":
        model = model.to(torch.bfloat16)
    parameters = list(model.parameters())
    groups = [{"params": [p for p in parameters if p.dim() >= 2], "weight_decay": 0.1},
              {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95), eps=1e-8, fused=CUDA)
    forward = torch.compile(model) if compiled else model
    tokens = torch.randint(O.vocabulary, (B, T + 1), device=O.device)
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def step():
        with torch.autocast(O.device.split(":")[0], dtype=torch.bfloat16, enabled=precision == "amp"):
            loss = forward(inputs, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    begin = time.time()
    first = step().item()
    step()
    synchronize()
    warm = time.time() - begin
    for _ in range(3):
        step()
    synchronize()
    ms, n = median_ms(step, O.steps, max(2.0, min(10.0, left() / 4)))
    last = step().item()
    if not math.isfinite(last):
        raise RuntimeError(f"loss {last} after training")
    return {"B": B, "T": T, "precision": precision, "compiled": compiled, "ms": ms, "steps": n,
            "tokens_per_second": B * T / ms * 1e3, "first_loss": first, "last_loss": last, "warm_up_seconds": warm,
            "peak_memory_bytes": torch.cuda.max_memory_allocated() if CUDA else None}


def try_train(B, precision):
    """The run's result, or None with a note; without torch.compile where that fails."""
    for compiled in [False] if O.no_compile else [True, False]:
        try:
            run = train(B, precision, compiled)
            result["runs"].append(run)
            same = [r for r in result["runs"] if r["precision"] == O.precision.split(",")[0]]
            result["best"] = max(same, key=lambda r: r["tokens_per_second"], default=None)
            write()
            return run
        except torch.cuda.OutOfMemoryError:
            result["notes"].append(f"B={B} {precision}: out of memory")
            return None
        except Exception as e:  # torch.compile fails in many ways: no C compiler, no Python headers, an old Triton, ...
            what = (str(e).strip() or type(e).__name__).splitlines()[0][:200]
            result["notes"].append(f"B={B} {precision}{', torch.compile' if compiled else ''}: {what}")
        finally:
            if CUDA:
                torch.cuda.empty_cache()
            torch.compiler.reset()
    return None


def attention(B):
    """Bare attention, forward and backward, by each backend of SDPA that takes it."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    HS = C // NH
    flops = 2.0 * B * NH * T * T * HS  # two products of T*T*HS, half of each masked
    for name in ("CUDNN_ATTENTION", "FLASH_ATTENTION"):
        if not hasattr(SDPBackend, name) or left() < 5:
            continue
        try:
            q, k, v, dy = (torch.randn(B, NH, T, HS, device=O.device, dtype=torch.bfloat16) for _ in range(4))
            for x in (q, k, v):
                x.requires_grad_()
            with sdpa_kernel(getattr(SDPBackend, name)):
                def forward():
                    return F.scaled_dot_product_attention(q, k, v, is_causal=True)

                def backward():
                    torch.autograd.grad(y, (q, k, v), dy, retain_graph=True)

                y = forward()
                row = {"backend": name.split("_")[0].lower(), "B": B, "T": T, "NH": NH, "HS": HS}

                def measure(key, work, factor):
                    for _ in range(3):
                        work()
                    ms, _ = median_ms(work, 30, 1.0)
                    row[key + "_ms"], row[key + "_tflops"] = ms, factor * flops / ms * 1e-9

                measure("forward", forward, 1)
                measure("backward", backward, 2.5)
                result["attention"].append(row)
                # PyTorch may refuse: not every version has a deterministic backward pass for every backend
                torch.use_deterministic_algorithms(True)
                y = forward()
                measure("backward_deterministic", backward, 2.5)
        except Exception as e:
            result["notes"].append(f"attention by {name}: {(str(e).strip() or type(e).__name__).splitlines()[0][:200]}")
        finally:
            torch.use_deterministic_algorithms(False)
    write()


def write():
    if O.output:
        with open(O.output, "w") as f:
            json.dump(result, f, indent=1)


def main():
    result["versions"] = {"torch": torch.__version__, "cuda": torch.version.cuda, "python": sys.version.split()[0]}
    if CUDA:
        if not torch.cuda.is_available():
            sys.exit("torch_gpt2.py: this PyTorch finds no GPU")
        result["device"] = torch.cuda.get_device_name()
        result["versions"]["cudnn"] = torch.backends.cudnn.version()
    torch.set_float32_matmul_precision("high")
    first, *others = O.precision.split(",")
    slowest = 0.0
    for B in (int(b) for b in O.batches.split(",")):
        if result["best"] and left() < 1.3 * slowest + 8:
            result["notes"].append(f"B={B}: no time left")
            continue
        begin = time.time()
        try_train(B, first)
        slowest = max(slowest, time.time() - begin)
    best = result["best"]
    if CUDA and best:
        attention(best["B"])
    for precision in others if best else []:
        if left() > 1.3 * slowest:
            try_train(best["B"], precision)
        else:
            result["notes"].append(f"{precision}: no time left")
    result["seconds"] = time.time() - BEGIN
    write()
    print(json.dumps(result, indent=1))
    sys.exit(0 if best else 1)


if __name__ == "__main__":
    main()
