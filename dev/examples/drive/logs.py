"""Logs of drivers of mixed quality as examples for pretraining, and the language that they need.

    logs.py --drives N --vocab-size V -o DIR    DIR/logs.jsonl, held_out.jsonl; tokenizer.json and language.json

A line is {"prompt": the scene, "completion": what the driver did in the four seconds from there}.
"""
import argparse
import json
import os

from language import MOVES, Language
from simulator import Mixed, make_scene

HELD_OUT = 1000000  # seeds of scenes that no log has; others begin elsewhere, see stages.py


def log(scene, driver, language):
    """[(prompt, completion)], one for each second from which four are left."""
    s, prompts, words = scene, [], []
    while not s.ended():
        prompts.append(language.prompt(s))
        move = driver.decide(s)
        words.append(language.move(s.ego.v, *move))
        s.move(*move[2:])
    return [(prompt, "".join(words[i:i + MOVES])) for i, prompt in enumerate(prompts) if i + MOVES <= len(words)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--drives", type=int, default=3000)
    parser.add_argument("--vocab-size", type=int, default=2000)
    parser.add_argument("-o", "--output", required=True)
    o = parser.parse_args()
    language = Language(o.vocab_size)
    os.makedirs(o.output, exist_ok=True)
    for name, drives, first in (("logs", o.drives, 0), ("held_out", max(1, o.drives // 20), HELD_OUT)):
        lines = 0
        with open("%s/%s.jsonl" % (o.output, name), "w") as f:
            for i in range(drives):
                for prompt, completion in log(make_scene(first + i), Mixed(first + i), language):
                    f.write(json.dumps({"prompt": prompt, "completion": completion}) + "\n")
                    lines += 1
        print("%s.jsonl: %d drives, %d scenes" % (name, drives, lines))
        language = Language(o.vocab_size, language.known)  # what is held out brings no new words
    language.save(o.output)
    print("the language: room for %d words, %d in use: %d neighbours of %d x %d cells" % (
        o.vocab_size, len(language.words_in_use()), len(language.known), language.gaps, language.speeds))


if __name__ == "__main__":
    main()
