"""eval --task against lm-evaluation-harness: the same log-likelihoods, accuracies and perplexities on the same questions and model.

  python dev/interop/check_lm_eval.py           needs ./train_gpt2, ./tokenize, lm-eval with torch (no network)
  python dev/interop/check_lm_eval.py --write   and writes test/fixtures/tasks: a small model, questions, what lm-eval says

lm-evaluation-harness's own task files are used, with questions from local files in place of the Hub's. It printed, with lm-eval 0.4.8,
transformers 4.48.3 and torch 2.15 on a CPU: equal measures in all ten rows, 370 log-likelihoods with a largest difference of 1e-5.
"""
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HOME=tempfile.mkdtemp())
import lm_eval
import lm_eval.tasks
import torch
import transformers
from importlib.metadata import version
from lm_eval.models.huggingface import HFLM

ROOT = pathlib.Path(__file__).resolve().parents[2]
THEIRS = pathlib.Path(lm_eval.__file__).parent / "tasks"
WHO = ["the cat", "a dog", "my king", "the queen", "no man"]
DOES = [" sees ", " loves ", " fears ", " becomes "]
TOLERANCE = 2e-4  # of a log-likelihood, fp32 in both


def text(rng, n):
    return "".join(rng.choice(WHO) + rng.choice(DOES) + rng.choice(WHO) + rng.choice([". ", ", and ", ".\n"]) for _ in range(n))


def clause(rng):
    return rng.choice(WHO) + rng.choice(DOES) + rng.choice(WHO)


def questions(rng, n):
    """Lines of each form, odd ones among them."""
    out = {}
    odd = ["[header] How to be a king [title] Be calm. [step]  Sit  down", "the  cat   [substeps] sees", "Größe, 你好 and ÉTÉ", "a [b\nc] d"]
    out["hellaswag"] = [{"activity_label": rng.choice(["Cats", "Family Life [misc]"]), "ctx_a": odd[i % 4] if i % 3 == 0 else clause(rng) + ".",
                         "ctx_b": rng.choice(["", "the Queen", "ÉTÉ King"]), "ctx": clause(rng),
                         "endings": [clause(rng) + "." * (k + 1) + (" [title] more" if k == 2 else "") for k in range(4)],
                         "label": str(rng.randrange(4))} for i in range(n)]
    arc = []
    for i in range(n):
        k = rng.choice([3, 4, 4, 5])
        labels = list("ABCDE"[:k]) if i % 4 else [str(x + 1) for x in range(k)]
        arc.append({"id": str(i), "question": clause(rng) + "?" + (" " if i % 5 == 0 else ""),
                    "choices": {"text": [clause(rng) if j % 2 else rng.choice(WHO) for j in range(k)], "label": labels},
                    "answerKey": rng.choice(labels)})
    out["arc"] = arc
    out["mmlu"] = [{"question": " " + clause(rng) + "?\n", "subject": "abstract_algebra", "choices": [rng.choice(WHO) + str(j) for j in range(4)],
                    "answer": rng.randrange(4)} for _ in range(n)]
    out["lambada"] = [{"text": text(rng, 1 + i % 6).strip().strip(".,") + (" the cat  sees" if i % 7 == 0 else "")} for i in range(n)]
    out["blimp"] = [{"sentence_good": clause(rng) + ".", "sentence_bad": rng.choice(WHO) + " see " + rng.choice(WHO) + "."} for _ in range(n)]
    out["choices"] = [{"context": clause(rng) + (", and" if i % 2 else "."), "choices": [clause(rng), rng.choice(WHO), "Größe 你好"][: 2 + i % 2],
                       "answer": i % 2} for i in range(n)]
    return out


def their_task(folder, name, data, shots_data):
    shipped = {"hellaswag": "hellaswag/hellaswag.yaml", "arc": "arc/arc_easy.yaml", "mmlu": "mmlu/default/mmlu_abstract_algebra.yaml",
               "lambada": "lambada/lambada_openai.yaml", "blimp": "blimp/adjunct_island.yaml"}
    files = {split: str(shots_data if split in ("train", "dev") else data) for split in ("train", "validation", "test", "dev")}
    splits = {"hellaswag": ("validation", "train"), "arc": ("test", "train"), "mmlu": ("test", "dev"), "lambada": ("test", "train"),
              "blimp": ("test", "train"), "choices": ("test", "train")}[name]
    lines = [f"include: {THEIRS / shipped[name]}"] if name in shipped else [
        "output_type: multiple_choice", 'doc_to_text: "{{context}}"', 'doc_to_choice: "{{choices}}"', "doc_to_target: answer",
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}, {metric: acc_norm, aggregation: mean, higher_is_better: true}]"]
    lines += [f"task: own_{name}", "dataset_path: json", "dataset_name: null", "tag: []",
              f"dataset_kwargs: {{data_files: {json.dumps(files)}}}", f"fewshot_split: {splits[1]}", "fewshot_config: {sampler: first_n}",
              f"{'validation' if splits[0] == 'validation' else 'test'}_split: {splits[0]}"]
    if splits[0] == "test":
        lines.append("validation_split: null")
    (folder / f"own_{name}.yaml").write_text("\n".join(lines) + "\n")


def main():
    write = "--write" in sys.argv[1:]
    rng = random.Random(3)
    work = pathlib.Path(tempfile.mkdtemp())
    run = lambda *args: subprocess.run([str(a) for a in args], cwd=work, check=True, capture_output=True, text=True).stdout
    (work / "text.txt").write_text(text(rng, 3000))
    run(ROOT / "tokenize", "train", "--vocab-size", 300, "-o", "data", "text.txt")
    run(ROOT / "tokenize", "encode", "--vocab", "data", "-o", "data", "text.txt")
    run(ROOT / "train_gpt2", "-i", "data/train_000000.bin", "-j", "data/val_000000.bin", "-e", "L1:H2:C16:T96", "-b", 4, "-d", 384, "-x", 100,
        "-l", "1e-2", "-o", "run", "-n", 0, "-v", 0, "--precision", "fp32")
    model = work / "run/step_00000100"
    tasks = work / "tasks"
    tasks.mkdir()
    data, shots = questions(rng, 12), questions(rng, 5)
    for name in data:
        for which, lines in (("", data[name]), ("_shots", shots[name])):
            (work / f"{name}{which}.jsonl").write_text("".join(json.dumps(x, ensure_ascii=False) + "\n" for x in lines))
        their_task(tasks, name, work / f"{name}.jsonl", work / f"{name}_shots.jsonl")
    theirs = HFLM(pretrained=str(model), tokenizer=str(model), device="cpu", dtype="float32", batch_size=3)
    manager = lm_eval.tasks.TaskManager(include_path=str(tasks), include_defaults=False)
    print(f"lm-eval {version('lm_eval')}, transformers {transformers.__version__}, torch {torch.__version__}\n")
    print(f"{'task':<10} {'shots':>5} {'questions':>9} {'log-likelihoods':>15}  largest difference   measures, equal in both")
    expected, bad = [], 0
    for name, k in [(name, 0) for name in data] + [("arc", 2), ("mmlu", 1), ("hellaswag", 1), ("choices", 3)]:
        full = lm_eval.simple_evaluate(model=theirs, tasks=[f"own_{name}"], num_fewshot=k, task_manager=manager, log_samples=True, bootstrap_iters=2)
        measures = {m.split(",")[0]: v for m, v in full["results"][f"own_{name}"].items() if m.split(",")[0] in ("acc", "acc_norm", "acc_stderr", "acc_norm_stderr", "perplexity")}
        samples = sorted(full["samples"][f"own_{name}"], key=lambda s: s["doc_id"])
        likelihoods = [[r[0] for r in s["filtered_resps"]] if isinstance(s["filtered_resps"][0], (list, tuple)) else [s["filtered_resps"][0]]
                       for s in samples]
        options = ["--shots", k, "--shots-data", f"{name}_shots.jsonl"] if k else []
        ours = json.loads(run(ROOT / "train_gpt2", "eval", "-e", model, "--task", name, "-j", f"{name}.jsonl", "--json", "--answers", "answers.jsonl",
                              "--precision", "fp32", *options))
        own = [json.loads(line)["log_likelihoods"] for line in (work / "answers.jsonl").read_text().splitlines()]
        assert [len(x) for x in own] == [len(x) for x in likelihoods], name
        largest = max(abs(a - b) for x, y in zip(own, likelihoods) for a, b in zip(x, y))
        same = all(abs(ours[m] - v) <= (1e-9 if m != "perplexity" else 1e-4 * v) for m, v in measures.items())
        bad += not same or largest > TOLERANCE
        print(f"{name:<10} {k:>5} {len(own):>9} {sum(map(len, own)):>15}  {largest:<20.2e} " +
              ", ".join(f"{m} {v:.4f}" + ("" if abs(ours[m] - v) < 1e-3 else f" (ours {ours[m]:.4f})") for m, v in measures.items() if not m.endswith("_stderr")))
        expected.append({"task": name, "shots": k, "measures": {m: round(v, 6) for m, v in measures.items()},
                         "log_likelihoods": [[round(v, 4) for v in x] for x in likelihoods]})
    print("\nequal" if bad == 0 else f"\n{bad} tasks differ")
    if write:
        out = ROOT / "test/fixtures/tasks"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        for name in ("config.json", "model.safetensors", "vocab.json", "merges.txt"):
            shutil.copy(model / name, out)
        for name in data:
            for which in ("", "_shots"):
                if which == "" or name in ("arc", "mmlu", "hellaswag", "choices"):
                    shutil.copy(work / f"{name}{which}.jsonl", out)
        (out / "expected.json").write_text("[\n" + ",\n".join(json.dumps(x) for x in expected) + "\n]\n")
    shutil.rmtree(work)
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
