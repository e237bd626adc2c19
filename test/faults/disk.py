#!/usr/bin/env python3
"""Trains and encodes on disks that become full, of every size from nothing to what is needed.

    test/faults/disk.py [--count N] [--seed N] [--only TEXT] [--step N]     in a built project

A disk has so many bytes, or so many files (a tmpfs in a mount namespace of its own, which needs root); without root, no file
may be larger than so many bytes (ulimit -f). Right is: training goes on with a warning to the undisturbed bits, or ends with
one line; afterwards, with room, --resume comes to these bits and leaves nothing behind.
"""
import os
import shutil

from faults import (TOKENIZE, TRAIN, WENT_ON, Harm, Result, Sweep, checkpoint, copy, good, leftovers, losses, make_data, read,
                    refusal, run, same, tree)

# $1: options of the disk; then the command on it, and the same, with another word, on a larger one
ON_TMPFS = """mkdir disk && mount -t tmpfs -o "$1" none disk && cd disk && cp -r ../data ../text . || exit 99
shift 2; "$@" >../out 2>../err; echo $? >../code
mount -o "remount,size=64m,nr_inodes=1000" . || exit 99
"$@" $AGAIN >../out2 2>../err2; echo $? >../code2; cp -r . ../kept"""
BELOW_LIMIT = """mkdir disk && cd disk && cp -r ../data ../text . || exit 99
limit=$2; shift 2; (ulimit -f $limit && exec "$@") >../out 2>../err; echo $? >../code
"$@" $AGAIN >../out2 2>../err2; echo $? >../code2; cp -r . ../kept"""


def disturb(cwd, made, disk, limit, command, again):
    for name in ("data", "text"):
        (shutil.copytree if name == "data" else shutil.copy)(f"{made}/{name}", f"{cwd}/{name}")
    script = ["bash", "-c", f"AGAIN={again}\n" + (ON_TMPFS if disk else BELOW_LIMIT), "sh", disk, str(limit), *command]
    good(run((["unshare", "-m"] if disk else []) + script, cwd))
    return [Result(command, int(read(f"{cwd}/code{n}")), read(f"{cwd}/out{n}").decode(), read(f"{cwd}/err{n}").decode())
            for n in ("", "2")]


def main():
    sweep = Sweep(__doc__, step=(4, "kB between the sizes that are tried"))
    made = f"{sweep.base}/made"
    os.mkdir(made)
    make_data(made)
    train = [*TRAIN, "-x", "4", "-n", "2", "-nk", "1"]
    encode = [TOKENIZE, "encode", "--threads", "1", "--vocab", "data", "-o", "new", "text"]
    whole = f"{sweep.base}/whole"
    copy(made, whole)
    good(run(train, whole))
    good(run(encode, whole))
    wanted, known, encoded = checkpoint(whole, 4), losses(whole), tree(f"{whole}/new")

    def training(disk, limit):
        def harm(cwd):
            first, second = disturb(cwd, made, disk, limit, train, "--resume")
            outcome = WENT_ON if first.code == 0 else refusal(first)
            good(second)
            same("the checkpoint", checkpoint(f"{cwd}/kept", 4), wanted)
            if any(known[key] != value for key, value in losses(f"{cwd}/kept").items()):
                raise Harm("log.jsonl has other losses")
            if leftovers(f"{cwd}/kept"):
                raise Harm(f"{leftovers(f'{cwd}/kept')} are left behind")
            return outcome
        return harm

    def encoding(disk, limit):
        def harm(cwd):
            first, second = disturb(cwd, made, disk, limit, encode, "--force")
            outcome = WENT_ON if first.code == 0 else refusal(first)
            good(second)
            same("the data set", tree(f"{cwd}/kept/new"), encoded)
            return outcome
        return harm

    in_use = sum(-(-len(text) // 4096) * 4 for text in tree(made).values())
    if run(["unshare", "-m", "mount", "-t", "tmpfs", "none", made + "/data"], made).code == 0:
        for size in range(in_use + 4, in_use + 280, sweep.options.step):
            sweep.add("disks with little room: train", f"{size} kB.", training(f"size={size}k", 0))
        for files in range(12, 45):
            sweep.add("disks with few files: train", f"{files} files.", training(f"size=8m,nr_inodes={files}", 0))
        for size in range(in_use + 4, in_use + 60, sweep.options.step):
            sweep.add("disks with little room: tokenize encode", f"{size} kB.", encoding(f"size={size}k", 0))
        for files in range(12, 30):
            sweep.add("disks with few files: tokenize encode", f"{files} files.", encoding(f"size=8m,nr_inodes={files}", 0))
    else:
        sweep.skip("disks that are full: a tmpfs cannot be mounted here (root may)")
    for limit in range(1, 60, max(1, sweep.options.step // 2)):
        sweep.add("files that may not grow: train", f"{limit} kB.", training("", limit))
    for limit in range(1, 12):
        sweep.add("files that may not grow: tokenize encode", f"{limit} kB.", encoding("", limit))
    sweep.run()


main()
