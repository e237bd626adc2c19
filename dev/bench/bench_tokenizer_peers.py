#!/usr/bin/env python3
"""./tokenize, gigatoken and tiktoken encode the same texts with GPT-2's vocabulary, in turn; the ids must be the same.

    bench_tokenizer_peers.py VOCAB_DIR REPEATS TEXT...

One thread: seconds of CPU time (other programs on the machine then count little), the fastest of REPEATS. Of ./tokenize that is
the whole program, from its start to shards on disk; of the others encoding alone, from a file (gigatoken) or from memory.
Two threads: seconds by the clock.
"""
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from check_tokenizer import tiktoken_gpt2  # noqa: E402

TOKENIZE = os.environ.get("TOKENIZE", "./tokenize")


def gigatoken_gpt2(directory):
    import gigatoken
    vocab = json.load(open(directory + "/vocab.json", encoding="utf-8"))
    merges = open(directory + "/merges.txt", encoding="utf-8").read().split("\n")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = gigatoken.Tokenizer.from_json(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocab, "merges": [line for line in merges if line and not line.startswith("#version")]}}))
    return lambda path: np.asarray(tokenizer.encode_files(gigatoken.TextFileSource([path]), parallel=False)[0])


def gigatoken_alone(vocab, path, folder):
    """CPU seconds, seconds, ids; in a process of its own, as what it has encoded it knows by heart afterwards."""
    code = ("import sys, time; sys.path.insert(0, sys.argv[4]); import bench_tokenizer_peers as b; g = b.gigatoken_gpt2(sys.argv[1]); "
            "c, w = time.process_time(), time.time(); ids = g(sys.argv[2]); print(time.process_time() - c, time.time() - w); "
            "ids.astype('uint16').tofile(sys.argv[3])")
    out = subprocess.run([sys.executable, "-c", code, vocab, path, folder + "/ids", str(Path(__file__).resolve().parent)],
                         check=True, capture_output=True, text=True).stdout.split()
    return float(out[-2]), float(out[-1]), np.fromfile(folder + "/ids", dtype=np.uint16)


def ours(vocab, path, threads, folder):
    """CPU seconds, seconds, ids."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    subprocess.run([TOKENIZE, "encode", "--plain", "--no-special", "--force", "--val-fraction", "0", "--threads",
                    str(threads), "--vocab", vocab, "-o", folder + "/out", path], check=True, stdout=subprocess.DEVNULL)
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.time() - begin
    ids = np.fromfile(folder + "/out/train_000000.bin", dtype=np.uint16, offset=1024)[1:]  # without <|endoftext|>
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, seconds, ids


def main():
    vocab, repeats, texts = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    tiktoken = tiktoken_gpt2(vocab)
    print(f"{'text':14} {'MB':>6} {'./tokenize':>11} {'gigatoken':>10} {'tiktoken':>9}   over gigatoken  over tiktoken  "
          "2 threads over gigatoken's one")
    with tempfile.TemporaryDirectory() as folder:
        for path in texts:
            best = {"ours": 1e9, "giga": 1e9, "tik": 1e9, "two": 1e9, "giga_wall": 1e9}
            text = open(path, encoding="utf-8", newline="").read()
            for repeat in range(repeats):
                cpu, _, ids = ours(vocab, path, 1, folder)
                cpu_giga, wall_giga, theirs = gigatoken_alone(vocab, path, folder)
                best["giga"] = min(best["giga"], cpu_giga)
                best["giga_wall"] = min(best["giga_wall"], wall_giga)
                best["ours"] = min(best["ours"], cpu)
                best["two"] = min(best["two"], ours(vocab, path, 2, folder)[1])
                if repeat == 0:
                    begin = time.process_time()
                    third = tiktoken.encode_ordinary(text)
                    best["tik"] = time.process_time() - begin
                    assert np.array_equal(ids, theirs) and np.array_equal(ids, third), f"{path}: other ids"
            size = os.path.getsize(path) / 1e6
            name = re.sub(r"\.txt$", "", os.path.basename(path))
            print(f"{name:14} {size:6.1f} {size / best['ours']:6.1f} MB/s {size / best['giga']:5.1f} MB/s "
                  f"{size / best['tik']:4.1f} MB/s   {best['giga'] / best['ours']:14.2f}  {best['tik'] / best['ours']:13.1f}  "
                  f"{best['giga_wall'] / best['two']:14.2f}", flush=True)


if __name__ == "__main__":
    main()
