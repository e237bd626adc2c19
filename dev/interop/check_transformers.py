"""A model of ours in Hugging Face transformers: its mean loss over a validation shard, and greedy text.

  python dev/interop/check_transformers.py MODEL data/NAME/val_000000.bin     (needs torch, transformers, numpy)

MODEL: a checkpoint, or a directory that `export` has written.
"""
import sys

import numpy as np
import torch
import transformers

from common import PROMPT, mean_loss, our_loss, our_text, windows_of


def main():
    directory, shard = sys.argv[1:3]
    model, report = transformers.GPT2LMHeadModel.from_pretrained(directory, torch_dtype=torch.float32,
                                                                 output_loading_info=True)
    unexpected = [k for key in ("missing_keys", "unexpected_keys", "mismatched_keys") for k in report.get(key, [])]
    assert not unexpected, unexpected
    model.eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    inputs, targets = windows_of(shard, model.config.n_positions)
    with torch.no_grad():
        # by way of lists: PyTorch 1.13 knows no numpy of version 2
        logits = [np.array(model(torch.tensor([x.tolist()])).logits[0].tolist()) for x in inputs]
        ids = tokenizer(PROMPT).input_ids
        for _ in range(48):
            ids.append(model(torch.tensor([ids])).logits[0, -1].argmax().item())
        text = tokenizer.decode(ids)
    theirs = float(np.mean([mean_loss(l, t) for l, t in zip(logits, targets)]))
    ours, sample = our_loss(directory, shard), our_text(directory, 48)
    print(f"transformers {transformers.__version__}, torch {torch.__version__}: loss {theirs:.6f}; ./train_gpt2: {ours:.6f}; "
          f"difference {abs(ours - theirs):.1e}")
    print(f"greedy text equal: {text.rstrip() == sample.rstrip()}")
    if abs(ours - theirs) > 1e-4 or text.rstrip() != sample.rstrip():
        print(f"theirs: {text!r}\nours:   {sample!r}")
        sys.exit(1)


main()
