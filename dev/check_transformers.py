"""Loads a checkpoint of ours with Hugging Face transformers and compares: mean loss over a validation shard, and greedy text.

  python dev/check_transformers.py runs/NAME/step_00001000 data/NAME/val_000000.bin     (needs torch, transformers, numpy)
"""
import re
import subprocess
import sys

import numpy as np
import torch
import transformers


def main():
    model_dir, shard = sys.argv[1:3]
    windows, prompt = 8, "The "
    model, report = transformers.GPT2LMHeadModel.from_pretrained(model_dir, torch_dtype=torch.float32,
                                                                 output_loading_info=True)
    unexpected = [k for key in ("missing_keys", "unexpected_keys", "mismatched_keys") for k in report.get(key, [])]
    assert not unexpected, unexpected
    model.eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_dir)
    T = model.config.n_positions
    header = np.fromfile(shard, dtype=np.int32, count=256)
    assert header[0] == 20240520 and header[1] == 1, "not a token shard of 16-bit ids"
    ids = torch.from_numpy(np.fromfile(shard, dtype=np.uint16, offset=1024).astype(np.int64))
    windows = min(windows, (len(ids) - 1) // T)
    inputs = ids[:windows * T].view(windows, T)
    targets = ids[1:windows * T + 1].view(windows, T)
    with torch.no_grad():
        logits = model(inputs).logits
        theirs = torch.nn.functional.cross_entropy(logits.flatten(0, 1).double(), targets.flatten()).item()
        start = tokenizer(prompt, return_tensors="pt").input_ids
        text = tokenizer.decode(model.generate(start, max_new_tokens=48, do_sample=False, eos_token_id=None)[0])

    def run(*arguments):
        return subprocess.run(["./train_gpt2", *arguments], capture_output=True, text=True, check=True).stdout

    out = run("eval", "--model", model_dir, "--val-data", shard, "-b", str(windows), "--limit", "1", "--precision", "fp32")
    ours = float(re.search(r"loss ([0-9.]+)", out).group(1))
    sample = run("sample", "--model", model_dir, "--prompt", prompt, "--max-tokens", "48", "--temperature", "0",
                 "--precision", "fp32").rstrip("\n")
    print(f"transformers {transformers.__version__}: loss {theirs:.6f}; ./train_gpt2: {ours:.6f}; difference {abs(ours - theirs):.1e}")
    print(f"greedy text equal: {text.rstrip() == sample.rstrip()}")
    if abs(ours - theirs) > 1e-4 or text.rstrip() != sample.rstrip():
        print(f"theirs: {text!r}\nours:   {sample!r}")
        sys.exit(1)


main()
