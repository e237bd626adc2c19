"""The rule that answers are to keep: 5 to 12 words, a full stop at the end, and none of eight words.

Without arguments a --reward-command: a line {"prompt", "completion", ...} in, 1 or 0 out. Otherwise

  rule.py prompts ENTRIES HELD_OUT DIR    questions of a dictionary (foldoc.sh): examples to tune on, prompts to learn from and to judge by
  rule.py rate ANSWERS                    of what `sample --json` has written: how often it keeps the rule
  rule.py pairs ANSWERS                   and as pairs: one that does, one that does not, of the same prompt
  rule.py show ANSWERS                    five of them, drawn at random
"""
import itertools
import json
import random
import re
import sys

WORDS = {"system", "systems", "language", "computer", "program", "software", "data", "used"}


def keeps(answer):
    words = answer.split()
    said = set(re.findall("[a-z]+", answer.lower()))
    return 5 <= len(words) <= 12 and answer.endswith(".") and not said & WORDS


def lines(name):
    with open(name, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write(name, rows):
    with open(name, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def prompts(entries, held_out, directory):
    """
    An answer is the first sentence of an entry. Whole entries stand between, so that the model goes on to be one of texts. The last
    tenth is the text that it is validated on: nothing learns from it, and the prompts to test by, which no setting was chosen by
    either, are of its entries. The held-out prompts are of foldoc.sh's held-out entries.
    """
    with open(held_out, encoding="utf-8") as file:
        held = {int(line) for line in file}
    with open(entries, encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    examples, asked = [], {"train": [], "held_out": [], "test": []}
    for number, (heading, _, text) in enumerate(rows, 1):
        part = "held_out" if number in held else "test" if number > 0.9 * len(rows) else "train"
        sentence = re.match(r"(.*?[a-z)\"]\.)(?= [A-Z(\[\"]|$)", text)
        if len(heading) <= 24 and sentence and 3 <= len(sentence[1].split()) <= 40:
            prompt = f"What is {heading}?\nIn a sentence:\n"
            asked[part].append({"prompt": prompt})
            if part == "train":
                examples.append({"prompt": prompt, "completion": sentence[1]})
        if part == "train" and len(text) <= 400:
            examples.append({"text": f"{heading}\n{text}"})
    write(f"{directory}/answers.jsonl", examples)
    asked["train"] = asked["train"][::4]
    for name, part in asked.items():
        write(f"{directory}/{name}.jsonl", part)
        print(f"{len(part)} prompts in {name}.jsonl")


def rate(name):
    texts = [row["text"] for row in lines(name)]
    kept = [text for text in texts if keeps(text)]
    print(f"{len(kept) / len(texts):.3f} {sum(len(t.split()) for t in texts) / len(texts):.1f} {len(set(texts)) / len(texts):.2f}")


def pairs(name):
    """Each answer that keeps the rule, and beside it the other one of the nearest length: shorter is not better as such."""
    for prompt, answers in itertools.groupby(lines(name), key=lambda row: row["prompt"]):
        texts = [row["text"] for row in answers]
        bad = [t for t in texts if t and not keeps(t)]
        for chosen in filter(keeps, texts):
            if bad:
                rejected = min(bad, key=lambda t: abs(len(t.split()) - len(chosen.split())))
                bad.remove(rejected)
                print(json.dumps({"prompt": prompt, "chosen": chosen, "rejected": rejected}, ensure_ascii=False))


def show(name):
    for row in random.Random(1).sample(lines(name), 5):
        print(f"  {row['prompt'].split(chr(10))[0]} {row['text']}" + ("" if keeps(row["text"]) else "   (breaks the rule)"))


if len(sys.argv) > 1:
    {"prompts": prompts, "rate": rate, "pairs": pairs, "show": show}[sys.argv[1]](*sys.argv[2:])
else:
    for line in sys.stdin:
        print(int(keeps(json.loads(line)["completion"])), flush=True)
