"""Speed: bench_cuda's sections, PyTorch beside them, and the marks that both are held to."""
import json
import os
import re
import shutil
import sys

from common import FAILED, NOT_RUN, O, PASSED, WORK, read, report, run, there


def speed(part):
    paths = there(part, "bench_cuda", "bench")
    if not paths:
        return
    output = O.output + "/bench_cuda.json"
    if os.path.exists(output):
        os.remove(output)
    small = ["--model", "L2:H2:C64:T64:V500", "--large", "L3:H2:C64:T64:V500", "--seq-len", "64", "--batches", "1,2", "--tokens",
             "256", "--product", "128", "--copy-mb", "1"] if O.dry else []
    r = run([paths[0], "--json", output, "--limit", str(int(part.left() - 8)), *small], part.left())
    part.text.append(re.sub(r"^#", "###", r.text[r.text.find("# "):], flags=re.M) if "# Speed" in r.text else "")
    data = json.loads(read(output) or "{}")
    report["bench_cuda"] = data
    if os.path.exists(output):
        os.remove(output)  # it is in report.json
    for section in ("rates", "steps", "kernels", "products", "attention", "variants", "large"):
        if data.get(section):
            part.check(section, PASSED, f"{len(data[section])} rows")
        elif r.code != 0 and not r.timed_out and not any(c["status"] == FAILED for c in part.checks):
            part.check(section, FAILED, r.why())
        else:
            notes = [n["note"] for n in data.get("notes", []) if section in n["note"]]
            part.check(section, NOT_RUN, (notes or [r.why() if r.code else "out of time"])[-1])


def pytorch(part):
    with_torch = None
    for python in filter(None, [O.python, sys.executable, shutil.which("python3")]):
        r = run([python, "-c", "import torch; print(torch.__version__, torch.cuda.is_available())"], min(40, part.left()))
        if r.code == 0 and (O.dry or "True" in r.text):
            with_torch = python
            break
    if not with_torch:
        part.check("PyTorch", NOT_RUN, "no Python here has a PyTorch that finds the GPU: " + r.why() if r.code else "it finds no GPU")
        return
    output = WORK + "/torch.json"
    os.makedirs(WORK, exist_ok=True)
    if os.path.exists(output):
        os.remove(output)
    best = best_step()
    order = [best["B"]] if best else [32]
    order += [b for b in (32, 64, 16) if b not in order]
    small = ["--device", "cpu", "--model", "2,2,64", "--seq-len", "32", "--vocabulary", "500", "--steps", "3",
             "--no-compile"] if O.dry else []
    r = run([with_torch, "dev/bench/torch_gpt2.py", "--output", output, "--limit", str(int(part.left() - 6)), "--batches",
             ",".join(str(b) for b in order), *small], part.left())
    data = json.loads(read(output) or "{}")
    report["pytorch"] = data
    best = data.get("best")
    if not best:
        part.check("PyTorch", NOT_RUN if r.timed_out else FAILED, r.why())
        return
    part.check("PyTorch", PASSED, f"{best['tokens_per_second']:.0f} tokens/s, B={best['B']}, {best['precision']}, "
               + ("torch.compile" if best["compiled"] else "without torch.compile"))
    lines = ["", "| micro-batch | precision | torch.compile | ms | tokens/s | peak memory GB | warm-up s |", "|---|---|---|---|---|---|---|"]
    for t in data["runs"]:
        memory = f"{t['peak_memory_bytes'] * 1e-9:.1f}" if t["peak_memory_bytes"] else "-"
        lines.append(f"| {t['B']} | {t['precision']} | {'yes' if t['compiled'] else 'no'} | {t['ms']:.2f} | "
                     f"{t['tokens_per_second']:.0f} | {memory} | {t['warm_up_seconds']:.0f} |")
    if data.get("attention"):
        lines += ["", "| attention | B | heads | head size | forward TFLOP/s | backward | deterministic backward |",
                  "|---|---|---|---|---|---|---|"]
        for a in data["attention"]:
            lines.append(f"| {a['backend']} | {a['B']} | {a['NH']} | {a['HS']} | {a['forward_tflops']:.0f} | "
                         f"{a['backward_tflops']:.0f} | {a.get('backward_deterministic_tflops', float('nan')):.0f} |")
    part.text += lines + [f"- {n}" for n in data.get("notes", [])]
    part.text.append("\namp: fp32 weights and autocast to bf16, with the same fp32 optimizer as train_gpt2.cu; pure: everything in bf16.")


# ---- marks ----

def best_step():
    """The fastest whole step of one micro-batch of 124M."""
    steps = report.get("bench_cuda", {}).get("steps", [])
    single = [s for s in steps if s["tokens"] == s["B"] * s["T"]]
    return max(single, key=lambda s: s["tokens_per_second"], default=None)


def marks():
    found = []

    def mark(name, asked, measured, met, unit="", reason=""):
        found.append({"mark": name, "asked": asked, "measured": f"{measured}{unit}" if measured is not None else reason,
                      "status": "not run" if measured is None else "dry run" if O.dry else "met" if met else "missed"})
    bench, torch = report.get("bench_cuda", {}), report.get("pytorch", {})
    best, rival = best_step(), torch.get("best")
    ratio = best["tokens_per_second"] / rival["tokens_per_second"] if best and rival else None
    mark("124M bf16, T=1024: tokens/s over PyTorch's", "at least 1.15", ratio and f"{ratio:.2f}", ratio and ratio >= 1.15,
         f" ({best['tokens_per_second']:.0f} over {rival['tokens_per_second']:.0f})" if ratio else "",
         "no step was measured" if not best else "PyTorch was not measured")
    mark("124M bf16, T=1024: share of the floor by this card's own rates", "at least 65%", best and f"{100 * best['of_floor']:.1f}%",
         best and best["of_floor"] >= 0.65, f" of the strict floor, {100 * best['of_floor_separate']:.1f}% of the one with GELU and bias "
         f"gradients apart (B={best['B']})" if best else "", "no step was measured")
    memory = [k for k in bench.get("kernels", []) if k["limit"] == "memory"]
    slow = sorted((k for k in memory if k["of_floor"] < 0.85), key=lambda k: k["floor_ms"] - k["ms"])
    mark("memory-bound kernels: share of copy bandwidth", "each at least 85%", memory and f"{len(memory) - len(slow)} of {len(memory)} do"
         or None, not slow, ("; below: " + ", ".join(f"{k['kernel']} {100 * k['of_floor']:.0f}%" for k in slow)) if slow else "",
         "no kernel was measured")
    capability = float(report["environment"].get("capability") or 0)
    own_attention, own_product = (0.6, 0.6) if capability >= 9 else (0.8, 0.7)
    for what in ("forward", "backward"):
        rows = bench.get("attention", [])
        own = next((a for a in rows if a["by"] == "own"), None)
        cudnn = next((a[what + "_tflops"] for a in rows if a["by"] == "cudnn" and own and a["HS"] == own["HS"]), None)
        source = "built in"
        if cudnn is None:
            other = next((a for a in torch.get("attention", []) if a["backend"] == "cudnn" and own and a["HS"] == own["HS"]), {})
            cudnn, source = other.get(what + "_tflops"), "as PyTorch calls it"
            if what == "backward":
                fixed = other.get("backward_deterministic_tflops")
                cudnn, source = fixed or cudnn, source + ("" if fixed else ", not deterministic, which is faster than what the mark "
                                                          "asks for")
        ratio = own[what + "_tflops"] / cudnn if own and cudnn else None
        mark(f"own attention {what} over cuDNN's, deterministic", f"at least {own_attention}", ratio and f"{ratio:.2f}",
             ratio and ratio >= own_attention, f" ({own[what + '_tflops']:.0f} over {cudnn:.0f} TFLOP/s, cuDNN {source})" if ratio else "",
             "own attention was not measured" if not own else "cuDNN is neither built in nor in PyTorch here")
    products = bench.get("products", [])
    library, own = (sum(p["calls"] * p[by + "_ms"] for p in products) for by in ("cublaslt", "own"))
    ratio = library / own if products else None
    worst = min(products, key=lambda p: p["own_over_cublaslt"], default=None)
    mark("own matmul over cuBLASLt, all of the model's shapes", f"at least {own_product}", ratio and f"{ratio:.2f}",
         ratio and ratio >= own_product, f" by the times of a step's products; worst {worst['product']} {worst['kind']} {worst['own_over_cublaslt']:.2f}"
         if worst else "", "no product was measured")
    report["marks"] = found
    missed = [m for m in found if m["status"] == "missed"]
    kernels = sorted(bench.get("kernels", []), key=lambda k: k["floor_ms"] - k["ms"])[:5]
    report["where_the_time_is"] = [f"{k['kernel']}: {k['ms'] - k['floor_ms']:.2f} ms above its floor" for k in kernels] if missed else []
