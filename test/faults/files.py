#!/usr/bin/env python3
"""Flips bits in every file of a checkpoint, and damages the files of checkpoints, data sets and runs in every other way.

    test/faults/files.py [--count N] [--seed N] [--only TEXT] [--flips N]     in a built project

Right is: a line that names the file and what to do; or the bits of the undisturbed run, as --fall-back comes to by way of
the older checkpoint; or, of a file that its user may have changed, a note that names it. Never other bits without a word,
a signal or a process that waits for ever.
"""
import os
import random
import re
import shutil

from faults import (PROGRAM, REFUSED, TOKENIZE, TRAIN, WENT_ON, Harm, Sweep, checkpoint, copy, good, make_data, read, refusal,
                    run, same, tree)

RUN = [*TRAIN, "-x", "6", "-n", "2", "-nk", "3"]
NEWEST = "run/step_00000004"


def write(path, text):
    with open(path, "wb") as file:
        file.write(text)


def gone(path):
    os.remove(path)


def empty(path):
    write(path, b"")


def truncated(path):
    write(path, read(path)[:os.path.getsize(path) // 2])


def longer(path):
    write(path, read(path) + b"\0" * 7)


def garbage(path):
    write(path, random.Random(path[-20:]).randbytes(max(100, os.path.getsize(path))))


def directory(path):
    os.remove(path)
    os.mkdir(path)


def link_loop(path):
    os.remove(path)
    os.symlink(os.path.basename(path), path)


def link_to_nothing(path):
    os.remove(path)
    os.symlink("nothing/here", path)


def fifo(path):
    os.remove(path)
    os.mkfifo(path)


DAMAGES = [gone, empty, truncated, longer, garbage, directory, link_loop, link_to_nothing, fifo]


class Commands:
    """What is done with damaged files, and what it came to where nothing was damaged."""

    def __init__(self, made):
        self.made = made
        flags = ["-b", "2", "-d", "32"]
        encode = [TOKENIZE, "encode", "--threads", "1", "--vocab", "data", "-o", "new", "text"]
        self.all = {
            "resume": ([*RUN, "--resume"], lambda cwd, _: checkpoint(cwd, 6)),
            "resume --fall-back": ([*RUN, "--resume", "--fall-back"], lambda cwd, _: checkpoint(cwd, 6)),
            "eval": ([PROGRAM, "eval", "-e", "run", "-j", "data"], self.said),
            "sample": ([PROGRAM, "sample", "-e", "run", "--prompt", "a dog", "--max-tokens", "8"], self.said),
            "finetune": ([PROGRAM, "finetune", "-e", "run", "-i", "data", *flags, "-x", "1", "-o", "tuned"],
                         lambda cwd, _: checkpoint(cwd, 1, "tuned")),
            "train": ([*RUN[:-6], "-x", "2", "-o", "fresh"], lambda cwd, _: checkpoint(cwd, 2, "fresh")),
            "tokenize encode": (encode, lambda cwd, _: tree(f"{cwd}/new")),
            "tokenize decode": ([TOKENIZE, "decode", "data"], self.said),
        }
        self.wanted = {}
        for name, (command, look) in self.all.items():
            cwd = f"{made}_{name.replace(' ', '_')}"
            copy(made, cwd)
            self.wanted[name] = look(cwd, good(run(command, cwd)))
            shutil.rmtree(cwd)

    @staticmethod
    def said(_, result):
        return result.out

    def harm(self, name, path, damage):
        def harm(cwd):
            copy(self.made, cwd)
            damage(f"{cwd}/{path}")
            command, look = self.all[name]
            before = os.listdir(f"{cwd}/run")
            result = run(command, cwd, timeout=30)
            names = {os.path.basename(path), os.path.basename(os.path.dirname(path)), re.sub(r"\d+", "*", os.path.basename(path))}
            names.discard("data")
            if result.code != 0:
                if name == "resume --fall-back" and path.startswith(NEWEST):
                    raise Harm("it did not fall back: " + result.text())
                refusal(result, *names)
                if set(before) - set(os.listdir(f"{cwd}/run")):
                    raise Harm(f"the run had {before}, and now {os.listdir(f'{cwd}/run')}")
                return REFUSED
            lines = (result.out + result.err).splitlines()
            if any(line.startswith(("note: ", "warning: ")) and any(n in line for n in names) for line in lines) and \
                    not name.startswith("resume"):
                return "said"
            same("it", look(cwd, result), self.wanted[name])
            return WENT_ON
        return harm


def flip(bit):
    def damage(path):
        text = bytearray(read(path))
        text[bit // 8] ^= 1 << bit % 8
        write(path, text)
    return damage


def main():
    sweep = Sweep(__doc__, flips=(20, "bits of each file, for each command"))
    made = f"{sweep.base}/made"
    os.mkdir(made)
    make_data(made)
    good(run(RUN, made))
    shutil.rmtree(f"{made}/run/step_00000006")
    commands = Commands(made)
    of_checkpoints = ["resume", "resume --fall-back", "eval", "sample", "finetune"]
    for name in of_checkpoints:
        for file in sorted(os.listdir(f"{made}/{NEWEST}")):
            path = f"{NEWEST}/{file}"
            bits = sweep.draw(name + file)
            for bit in sorted(bits.randrange(8 * os.path.getsize(f"{made}/{path}")) for _ in range(sweep.options.flips)):
                sweep.add("flipped bits", f"{name}, {path}, bit {bit}.", commands.harm(name, path, flip(bit)))

    def damage(kind, names, paths):
        for name in names:
            for path in paths:
                for how in DAMAGES:
                    sweep.add(f"damaged {kind}", f"{name}, {path}, {how.__name__}.", commands.harm(name, path, how))

    damage("checkpoints", of_checkpoints, [f"{NEWEST}/{file}" for file in sorted(os.listdir(f"{made}/{NEWEST}"))])
    damage("data sets", ["train", "resume", "eval", "finetune", "tokenize decode"],
           ["data/train_000000.bin", "data/val_000000.bin", "data/vocab.json", "data/merges.txt"])
    damage("vocabularies", ["tokenize encode"], ["data/vocab.json", "data/merges.txt"])
    damage("logs", ["resume", "resume --fall-back"], ["run/log.jsonl", "run/loss.svg", "run/.lock"])
    sweep.run()


main()
