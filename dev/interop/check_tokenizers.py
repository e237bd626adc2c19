"""tokenizer.json of a directory that `export` has written, in `tokenizers`: the ids of a text, and the text again.

  python dev/interop/check_tokenizers.py DIRECTORY TEXT.txt    (needs tokenizers, numpy; and ./tokenize)
"""
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import tokenizers


def main():
    directory, path = sys.argv[1:3]
    text = pathlib.Path(path).read_text().replace("<|endoftext|>", "") + "\n It's 1,234 words:  über 你好 👍, \x00\t\n\n  and more!"
    with tempfile.TemporaryDirectory() as out:
        pathlib.Path(f"{out}/text.txt").write_text(text)
        subprocess.run(["./tokenize", "encode", "--vocab", directory, "-o", f"{out}/shards", "--split-documents", "none",
                        "--val-fraction", "0", f"{out}/text.txt"], check=True, capture_output=True)
        ours = np.concatenate([np.fromfile(p, dtype=np.uint16, offset=1024) for p in sorted(pathlib.Path(f"{out}/shards").glob("*.bin"))])
        tokenizer = tokenizers.Tokenizer.from_file(f"{directory}/tokenizer.json")
        theirs = tokenizer.encode(text).ids
    same = ours[1:].tolist() == theirs  # in front of a document stands the end of text
    again = tokenizer.decode(theirs) == text
    print(f"tokenizers {tokenizers.__version__}: {len(theirs):,} ids, {'the same' if same else 'DIFFERENT'}; "
          f"the text comes back: {again}")
    sys.exit(not (same and again))


main()
