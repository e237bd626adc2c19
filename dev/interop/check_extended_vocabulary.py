"""An extended vocabulary against its old one, transformers and tokenizers, on text.

  python dev/interop/check_extended_vocabulary.py OLD NEW FILE...   (directories of vocabularies, ./tokenize train --extend)

Old ids and merges stay. On each file, ./tokenize, `tokenizers` from merges.txt, and transformers' GPT2TokenizerFast from
vocab.json + merges.txt and from a model's tokenizer.json give the same ids, special tokens included.
"""
import array
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import tokenizers
import transformers

END = "<|endoftext|>"


def ids_of_ours(vocabulary, path, directory):
    shutil.rmtree(directory, ignore_errors=True)
    subprocess.run(["./tokenize", "encode", "--no-special", "--plain", "--val-fraction", "0", "--vocab", vocabulary,
                    "-o", directory, path], check=True, stdout=subprocess.DEVNULL)
    data = (directory / "train_000000.bin").read_bytes()
    return list(array.array("H", data[1024:]))[1:]  # after <|endoftext|>


def merges_of(directory):
    return [line for line in (directory / "merges.txt").read_text().splitlines() if not line.startswith("#version")]


def main():
    old, new = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    was, now = (json.loads((d / "vocab.json").read_text()) for d in (old, new))
    merges = merges_of(new)
    assert all(now[token] == i for token, i in was.items()), "an old id has changed"
    assert merges[:len(merges_of(old))] == merges_of(old), "an old merge has changed"
    print(f"{len(was)} ids and {len(merges_of(old))} merges kept, {len(now)} and {len(merges)} now")
    pairs = [tuple(line.split(" ")) for line in merges]
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        # the forms that a model directory has: examples are written beside the same files as a model
        plain = tokenizers.Tokenizer(tokenizers.models.BPE(now, pairs))
        plain.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        files = directory / "files"
        files.mkdir()
        for file in ("vocab.json", "merges.txt"):
            shutil.copy(new / file, files)
        transformed = {"vocab.json + merges.txt": transformers.GPT2TokenizerFast.from_pretrained(files)}
        if (new / "tokenizer.json").exists():
            transformed["the directory"] = transformers.AutoTokenizer.from_pretrained(new)
            transformed["tokenizer.json"] = transformers.PreTrainedTokenizerFast(tokenizer_file=str(new / "tokenizer.json"))
        for form, tokenizer in transformed.items():
            assert tokenizer(END)["input_ids"] == [now[END]], f"{form}: {END} is {tokenizer(END)['input_ids']}"
            assert len(tokenizer) == len(now), f"{form}: {len(tokenizer)} tokens"
        for path in sys.argv[3:]:
            text = pathlib.Path(path).read_text()
            ours = ids_of_ours(new, path, directory / "out")
            assert ours == plain.encode(text).ids, f"{path}: tokenizers gives other ids"
            for form, tokenizer in transformed.items():
                assert ours == tokenizer(text)["input_ids"], f"{path}: transformers gives other ids from {form}"
                assert tokenizer.decode(ours, clean_up_tokenization_spaces=False) == text, f"{path}: {form}: other text"
            before = len(ids_of_ours(old, path, directory / "out"))
            print(f"{path}: {len(ours)} ids, {before} by the old vocabulary ({1 - len(ours) / before:.1%} fewer)")
    print(f"same ids in ./tokenize, tokenizers {tokenizers.__version__} and transformers {transformers.__version__} "
          f"({', '.join(transformed)})")


if __name__ == "__main__":
    main()
