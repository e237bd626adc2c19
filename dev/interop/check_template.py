"""Our templates against transformers: apply_chat_template gives the ids that ./tokenize examples has written.

  python dev/interop/check_template.py data/NAME           (a vocabulary of ours; needs ./tokenize, transformers, jinja2)
  python dev/interop/check_template.py data/NAME --write   and writes test/fixtures/chat_templates.json: what transformers
                                                           makes of each conversation, and what a model would go on from
"""
import json
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

import transformers

OWN = "# of your own\nbegin [it's {bos}]\nuser Q: {content}\\n\ntool\t\\s(\\\\{content})\nassistant A:{content} #}{eos}\\s\n"
CONVERSATIONS = [
    [("user", "Hi"), ("assistant", "Yes?"), ("user", "Bye"), ("assistant", "So soon")],
    [("user", "two\n\nlines, a \"quote\", it's 'one', \\ and {{ braces }} {% if %}"), ("assistant", "\n  white space  \n")],
    [("user", "Grüße, 你好, 👍"), ("assistant", "ok"), ("user", ""), ("assistant", " a space")],
]
SYSTEM = [[("system", " Be brief.\n")] + CONVERSATIONS[0]]
TOOL = [CONVERSATIONS[0][:1] + [("tool", "4")] + CONVERSATIONS[0][1:2]]


def messages(turns):
    return [{"role": role, "content": content} for role, content in turns]


def read_examples(path):
    data = path.read_bytes()
    magic, version = struct.unpack_from("<ii", data)
    assert (magic, version) == (20261126, 1), "not a file of examples"
    count, tokens = struct.unpack_from("<qq", data, 16)
    starts = struct.unpack_from(f"<{count + 1}q", data, 1024)
    ids = struct.unpack_from(f"<{tokens}i", data, 1024 + 8 * (count + 1))
    weights = struct.unpack_from(f"<{tokens}f", data, 1024 + 8 * (count + 1) + 4 * tokens)
    return [(list(ids[a:b]), list(weights[a:b])) for a, b in zip(starts, starts[1:])]


def main():
    vocabulary, write = pathlib.Path(sys.argv[1]), "--write" in sys.argv
    fixture, different = [], 0
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        (directory / "own").write_text(OWN)
        marks = directory / "marks"  # the same vocabulary, with ChatML's marks as tokens
        marks.mkdir()
        for file in ("vocab.json", "merges.txt", "tokenizer_config.json"):
            if (vocabulary / file).exists():
                shutil.copy(vocabulary / file, marks)
        size = max(json.loads((vocabulary / "vocab.json").read_text()).values()) + 1
        (marks / "added_tokens.json").write_text(json.dumps({"<|im_start|>": size, "<|im_end|>": size + 1}))
        for template, words, more in (("plain", vocabulary, SYSTEM), ("chatml", vocabulary, SYSTEM),
                                      ("chatml", marks, SYSTEM), (str(directory / "own"), vocabulary, TOOL)):
            conversations = CONVERSATIONS + more
            lines = directory / "conversations.jsonl"
            lines.write_text("".join(json.dumps({"messages": messages(c)}) + "\n" for c in conversations))
            out = directory / "out"
            shutil.rmtree(out, ignore_errors=True)
            subprocess.run(["./tokenize", "examples", lines, "-e", words, "-o", out, "--template", template], check=True,
                           capture_output=True)
            tokenizer = transformers.AutoTokenizer.from_pretrained(out)
            for turns, (ids, weights) in zip(conversations, read_examples(out / "train.examples"), strict=True):
                theirs = tokenizer.apply_chat_template(messages(turns), tokenize=True, return_dict=False)
                different += theirs != ids
                if theirs != ids:
                    print(f"{template}, {turns}:\n  ours   {ids}\n  theirs {theirs}")
                if words is vocabulary:
                    render = {"template": OWN if "own" in template else template, "turns": turns,
                              "jinja": tokenizer.chat_template,
                              "text": tokenizer.apply_chat_template(messages(turns), tokenize=False),
                              "prompt": tokenizer.apply_chat_template(messages(turns[:-1]), tokenize=False,
                                                                      add_generation_prompt=True)}
                    fixture.append(render)
            marked = sum(id >= size for id in ids)
            print(f"{pathlib.Path(template).name}: {len(conversations)} conversations, {marked} marks in the last one")
    print(f"transformers {transformers.__version__}: {different} of them have other ids")
    if write:
        pathlib.Path("test/fixtures/chat_templates.json").write_text(json.dumps(fixture, indent=1) + "\n")
    sys.exit(different > 0)


main()
