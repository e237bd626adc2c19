"""A model of ours in llama.cpp: `export --format gguf` of each type, read by gguf's Python package and run by llama.cpp.

  python dev/interop/check_gguf.py MODEL data/NAME/val_000000.bin   (needs numpy, safetensors, gguf, llama-cpp-python)
  python dev/interop/check_gguf.py --write                          writes test/fixtures/gguf_blocks.json: blocks that gguf
                                                                    has quantised (needs gguf)

Checked: every tensor's bytes are those that gguf makes of the float32 weights; the tokens and merges give the same ids as
./tokenize; the loss. llama.cpp's GELU is a table of f16, and its products of f16, bf16 and quantised weights round the
activations, too, so its loss is not that of the weights alone.
"""
import importlib.metadata
import json
import pathlib
import sys
import tempfile

import gguf
import numpy as np
from gguf.quants import quantize

TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")
TOLERANCE = {"f32": 1e-3, "f16": 1e-3, "bf16": 1e-2, "q8_0": 1e-2, "q4_0": 0.5}
TEXT = "It's 1,234 words:  über 你好 👍, \n\n  and \t more!\n"


def write_fixture():
    rng = np.random.default_rng(10)
    x = rng.normal(0, 0.02, (6, 32)).astype(np.float32)
    x[1] = 0
    x[2, 5], x[2, 9] = 0.125, -0.125  # two of the largest size: the first counts
    x[3] = np.arange(-16, 16) / 16 * 127 / 16  # ties
    x[4] *= 1e-6  # the scale is below f16's normal numbers
    x[5, 7] = -3
    blocks = {"x": x.view(np.uint32).ravel().tolist()}
    for name in ("F16", "BF16", "Q8_0", "Q4_0"):
        blocks[name] = quantize(x, gguf.GGMLQuantizationType[name]).tobytes().hex()
    blocks["from"] = f"gguf {importlib.metadata.version('gguf')}, dev/interop/check_gguf.py --write"
    pathlib.Path("test/fixtures/gguf_blocks.json").write_text(json.dumps(blocks) + "\n")


def check_tensors(path, weights):
    """weights: name -> array, by transformers' names."""
    reader = gguf.GGUFReader(path)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, 1000)
    theirs = {}
    for name, x in weights.items():
        base, kind = name.rsplit(".", 1)
        linear = kind == "weight" and ".h." in name and x.ndim == 2
        theirs[f"{names.get_name(base.removeprefix('transformer.'))}.{kind}" if base != "lm_head" else "output.weight"] = x.T if linear else x
    different = 0
    for t in reader.tensors:
        x = np.ascontiguousarray(theirs.pop(t.name))
        assert list(t.shape) == list(reversed(x.shape)), (t.name, t.shape, x.shape)
        different += quantize(x, t.tensor_type).tobytes() != t.data.tobytes()
    assert not theirs, list(theirs)
    return len(reader.tensors), different


def loss_in_llama(path, inputs, targets):
    from common import mean_loss
    import llama_cpp
    model = llama_cpp.Llama(path, n_ctx=inputs.shape[1], n_batch=inputs.shape[1], logits_all=True, verbose=False, n_threads=2,
                            type_k=0, type_v=0)  # keys and values in f32, too
    losses = []
    for x, y in zip(inputs, targets):
        model.reset()
        model.eval(x.tolist())
        losses.append(mean_loss(np.array(model.scores[:len(x)]), y))
    return float(np.mean(losses)), model.tokenize(TEXT.encode(), add_bos=False, special=False)


def main():
    if "--write" in sys.argv:
        return write_fixture()
    from common import our_loss, program, windows_of
    import llama_cpp
    from safetensors.numpy import load_file
    model, shard = sys.argv[1:3]
    ours = our_loss(model, shard)
    print(f"gguf {importlib.metadata.version('gguf')}, llama-cpp-python {llama_cpp.__version__}; ./train_gpt2's loss: {ours:.6f}")
    failed = False
    with tempfile.TemporaryDirectory() as directory:
        program("export", "-e", model, "-o", f"{directory}/hf")
        weights = load_file(f"{directory}/hf/model.safetensors")
        config = json.loads(pathlib.Path(f"{directory}/hf/config.json").read_text())
        inputs, targets = windows_of(shard, config["n_positions"])
        from tokenizers import Tokenizer
        expected = Tokenizer.from_file(f"{directory}/hf/tokenizer.json").encode(TEXT).ids
        for kind in TYPES:
            path = f"{directory}/{kind}.gguf"
            program("export", "-e", model, "-o", path, "--format", "gguf", "--type", kind)
            tensors, different = check_tensors(path, weights)
            loss, ids = loss_in_llama(path, inputs, targets)
            bad = different or ids != expected or abs(loss - ours) > TOLERANCE[kind]
            failed |= bool(bad)
            print(f"{kind:5} {pathlib.Path(path).stat().st_size:>12,} bytes; {tensors} tensors, {different} differ; "
                  f"tokens {'equal' if ids == expected else 'DIFFER'}; loss {loss:.6f}, {loss - ours:+.1e}"
                  f"{' FAILED' if bad else ''}")
    sys.exit(failed)


main()
