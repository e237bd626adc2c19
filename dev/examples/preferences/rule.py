"""The rule that answers are to keep: 5 to 12 words, a full stop at the end, and none of eight words.

Without arguments a --reward-command: a line {"prompt", "completion", ...} in, 1 or 0 out. Otherwise

  rule.py prompts ENTRIES HELD_OUT DIR    questions of a dictionary (foldoc.sh): examples to tune on, prompts to learn from and to judge by
  rule.py rate ANSWERS                    of what `sample --json` has written: how often it keeps the rule
  rule.py pairs ANSWERS                   and as pairs: one that does, one that does not, of the same prompt
  rule.py mix ANSWERS EXAMPLES            those that keep it, as examples, and as many texts of EXAMPLES
"""
import itertools
import json
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
    tenth is left alone: in it are the texts that it is validated on. The held-out prompts are of foldoc.sh's held-out entries.
    """
    with open(held_out, encoding="utf-8") as file:
        held = {int(line) for line in file}
    with open(entries, encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    examples, asked = [], {False: [], True: []}
    for number, (heading, _, text) in enumerate(rows, 1):
        if number not in held and number > 0.9 * len(rows):
            continue
        sentence = re.match(r"(.*?[a-z)\"]\.)(?= [A-Z(\[\"]|$)", text)
        if len(heading) <= 24 and sentence and 3 <= len(sentence[1].split()) <= 40:
            prompt = f"What is {heading}?\nIn a sentence:\n"
            asked[number in held].append({"prompt": prompt})
            if number not in held:
                examples.append({"prompt": prompt, "completion": sentence[1]})
        if number not in held and len(text) <= 400:
            examples.append({"text": f"{heading}\n{text}"})
    write(f"{directory}/answers.jsonl", examples)
    for name, part in ("train", asked[False][::4]), ("held_out", asked[True]):
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


def mix(name, examples):
    rows = [{"prompt": row["prompt"], "completion": row["text"]} for row in lines(name) if keeps(row["text"])]
    texts = [row for row in lines(examples) if "text" in row]
    for row, text in zip(rows, texts):
        print(json.dumps(row, ensure_ascii=False), json.dumps(text, ensure_ascii=False), sep="\n")


if len(sys.argv) > 1:
    {"prompts": prompts, "rate": rate, "pairs": pairs, "mix": mix}[sys.argv[1]](*sys.argv[2:])
else:
    for line in sys.stdin:
        print(int(keeps(json.loads(line)["completion"])), flush=True)
