"""What the checks in this directory share: a shard's ids, our program's loss and text."""
import re
import subprocess

import numpy as np

PROMPT = "The "


def windows_of(shard, T, count=16):
    """inputs, targets (count, T): the windows that `eval --limit 1` takes."""
    header = np.fromfile(shard, dtype=np.int32, count=256)
    assert header[0] == 20240520 and header[1] == 1, "not a token shard of 16-bit ids"
    ids = np.fromfile(shard, dtype=np.uint16, offset=1024).astype(np.int64)
    count = min(count, (len(ids) - 1) // T)
    return ids[:count * T].reshape(count, T), ids[1:count * T + 1].reshape(count, T)


def mean_loss(logits, targets):
    """Of one window: logits (T, V), targets (T)."""
    logits = logits.astype(np.float64)
    top = logits.max(axis=1)
    return float(np.mean(top + np.log(np.exp(logits - top[:, None]).sum(axis=1)) - logits[np.arange(len(targets)), targets]))


def program(*arguments):
    return subprocess.run(["./train_gpt2", *map(str, arguments)], capture_output=True, text=True, check=True).stdout


def our_loss(model, shard):
    out = program("eval", "--model", model, "--val-data", shard, "--limit", "1", "--precision", "fp32")
    return float(re.search(r"loss ([0-9.]+)", out).group(1))


def our_text(model, tokens):
    return program("sample", "--model", model, "--prompt", PROMPT, "--max-tokens", tokens, "--temperature", "0",
                   "--precision", "fp32").rstrip("\n")
