"""A directory of `export` in CTranslate2: its loss over a validation shard, and greedy text.

  python dev/interop/check_ctranslate2.py DIRECTORY data/NAME/val_000000.bin   (needs ctranslate2, torch, transformers, numpy)
"""
import sys
import tempfile

import ctranslate2
import numpy as np
import transformers

from common import PROMPT, our_loss, our_text, windows_of


def main():
    directory, shard = sys.argv[1:3]
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    T = transformers.AutoConfig.from_pretrained(directory).n_positions
    inputs, targets = windows_of(shard, T)
    words = tokenizer.convert_ids_to_tokens
    with tempfile.TemporaryDirectory() as out:
        ctranslate2.converters.TransformersConverter(directory).convert(out, force=True)
        generator = ctranslate2.Generator(out, device="cpu", compute_type="float32", intra_threads=2)
        rows = [list(map(int, x)) + [int(y[-1])] for x, y in zip(inputs, targets)]  # each token after the first is scored
        scored = generator.score_batch([words(row) for row in rows], max_batch_size=4)
        start = words(tokenizer(PROMPT).input_ids)
        greedy = generator.generate_batch([start], max_length=48, min_length=48, sampling_topk=1,
                                          include_prompt_in_result=False)[0]
    theirs = -float(np.mean([s.log_probs for s in scored]))
    text = tokenizer.decode(tokenizer.convert_tokens_to_ids(start) + greedy.sequences_ids[0])
    ours, sample = our_loss(directory, shard), our_text(directory, 48)
    print(f"ctranslate2 {ctranslate2.__version__}, transformers {transformers.__version__}: loss {theirs:.6f}; ./train_gpt2: "
          f"{ours:.6f}; difference {abs(ours - theirs):.1e}")
    print(f"greedy text equal: {text.rstrip() == sample.rstrip()}")
    if abs(ours - theirs) > 1e-4 or text.rstrip() != sample.rstrip():
        print(f"theirs: {text!r}\nours:   {sample!r}")
        sys.exit(1)


main()
