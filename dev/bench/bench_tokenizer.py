#!/usr/bin/env python3
"""Speed of tiktoken's gpt2 encoding on one thread: prints bytes per second of its CPU time. Used by bench_tokenizer.sh.

    bench_tokenizer.py VOCAB_DIR TEXT REPEATS
"""
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from check_tokenizer import tiktoken_gpt2  # noqa: E402

encoding = tiktoken_gpt2(sys.argv[1])
data = Path(sys.argv[2]).read_bytes()
text = data.decode()
encoding.encode_ordinary(text)
best = 1e9
for _ in range(int(sys.argv[3])):
    start = time.thread_time()
    encoding.encode_ordinary(text)
    best = min(best, time.thread_time() - start)
print(len(data) / best)
