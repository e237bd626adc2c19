#!/usr/bin/env python3
"""Trained prompts of PEFT and ours, each read by the other: the same losses; and the prompt encoder in PyTorch.

    python dev/interop/check_prompts.py [--program ./train_gpt2] [--fixture test/fixtures/peft]

Over the small random GPT-2 of check_peft.py's fixture: prompts of PEFT's PROMPT_TUNING are evaluated by both, then prompts that
the program has trained. --fixture writes the first case for test/test_program_prompts.cpp. The encoder's figures are those of
test/test_prompts.cpp. Needs torch, transformers and peft.
"""
import argparse, json, math, pathlib, shutil, subprocess, tempfile

import peft, torch, transformers
from transformers import GPT2LMHeadModel

BASE = pathlib.Path(__file__).resolve().parents[2] / "test/fixtures/peft/base"


def encoder_figures():
    """Two layers of a bidirectional LSTM and an MLP on 3 rows; the weights are sin(0), sin(1) ... in the order of our table."""
    P, C, H, at = 3, 4, 2, 0

    def weights(*shape):
        nonlocal at
        n = math.prod(shape)
        values = torch.tensor([math.sin(at + i) for i in range(n)]).float().double().reshape(*shape)
        at += n
        return values

    embedding, state = weights(P, C), {}
    for layer in range(2):
        wx, wh, b = weights(8 * H, C if layer == 0 else 2 * H), weights(8 * H, H), weights(8 * H)
        for d, suffix in enumerate(("", "_reverse")):
            rows = slice(d * 4 * H, (d + 1) * 4 * H)
            state[f"weight_ih_l{layer}{suffix}"], state[f"weight_hh_l{layer}{suffix}"] = wx[rows], wh[rows]
            state[f"bias_ih_l{layer}{suffix}"], state[f"bias_hh_l{layer}{suffix}"] = b[rows], torch.zeros(4 * H)
    lstm = torch.nn.LSTM(C, H, num_layers=2, bidirectional=True, batch_first=True).double()
    lstm.load_state_dict(state)
    w1, b1, w2, b2 = weights(2 * H, 2 * H), weights(2 * H), weights(C, 2 * H), weights(C)
    y = lstm(embedding[None])[0][0]
    return (torch.relu(y @ w1.T + b1) @ w2.T + b2).flatten().tolist()


def ids_of(text, words):
    return [words[{" ": "Ġ"}.get(c, c)] for c in text]  # no merges apply to the examples' letters


def loss_of(model, examples, words):
    total, count, end = 0.0, 0, words["<|endoftext|>"]
    for e in examples:
        prompt, completion = ids_of(e["prompt"], words), ids_of(e["completion"], words) + [end]
        logits = model(torch.tensor([prompt + completion])).logits[0].double()
        predicted = logits[-len(completion) - 1 : -1]
        total += torch.nn.functional.cross_entropy(predicted, torch.tensor(completion), reduction="sum").item()
        count += len(completion)
    return total / count


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", default="./train_gpt2")
    parser.add_argument("--fixture")
    args = parser.parse_args()
    print("encoder:", ", ".join(f"{x:.9f}" for x in encoder_figures()))
    torch.manual_seed(3)
    work = pathlib.Path(tempfile.mkdtemp())
    shutil.copytree(BASE, work / "base")
    words = json.loads((BASE / "vocab.json").read_text())
    examples = [{"prompt": p, "completion": c} for p, c in (("zax", "qom"), ("b", "y y"), ("vuv", "k"))]
    data = work / "examples.jsonl"
    data.write_text("".join(json.dumps(e) + "\n" for e in examples))

    def evaluate(model):
        r = subprocess.run([args.program, "eval", "-e", str(model), "-j", str(data), "--template", "plain", "--precision", "fp32"],
                           capture_output=True, text=True)
        assert r.returncode == 0, r.stderr
        return float(r.stdout.split("loss ")[1].split()[0])

    with torch.no_grad():
        base = loss_of(GPT2LMHeadModel.from_pretrained(work / "base").eval(), examples, words)
        model = peft.get_peft_model(GPT2LMHeadModel.from_pretrained(work / "base"),
                                    peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)).eval()
        model.prompt_encoder["default"].embedding.weight.copy_(torch.randn(4, 32) * 0.5)
        model.save_pretrained(work / "prompts")
        want, got = loss_of(model, examples, words), evaluate(work / "prompts")
    print(f"PEFT's prompts: {want:.6f} in PEFT, {got:.6f} here; without them {base:.6f} and {evaluate(work / 'base'):.6f}")
    worst = max(abs(want - got), abs(base - evaluate(work / "base")))
    r = subprocess.run([args.program, "finetune", "-e", str(work / "base"), "-i", str(data), "-b", "3", "-d", "48", "-x", "30", "-l",
                        "3e-2", "--prompt-tokens", "5", "--template", "plain", "--precision", "fp32", "-o", str(work / "run")],
                       capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    ours = work / "run" / "step_00000030"
    with torch.no_grad():
        model = peft.PeftModel.from_pretrained(GPT2LMHeadModel.from_pretrained(work / "base"), ours).eval()
        theirs, here = loss_of(model, examples, words), evaluate(ours)
    print(f"ours: {theirs:.6f} in PEFT, {here:.6f} here")
    assert here < base - 0.05, "they learned nothing"
    worst = max(worst, abs(theirs - here))
    print(f"largest difference {worst:.1e}; peft {peft.__version__}, transformers {transformers.__version__}, torch {torch.__version__}")
    assert worst < 5e-6
    if args.fixture:
        out = pathlib.Path(args.fixture) / "prompts"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(work / "prompts", out, ignore=shutil.ignore_patterns("README.md"))
        config = json.loads((out / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = "../base"
        (out / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")
        shutil.copy(data, out)
        (out / "losses.json").write_text(json.dumps({"loss": want}) + "\n")
        print("wrote", out)
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
