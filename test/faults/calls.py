#!/usr/bin/env python3
"""Lets each file call of each command fail once, with one error after another, and kills the command before each of them.

    test/faults/calls.py [--count N] [--seed N] [--only TEXT]     in a built project; needs strace

A call is known by its name, its path and its number among those, from a run that is only looked at. Right is: the command
goes on to the undisturbed bits, or ends with one line, and afterwards --resume (or, for tokenize, the same command) comes
to these bits and leaves nothing behind.
"""
import os
import re
import shutil

from faults import (PROGRAM, TOKENIZE, TRAIN, WENT_ON, Harm, Sweep, checkpoint, copy, good, leftovers, losses, make_data,
                    refusal, run, same, tree)

ERRORS = {
    "openat": "EACCES EIO EMFILE ENOSPC", "open": "EACCES", "mkdir": "ENOSPC EACCES", "read": "EIO EINTR", "pread64": "EIO",
    "readv": "EIO", "write": "ENOSPC EIO EINTR", "writev": "ENOSPC EIO", "pwrite64": "ENOSPC", "close": "EIO",
    "fsync": "EIO ENOSPC", "fdatasync": "EIO", "ftruncate": "EIO", "fallocate": "ENOSPC", "rename": "EIO EACCES",
    "renameat": "EIO", "renameat2": "EIO", "unlink": "EACCES EIO", "unlinkat": "EACCES EIO", "rmdir": "EACCES",
    "getdents64": "EIO", "newfstatat": "EACCES EIO", "statx": "EACCES", "stat": "EACCES", "fstat": "EIO",
    "lstat": "EACCES", "access": "EACCES", "readlink": "EACCES", "lseek": "EIO", "flock": "ENOLCK", "fcntl": "EMFILE",
    "chmod": "EPERM", "sendfile": "EIO", "copy_file_range": "EIO", "ioctl": "EIO",
}


def strace(options, command, cwd):
    # -D: the tracer is a grandchild, so that the program has the shell's number ($$), and its exit code is seen
    if "signal" not in options:  # which strace does not inject where it stops at the calls of interest alone
        options += " --seccomp-bpf"
    return run(["sh", "-c", f"exec strace -D -f --quiet=all {options} \"$@\"", "sh", *command], cwd)


def calls_of(command, cwd, by_path):
    """All file calls of a command but the loader's: (name, path, number). strace counts the calls of each thread: what several
    do is numbered among those of a name and a path, so that those of one file are found whoever makes them."""
    names = ",".join("?" + name for name in ERRORS)
    # the tracer may write on after the program's end
    good(strace(f"-y -e trace={names},exit_group -o trace", command, cwd))
    here, lines = os.path.realpath(cwd) + "/", []
    while not any("exit_group(" in line for line in lines):
        with open(f"{cwd}/trace", encoding="utf-8", errors="replace") as trace:
            lines = trace.readlines()
    calls, of_path, of_name = {}, {}, {}
    for line in lines:
        match = re.match(r"(\d+) +(\w+)\((.*)", line)
        if not match or match[2] not in ERRORS:
            continue
        thread, name, rest = match[1], match[2], re.sub(r"AT_FDCWD<[^>]*>", "AT_FDCWD", match[3])
        path = re.search(r'\d+<([^>]*)>|"([^"]*)"', rest)
        path = (path[1] or path[2] or "") if path else ""
        of_name[name] = of_name.get(name, 0) + 1
        if re.match(r"/(usr|lib|lib64|etc|dev)\b|[a-z_]+:|$", path) or ".so" in path or here.startswith(path + "/"):
            continue
        path = re.sub(r"(\.tmp_step_\d+\.(deleted\.)?)\d+", r"\1$$", path[len(here):] if path.startswith(here) else path)
        of_path[thread, name, path] = of_path.get((thread, name, path), 0) + 1
        calls[name, path, of_path[thread, name, path] if by_path else of_name[name]] = True
    return list(calls)


class Command:
    """A command to disturb. made: what it needs, made once. again: what brings all in order after it has failed."""

    def __init__(self, sweep, name, command, prepare, look, again=None, threads=False):
        self.command, self.look, self.again, self.threads = command, look, again, threads
        self.made = f"{sweep.base}/{name.replace(' ', '_')}"
        os.mkdir(self.made)
        prepare(self.made)
        whole = f"{sweep.base}/whole"
        copy(self.made, whole)
        result = good(run(command, whole))
        self.wanted = look(whole, result)
        shutil.rmtree(whole)
        copy(self.made, whole)
        for call in calls_of(command, whole, threads):
            label = f"{call[0]} {call[1]} {call[2]}"
            for error in ERRORS[call[0]].split():
                sweep.add(f"failing calls of {name}", f"{label} {error}", self.disturbance(call, f"error={error}"))
            if again:
                sweep.add(f"kills before calls of {name}", f"{label}.", self.disturbance(call, "signal=KILL"))
        shutil.rmtree(whole)

    def disturbance(self, call, how):
        name, path, number = call

        def harm(cwd):
            copy(self.made, cwd)
            if self.threads:
                paths = {path, path if path.startswith("/") else f"{os.path.realpath(cwd)}/{path}"}
                options = " ".join(f'-P "{p}"' for p in paths)
            else:
                options = ""
            options += f" -e inject={name}:{how}:when={number}"
            result = strace(f"-o .trace -e trace={name} {options}", self.command, cwd)
            os.remove(f"{cwd}/.trace")
            lost = "log.jsonl: cannot be written" in result.err  # a line of the log, which comes last
            wanted = self.wanted[:-1] if lost else self.wanted

            def compare(what, came):
                same(what, came[:-1] if lost else came, wanted)
            if how != "signal=KILL":
                outcome = WENT_ON if result.code == 0 else refusal(result)
                if outcome == WENT_ON:
                    compare("it", self.look(cwd, result))
            else:
                outcome = "not reached" if result.code == 0 else WENT_ON
                if result.code not in (0, -9, 137):
                    raise Harm(result.text())
            if self.again:
                good(run(self.again, cwd))
                compare("afterwards it", self.look(cwd, None))
            return outcome
        return harm


def look_at_run(step, output="run"):
    def look(cwd, result):
        left = leftovers(cwd, output)
        if left and result is None:  # after a warning the next start clears it
            raise Harm(f"{left} are left behind")
        return *checkpoint(cwd, step, output), losses(cwd, output)
    return look


def main():
    sweep = Sweep(__doc__)
    if not shutil.which("strace") or strace("-o .trace", ["true"], sweep.base).code != 0:
        sweep.skip("strace is missing, or may not trace here")
        sweep.run()
    made = f"{sweep.base}/made"
    os.mkdir(made)
    make_data(made)
    train = [*TRAIN, "-x", "4", "-n", "2", "-nk", "1"]
    good(run([*TRAIN, "-x", "4", "-n", "2"], made))

    def data(cwd):
        for name in ("text", "data"):
            (shutil.copytree if name == "data" else shutil.copy)(f"{made}/{name}", f"{cwd}/{name}")

    def half(cwd):
        copy(made, cwd)
        shutil.rmtree(f"{cwd}/run/step_00000004")

    def said(_, result):
        return result.out

    Command(sweep, "train", train, data, look_at_run(4), [*train, "--resume"], threads=True)
    Command(sweep, "resume", [*train, "--resume"], half, look_at_run(4), [*train, "--resume"], threads=True)
    tune = [PROGRAM, "finetune", "-e", "run", "-i", "data", "-b", "2", "-d", "32", "-x", "2", "-n", "1", "-o", "tuned"]
    Command(sweep, "finetune", tune, lambda cwd: copy(made, cwd), look_at_run(2, "tuned"), [*tune, "--resume"], threads=True)
    Command(sweep, "eval", [PROGRAM, "eval", "-e", "run", "-j", "data"], lambda cwd: copy(made, cwd), said)
    Command(sweep, "sample", [PROGRAM, "sample", "-e", "run", "--prompt", "a dog", "--max-tokens", "8"],
            lambda cwd: copy(made, cwd), said)

    def other_data(cwd):
        data(cwd)
        shutil.copy(f"{cwd}/text", f"{cwd}/more")
        with open(f"{cwd}/more", "a", encoding="utf-8") as text:
            text.write("<|endoftext|>And more.\n" * 20)

    def look_at_data(output):
        def look(cwd, result):
            if result is None and any(".tokenize-" in name for name in os.listdir(cwd) + os.listdir(f"{cwd}/{output}")):
                raise Harm(f"left behind: {os.listdir(cwd)} {os.listdir(f'{cwd}/{output}')}")
            return {name: text for name, text in tree(f"{cwd}/{output}").items() if ".tokenize-" not in name}
        return look

    tokenize = [TOKENIZE, "train", "--threads", "1", "--vocab-size", "270", "-o", "new", "text"]
    Command(sweep, "tokenize train", tokenize, data, look_at_data("new"), [*tokenize, "--force"])
    encode = [TOKENIZE, "encode", "--threads", "1", "--vocab", "data", "--shard-tokens", "1000", "-o"]
    Command(sweep, "tokenize encode", [*encode, "new", "text"], data, look_at_data("new"), [*encode, "new", "text", "--force"])
    again = [*encode, "data", "--force", "more"]
    Command(sweep, "tokenize encode --force", again, other_data, look_at_data("data"), again)
    Command(sweep, "tokenize decode", [TOKENIZE, "decode", "data"], data, said)
    sweep.run()


main()
