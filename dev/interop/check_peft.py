#!/usr/bin/env python3
"""Adapters of PEFT and ours, each read by the other: the same losses.

    python dev/interop/check_peft.py [--program ./train_gpt2] [--fixture DIR]

A small random GPT-2 with a random LoRA adapter of PEFT's is saved and evaluated by both; then an adapter that the program
has trained over it. --fixture writes the first case and its losses for test/test_program_adapters.cpp. Needs torch, transformers
and peft.
"""
import argparse, json, math, pathlib, shutil, struct, subprocess, tempfile

import peft, torch, transformers
from transformers import GPT2Config, GPT2LMHeadModel

V, T, WINDOWS = 300, 16, 6
CASES = [
    {"r": 4, "lora_alpha": 8, "target_modules": ["c_attn", "c_proj", "c_fc"]},
    {"r": 2, "lora_alpha": 5, "target_modules": ["c_attn"], "layers_to_transform": [1]},
    {"r": 3, "lora_alpha": 6, "target_modules": r".*\.(attn\.c_proj|mlp\.c_fc)", "use_rslora": True},
]


def write_shard(path, tokens):
    with open(path, "wb") as f:
        f.write(struct.pack("<256i", 20240520, 1, len(tokens), *([0] * 253)))
        f.write(struct.pack(f"<{len(tokens)}H", *tokens))


def write_vocabulary(directory):
    """Bytes and made-up pairs of them: V words, whatever they are. The ids in the shard are what counts."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    bytes_of = {b: chr(b) for b in printable}
    bytes_of.update({b: chr(256 + i) for i, b in enumerate(sorted(set(range(256)) - set(printable)))})
    words = [bytes_of[b] for b in range(256)]
    merges = []
    for b in range(V - 257):
        merges.append((words[b], words[b + 1]))
        words.append(words[b] + words[b + 1])
    words.append("<|endoftext|>")
    (directory / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (directory / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))


def loss_of(model, tokens):
    total = 0.0
    for w in range(WINDOWS):
        window = torch.tensor(tokens[w * T : w * T + T + 1])
        logits = model(window[None, :-1]).logits[0].double()
        total += torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum").item()
    return total / (WINDOWS * T)


def program(args, *arguments):
    r = subprocess.run([args.program, *map(str, arguments)], capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    return r.stdout


def evaluate(args, model, shard, *more):
    return float(program(args, "eval", "-e", model, "-j", shard, "--precision", "fp32", *more).split("loss ")[1].split()[0])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", default="./train_gpt2")
    parser.add_argument("--fixture")
    args = parser.parse_args()
    torch.manual_seed(1)
    worst, expected = 0.0, {}
    work = pathlib.Path(tempfile.mkdtemp())
    base_dir, shard = work / "base", work / "val_000000.bin"
    config = GPT2Config(n_layer=2, n_head=2, n_embd=32, n_positions=T, vocab_size=V, bos_token_id=V - 1,
                        eos_token_id=V - 1, initializer_range=0.2, attn_pdrop=0, embd_pdrop=0, resid_pdrop=0)
    GPT2LMHeadModel(config).eval().save_pretrained(base_dir)
    write_vocabulary(base_dir)
    shutil.copy(base_dir / "vocab.json", work), shutil.copy(base_dir / "merges.txt", work)
    tokens = torch.randint(V, (WINDOWS * T + 1,)).tolist()
    write_shard(shard, tokens)
    with torch.no_grad():
        base_loss = loss_of(GPT2LMHeadModel.from_pretrained(base_dir).eval(), tokens)
        worst = max(worst, abs(evaluate(args, base_dir, shard) - base_loss))
        expected["base"] = base_loss
        for i, case in enumerate(CASES):
            model = peft.get_peft_model(GPT2LMHeadModel.from_pretrained(base_dir),
                                        peft.LoraConfig(task_type="CAUSAL_LM", fan_in_fan_out=True, **case)).eval()
            for name, p in model.named_parameters():
                if "lora_" in name:
                    p.copy_(torch.randn_like(p) * 0.2)
            model.save_pretrained(work / f"adapter{i}")
            want, got = loss_of(model, tokens), evaluate(args, work / f"adapter{i}", shard)
            print(f"PEFT's adapter {i}: {want:.6f} in PEFT, {got:.6f} here; without it {base_loss:.6f}")
            worst = max(worst, abs(want - got))
            expected[f"adapter{i}"] = want
    program(args, "finetune", "-e", base_dir, "-i", shard, "-j", shard, "-b", 3, "-d", 3 * T, "-x", 20, "-l", 3e-2,
            "--lora-rank", 4, "--lora-layers", "c_attn,mlp.c_proj", "-o", work / "run", "--precision", "fp32")
    ours = work / "run" / "step_00000020"
    with torch.no_grad():
        model = peft.PeftModel.from_pretrained(GPT2LMHeadModel.from_pretrained(base_dir), ours).eval()
        want, got = loss_of(model, tokens), evaluate(args, ours, shard)
        merged = loss_of(model.merge_and_unload(), tokens)
    print(f"ours: {want:.6f} in PEFT, {got:.6f} here; merged by PEFT {merged:.6f}")
    assert got < base_loss - 0.05, "it learned nothing"
    worst = max(worst, abs(want - got), abs(merged - got))
    print(f"largest difference {worst:.1e}; peft {peft.__version__}, transformers {transformers.__version__}, torch {torch.__version__}")
    assert worst < 5e-6
    if args.fixture:
        out = pathlib.Path(args.fixture)
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        for name in ["base", *[f"adapter{i}" for i in range(len(CASES))]]:
            shutil.copytree(work / name, out / name, ignore=shutil.ignore_patterns("README.md"))
            where = out / name / "adapter_config.json"
            if where.exists():
                j = json.loads(where.read_text())
                j["base_model_name_or_path"] = "../base"
                where.write_text(json.dumps(j, indent=1) + "\n")
        shutil.copy(shard, out), shutil.copy(work / "vocab.json", out), shutil.copy(work / "merges.txt", out)
        (out / "losses.json").write_text(json.dumps(expected, indent=1) + "\n")
        print("wrote", out)
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
