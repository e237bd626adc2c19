#!/usr/bin/env python3
"""Heads of transformers' GPT2ForSequenceClassification and ours, each read by the other: the same scores.

    python dev/interop/check_heads.py [--program ./train_gpt2] [--fixture DIR]

Small random models with a head (classes, a number), alone and as a PEFT adapter over a frozen model, say the same of the same
texts in both programs; then those that the program has trained. --fixture writes the first ones and what transformers says for
test/test_program_heads.cpp. Needs torch, transformers and peft.
"""
import argparse, json, pathlib, shutil, subprocess, tempfile

import peft, torch, transformers
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel, GPT2TokenizerFast

from check_peft import V, write_vocabulary

T, CLASSES = 96, ["bad", "good", "neutral"]
TEXTS = ["the cat sees.", "A dog!", "no man fears the queen", "x", "my king, my king", "12 + 30"]
EXAMPLES = [{"text": t, "label": CLASSES[i % 3], "number": i / 2 - 1} for i, t in enumerate(TEXTS)]
PAIRS = [dict(e, text_pair=TEXTS[(i + 2) % 6]) for i, e in enumerate(EXAMPLES)]


def config(**more):
    return GPT2Config(n_layer=2, n_head=2, n_embd=16, n_positions=T, vocab_size=V, bos_token_id=V - 1, eos_token_id=V - 1,
                      initializer_range=0.2, attn_pdrop=0, embd_pdrop=0, resid_pdrop=0, **more)


def names():
    return {"id2label": dict(enumerate(CLASSES)), "label2id": {c: i for i, c in enumerate(CLASSES)}}


def write_lines(path, examples, number):
    lines = [{k: e[k] for k in ("text", "text_pair") if k in e} | {"label": e["number" if number else "label"]} for e in examples]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def program(args, *arguments):
    r = subprocess.run([args.program, *map(str, arguments)], capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    return r.stdout


def scores_of(model, tokenizer, example, both=False):
    """Of one text, or of a pair; [eos] stands around each."""
    end, ids = [V - 1], lambda text: tokenizer(text)["input_ids"]
    row = end + ids(example["text"]) + end + (ids(example["text_pair"]) + end if "text_pair" in example else [])
    scores = model(torch.tensor([row])).logits[0].double()
    if both:
        scores = scores + scores_of(model, tokenizer, {"text": example["text_pair"], "text_pair": example["text"]})
    return scores


def said(model, tokenizer, examples, number, both=False):
    """Predictions or probabilities, and the mean loss."""
    out, loss = [], 0.0
    for e in examples:
        s = scores_of(model, tokenizer, e, both)
        out.append([s.item()] if number else torch.softmax(s, 0).tolist())
        label = torch.tensor([e["number"]]).double() if number else torch.tensor(CLASSES.index(e["label"]))
        loss += (torch.nn.functional.mse_loss(s, label) if number else torch.nn.functional.cross_entropy(s, label)).item()
    return out, loss / len(examples)


def ours(args, model, data, number, *more):
    answers = pathlib.Path(tempfile.mkdtemp()) / "answers.jsonl"
    report = json.loads(program(args, "eval", "-e", model, "-j", data, "--json", "--answers", answers, "--precision", "fp32",
                                "--template", "plain", *more))
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    shutil.rmtree(answers.parent)
    return [[a["prediction"]] if number else [a["probabilities"][c] for c in CLASSES] for a in lines], report["mse" if number else "loss"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", default="./train_gpt2")
    parser.add_argument("--fixture")
    args = parser.parse_args()
    torch.manual_seed(1)
    torch.set_grad_enabled(False)
    work = pathlib.Path(tempfile.mkdtemp())
    write_vocabulary(work)
    tokenizer = GPT2TokenizerFast(vocab_file=str(work / "vocab.json"), merges_file=str(work / "merges.txt"))
    for number in (False, True):
        write_lines(work / f"{'numbers' if number else 'classes'}.jsonl", EXAMPLES, number)
    write_lines(work / "pairs.jsonl", PAIRS, False)
    worst, expected = 0.0, {}

    def check(name, theirs, mine):
        nonlocal worst
        difference = max(abs(a - b) for x, y in zip(theirs[0], mine[0]) for a, b in zip(x, y))
        difference = max(difference, abs(theirs[1] - mine[1]))
        print(f"{name}: loss {theirs[1]:.6f} there, {mine[1]:.6f} here; largest difference {difference:.1e}")
        worst = max(worst, difference)

    def save(model, name):
        model.save_pretrained(work / name)
        for file in ("vocab.json", "merges.txt"):
            shutil.copy(work / file, work / name)

    # theirs, read here
    base = GPT2LMHeadModel(config()).eval()
    save(base, "base")
    classes = GPT2ForSequenceClassification(config(num_labels=3, **names())).eval()
    number = GPT2ForSequenceClassification(config(num_labels=1)).eval()
    save(classes, "classes"), save(number, "number")
    for name, model, data, examples, is_number in [("classes", classes, "classes.jsonl", EXAMPLES, False),
                                                   ("pairs", classes, "pairs.jsonl", PAIRS, False),
                                                   ("number", number, "numbers.jsonl", EXAMPLES, True)]:
        theirs = said(model, tokenizer, examples, is_number)
        check(name, theirs, ours(args, work / ("number" if is_number else "classes"), work / data, is_number))
        expected[name] = theirs[1]
    adapted = peft.get_peft_model(GPT2ForSequenceClassification.from_pretrained(work / "base", num_labels=3),
                                  peft.LoraConfig(task_type="SEQ_CLS", fan_in_fan_out=True, r=2, target_modules=["c_attn"])).eval()
    for name, p in adapted.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            p.copy_(torch.randn_like(p) * 0.3)
    adapted.save_pretrained(work / "adapter")
    # PEFT keeps no names of classes
    config_of = json.loads((work / "classes" / "config.json").read_text())
    (work / "adapter" / "config.json").write_text(json.dumps(config_of, indent=1))
    theirs = said(adapted, tokenizer, EXAMPLES, False)
    check("PEFT's adapter", theirs, ours(args, work / "adapter", work / "classes.jsonl", False))
    expected["adapter"] = theirs[1]

    # ours, read there
    train = ["-l", 1e-2, "-b", 2, "-d", 2 * T, "-x", 8, "-v", 0, "--precision", "fp32", "--template", "plain"]
    for name, more, data, is_number in [
            ("run", ["--head", "classify"], "classes.jsonl", False), ("run_number", ["--head", "regress"], "numbers.jsonl", True),
            ("run_both", ["--head", "classify", "--both-orders"], "pairs.jsonl", False),
            ("run_adapter", ["--head", "classify", "--lora-rank", 2], "classes.jsonl", False)]:
        program(args, "finetune", "-e", work / "base", "-i", work / data, "-j", work / data, *train, *more, "-o", work / name)
        directory = work / name / "step_00000008"
        if name == "run_adapter":
            model = peft.PeftModel.from_pretrained(
                GPT2ForSequenceClassification.from_pretrained(work / "base", num_labels=3), directory).eval()
        else:
            model = GPT2ForSequenceClassification.from_pretrained(directory).eval()
            assert model.config.problem_type == ("regression" if is_number else "single_label_classification")
            assert is_number or [model.config.id2label[i] for i in range(3)] == CLASSES
        theirs = said(model, tokenizer, PAIRS if "both" in name else EXAMPLES, is_number, "both" in name)
        check(name, theirs, ours(args, directory, work / data, is_number))
    print(f"largest difference {worst:.1e}; peft {peft.__version__}, transformers {transformers.__version__}, torch {torch.__version__}")
    assert worst < 5e-6
    if args.fixture:
        out = pathlib.Path(args.fixture)
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        for name in ("base", "classes", "number", "adapter"):
            shutil.copytree(work / name, out / name, ignore=shutil.ignore_patterns("README.md"))
        where = out / "adapter" / "adapter_config.json"
        where.write_text(json.dumps(json.loads(where.read_text()) | {"base_model_name_or_path": "../base"}, indent=1) + "\n")
        for name in ("classes.jsonl", "pairs.jsonl", "numbers.jsonl"):
            shutil.copy(work / name, out)
        (out / "losses.json").write_text(json.dumps(expected, indent=1) + "\n")
        print("wrote", out)
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
