#!/usr/bin/env python3
"""Compares ./tokenize with tiktoken and Hugging Face tokenizers. Needs tiktoken, tokenizers and transformers.

    python3 dev/check_tokenizer.py --vocab ../shared/data/gpt2 --text ../shared/data/tinyshakespeare.txt [--fixtures]

- ids of the text, of random Unicode strings and of every code point among letters, digits and spaces, against tiktoken;
- GPT2TokenizerFast loads the directories that ./tokenize writes and gives the same ids;
- a vocabulary of 2,048 tokens trained on the text, against Hugging Face's BPE trainer.
--fixtures also writes test/fixtures/tokenizer_gpt2.json, which test/test_tokenizer.cpp reads.
"""
import argparse
import array
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import unicodedata

import tiktoken

PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
END = "<|endoftext|>"


def tiktoken_gpt2(directory):
    """tiktoken's gpt2 encoding, made from vocab.json and merges.txt (its own comes over the network)."""
    alphabet = [b for b in range(256) if chr(b).isprintable() and chr(b) != " "]
    to_byte = {chr(b): b for b in alphabet}
    for n, b in enumerate(b for b in range(256) if b not in alphabet):
        to_byte[chr(256 + n)] = b
    with open(os.path.join(directory, "vocab.json"), encoding="utf-8") as f:
        vocab = json.load(f)
    ranks = {bytes(to_byte[c] for c in token): i for token, i in vocab.items() if token != END}
    return tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={END: vocab[END]})


def encode(tokenize, vocab, texts, folder):
    """Ids of each text, by ./tokenize: one JSON line a text."""
    source, out = os.path.join(folder, "texts.jsonl"), os.path.join(folder, "out")
    with open(source, "w", encoding="utf-8") as f:
        f.writelines(json.dumps({"text": t}) + "\n" for t in texts)
    subprocess.run([tokenize, "encode", "--force", "--val-fraction", "0", "--vocab", vocab, "-o", out, source],
                   check=True, stdout=subprocess.DEVNULL)
    ids = array.array("H")
    with open(os.path.join(out, "train_000000.bin"), "rb") as f:
        f.seek(1024)
        ids.frombytes(f.read())
    with open(os.path.join(vocab, "vocab.json"), encoding="utf-8") as f:
        end = json.load(f)[END]
    result = []
    for i in ids:
        if i == end:
            result.append([])
        else:
            result[-1].append(i)
    return result


def random_strings(n, seed):
    """All planes; runs of spaces of all kinds, apostrophes and contractions, digits of other scripts, marks, emoji."""
    rng = random.Random(seed)
    spaces = [" ", " ", "\n", "\t", "\r", "\x0b", "\x0c", "\x85", "\xa0", "\u1680", "\u2003", "\u2028", "\u202f", "\u3000",
              "\u180e", "\u200b", "\ufeff"]
    bits = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'", "''", "\u2019s", "don't", "I'll", "we've ", " 'tis", "'r", "'l"]
    digits = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000 and chr(c).isnumeric()]
    words = ["the", " The", "hello", "naïve", "Straße", "Привет", "日本語", "हिन्दी", "नमस्ते", "שלום", "مرحبا", "한국어", "👩‍👩‍👧", "e\u0301", "\U0001F1E9\U0001F1EA"]

    def character():
        kind = rng.random()
        if kind < 0.3:
            return chr(rng.randrange(0x80))
        if kind < 0.5:
            return chr(rng.randrange(0x80, 0x3000))
        while True:
            c = rng.randrange(0x10000) if kind < 0.75 else rng.randrange(0x110000)
            if not 0xD800 <= c < 0xE000:
                return chr(c)

    def part():
        kind = rng.randrange(6)
        if kind == 0:
            return "".join(rng.choice(spaces) for _ in range(rng.randrange(1, 6)))
        if kind == 1:
            return rng.choice(bits)
        if kind == 2:
            return "".join(rng.choice(digits) for _ in range(rng.randrange(1, 4)))
        if kind == 3:
            return rng.choice(words)
        return "".join(character() for _ in range(rng.randrange(1, 8)))

    return ["".join(part() for _ in range(rng.randrange(1, 12))) for _ in range(n)]


def compare(name, texts, expected, found):
    wrong = [i for i, (a, b) in enumerate(zip(expected, found)) if a != b]
    print(f"{name}: {len(texts)} texts, {sum(map(len, expected))} tokens, {len(wrong)} texts differ")
    for i in wrong[:20]:
        print("  ", ascii(texts[i]), expected[i], found[i])
    return len(wrong) + abs(len(expected) - len(found))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenize", default="./tokenize")
    parser.add_argument("--vocab", default="../shared/data/gpt2")
    parser.add_argument("--text", default="../shared/data/tinyshakespeare.txt")
    parser.add_argument("--strings", type=int, default=100_000)
    parser.add_argument("--fixtures", action="store_true")
    args = parser.parse_args()
    oracle = tiktoken_gpt2(args.vocab)
    with open(args.text, encoding="utf-8", newline="") as f:
        text = f.read()
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        expected = oracle.encode_ordinary(text)
        found = encode(args.tokenize, args.vocab, [text], folder)
        failures += compare("text, against tiktoken " + tiktoken.__version__, [""], [expected], found)
        strings = random_strings(args.strings, 1)
        failures += compare("random strings", strings, [oracle.encode_ordinary(s) for s in strings],
                            encode(args.tokenize, args.vocab, strings, folder))
        points = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
        texts = [f"x{c}x 1{c}1 {c} \t{c}" for c in points]
        failures += compare("every code point", texts, [oracle.encode_ordinary(s) for s in texts],
                            encode(args.tokenize, args.vocab, texts, folder))

        import tokenizers
        from tokenizers import models, pre_tokenizers, trainers
        from transformers import GPT2TokenizerFast
        ours = os.path.join(folder, "trained")
        subprocess.run([args.tokenize, "train", "--no-special", "--vocab-size", "2048", "-o", ours, args.text], check=True, stdout=subprocess.DEVNULL)
        theirs = tokenizers.Tokenizer(models.BPE())
        theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        theirs.train_from_iterator([text], trainers.BpeTrainer(vocab_size=2047, show_progress=False,
                                                               initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
        model = json.loads(theirs.to_str())["model"]
        merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
        with open(os.path.join(ours, "merges.txt"), encoding="utf-8") as f:
            lines = f.read().split("\n")[1:-1]
        print(f"trained merges, against tokenizers {tokenizers.__version__}: {len(lines)}, equal: {lines == merges}")
        with open(os.path.join(ours, "vocab.json"), encoding="utf-8") as f:
            vocab = json.load(f)
        failures += lines != merges or {t: i for t, i in vocab.items() if t != END} != model["vocab"]
        merges_sha = hashlib.sha256("\n".join(merges).encode()).hexdigest()
        for name, directory in (("GPT-2's, written by us", os.path.join(folder, "out")), ("our vocabulary", ours)):
            fast = GPT2TokenizerFast.from_pretrained(directory)
            # Hugging Face's splitter is of another Unicode version than tiktoken's: only code points that are old enough.
            some = [text] + [s for s in strings[:20_000] if all(unicodedata.category(c) != "Cn" for c in s)]
            failures += compare(f"GPT2TokenizerFast, {name}", some, [fast(s)["input_ids"] for s in some],
                                encode(args.tokenize, directory, some, folder) if directory == ours else
                                [oracle.encode_ordinary(s) for s in some])
    if args.fixtures:
        def fnv(ids):
            h = 0xCBF29CE484222325
            for i in ids:
                h = ((h ^ i) * 0x100000001B3) & (1 << 64) - 1
            return h
        chosen = random_strings(700, 2)
        fixture = {
            "tiktoken": tiktoken.__version__,
            "tinyshakespeare": {"bytes": len(text.encode()), "tokens": len(expected), "fnv1a": f"{fnv(expected):016x}"},
            "trained_2048": {"merges": len(merges), "fnv1a": f"{fnv(chr(10).join(merges).encode()):016x}"},
            "strings": [[s, oracle.encode_ordinary(s)] for s in chosen],
        }
        os.makedirs("test/fixtures", exist_ok=True)
        with open("test/fixtures/tokenizer_gpt2.json", "w") as f:
            f.write(json.dumps(fixture, separators=(",", ":")).replace('],["', '],\n["') + "\n")
        print("test/fixtures/tokenizer_gpt2.json:", os.path.getsize("test/fixtures/tokenizer_gpt2.json"), "bytes")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
