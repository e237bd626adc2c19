"""What the scripts of this directory share: a data set that is made in a moment, a run that takes some milliseconds, and the
sweep, which does harm in many ways, looks at what came of it, and counts.

A fault is right if the program went on to the bits of the run that nobody disturbed, or refused with one line and an exit
code; what is neither is harm, printed with the command that repeats it. Only Python's standard library is used.
"""
import argparse
import concurrent.futures
import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading

PROGRAM = os.path.abspath(os.environ.get("TRAIN_GPT2", "train_gpt2"))
TOKENIZE = os.path.abspath(os.environ.get("TOKENIZE", "tokenize"))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "dumb",
               # leaks cannot be looked for under strace
               "ASAN_OPTIONS": "detect_leaks=0:" + os.environ.get("ASAN_OPTIONS", "")}
WENT_ON, REFUSED = "went on", "refused"
MODEL = ["-e", "L1:H1:C8:T8", "-b", "2", "-d", "32"]
TRAIN = [PROGRAM, "train", "-i", "data", *MODEL, "-v", "2", "-m", "1", "-s", "3", "-g", "4", "-o", "run"]


class Harm(Exception):
    """What should not have happened."""


class Result:
    def __init__(self, command, code, out, err):
        self.command, self.code, self.out, self.err = command, code, out, err

    def text(self):
        return f"{shlex.join(self.command)[-300:]}: exit code {self.code}\n{self.out[-500:]}{self.err[-1500:]}"


def run(command, cwd, timeout=120):
    """Exit code None: it did not end."""
    files = [f"{cwd}/.out", f"{cwd}/.err"]  # with names, so that they can be told in what strace says
    with open(files[0], "wb") as out, open(files[1], "wb") as err:
        process = subprocess.Popen(command, cwd=cwd, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = None
    said = [read(file).decode(errors="replace") for file in files]
    return Result(command, code, *said)


def good(result):
    if result.code != 0:
        raise Harm("it should have gone well: " + result.text())
    return result


def refusal(result, *names):
    """That it ended as it may: one line that names one of `names`, and an exit code."""
    lines = [line for line in result.err.splitlines() if not line.startswith(("warning: ", "note: "))]
    if result.code is None:
        raise Harm("it hangs: " + result.text())
    if result.code not in (1, 2):
        raise Harm("it ended neither well nor with an error: " + result.text())
    if len(lines) != 1 or "error: " not in lines[0]:
        raise Harm("it is not one error line: " + result.text())
    if names and not any(name in lines[0] for name in names):
        raise Harm(f"it does not name {' or '.join(names)}: " + result.text())
    return REFUSED


def make_data(cwd, seed=1):
    """cwd/text, and cwd/data with its vocabulary and shards."""
    words = random.Random(seed)
    with open(f"{cwd}/text", "w", encoding="utf-8") as text:
        for i in range(400):
            who, what = words.choice(["the cat", "a dog", "my king", "no man"]), words.choice(["sees", "fears", "finds"])
            text.write(f"{who} {what} {words.choice(['the sea', 'an owl', 'gold', 'me'])}.\n")
            if i % 40 == 39:
                text.write("<|endoftext|>")
    good(run([TOKENIZE, "train", "--threads", "1", "--vocab-size", "280", "-o", "data", "text"], cwd))
    good(run([TOKENIZE, "encode", "--threads", "1", "-o", "data", "text"], cwd))


def checkpoint(cwd, step, output="run"):
    """What a checkpoint holds that must be the same, bit for bit."""
    path = f"{cwd}/{output}/step_{step:08d}"
    try:
        files = {name: read(f"{path}/{name}") for name in os.listdir(path)}
        state = json.loads(files.pop("trainer_state.json"))
    except (OSError, ValueError) as e:
        raise Harm(f"there is no checkpoint of step {step}: {e}") from e
    return files, [state[key] for key in ("step", "optimizer_updates", "next_sample", "loss_window", "norm_window")]


def losses(cwd, output="run"):
    found = {}
    for line in read(f"{cwd}/{output}/log.jsonl").decode().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # a line that could not be written, which was said
            continue
        for key in ("loss", "val_loss"):
            if key in entry and found.setdefault((entry["step"], key), entry[key]) != entry[key]:
                raise Harm(f"log.jsonl has two of {key} of step {entry['step']}")
    return found


def same(what, got, want):
    if got != want:
        where = ""
        if isinstance(got, tuple) and isinstance(got[0], dict):  # a checkpoint
            where = ", in " + ", ".join([name for name in {**got[0], **want[0]} if got[0].get(name) != want[0].get(name)] +
                                        ["trainer_state.json"] * (got[1] != want[1]) + ["log.jsonl"] * (got[2:] != want[2:]))
        raise Harm(f"{what}: other bits than those of the undisturbed run{where}")


def read(path):
    with open(path, "rb") as file:
        return file.read()


def tree(cwd):
    """Files by their names, below cwd."""
    return {os.path.relpath(os.path.join(at, name), cwd): read(os.path.join(at, name))
            for at, _, names in os.walk(cwd) for name in names if name not in (".out", ".err")}


def leftovers(cwd, output="run"):
    """Names in an output directory that are not for ever."""
    wanted = re.compile(r"(step_\d{8}|log\.jsonl|loss\.svg|\.lock|restarts\.log|.*\.aside(\.\d+)?(\.jsonl)?)$")
    return [name for name in os.listdir(f"{cwd}/{output}") if not wanted.match(name)]


def counts(outcomes):
    return ", ".join(f"{n} {what}" for what, n in outcomes.items() if n or what == "harmed")


class Sweep:
    def __init__(self, description, **defaults):
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--count", type=int, metavar="N", help="so many faults of each kind, drawn at random (all)")
        parser.add_argument("--seed", type=int, default=1, help="of what is drawn at random (1)")
        parser.add_argument("--only", default="", metavar="TEXT", help="only faults with this in their names")
        parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many at a time (one for each core)")
        for name, (value, text) in defaults.items():
            parser.add_argument("--" + name, type=int, default=value, metavar="N", help=f"{text} ({value})")
        self.options = parser.parse_args()
        for program in (PROGRAM, TOKENIZE):
            if not os.access(program, os.X_OK):
                sys.exit(f"{program} is not there: call this in a built project, or set TRAIN_GPT2 and TOKENIZE")
        self.base = tempfile.mkdtemp(prefix="faults_")
        self.kinds, self.skipped, self.lock = {}, [], threading.Lock()

    def draw(self, name):
        """Random numbers of one fault: the same with the same --seed, whatever else is swept."""
        return random.Random(f"{self.options.seed} {name}")

    def add(self, kind, name, harm):
        """harm(cwd) does it in an empty directory of its own and returns WENT_ON or REFUSED, or raises Harm."""
        self.kinds.setdefault(kind, []).append((f"{kind}: {name}", harm))

    def skip(self, why):
        self.skipped.append(why)
        print("skipped:", why)

    def attempt(self, name, harm):
        cwd = tempfile.mkdtemp(dir=self.base)
        try:
            return harm(cwd)
        except Harm as e:
            with self.lock:
                print(f"HARM: {name}: {e}\n  again: {sys.executable} {sys.argv[0]} --seed {self.options.seed} "
                      f"--only {shlex.quote(name)}", flush=True)
            return "harmed"
        finally:
            shutil.rmtree(cwd, ignore_errors=True)

    def run(self):
        """Ends the script: status 1 if anything was harmed, 77 if nothing could be tried."""
        total = {WENT_ON: 0, "said": 0, REFUSED: 0, "harmed": 0, "not reached": 0}
        try:
            with concurrent.futures.ThreadPoolExecutor(self.options.jobs) as pool:
                for kind, faults in self.kinds.items():
                    faults = [fault for fault in faults if self.options.only in fault[0]]
                    if self.options.count is not None and self.options.count < len(faults):
                        faults = self.draw(kind).sample(faults, self.options.count)
                    if not faults:
                        continue
                    count = dict.fromkeys(total, 0)
                    for outcome in pool.map(lambda fault: self.attempt(*fault), faults):
                        count[outcome] += 1
                        total[outcome] += 1
                    print(f"{kind}: {len(faults)} faults, " + counts(count), flush=True)
        finally:
            shutil.rmtree(self.base, ignore_errors=True)
        print(f"{sum(total.values())} faults, " + counts(total) +
              (f", {len(self.skipped)} skipped" if self.skipped else ""))
        sys.exit(1 if total["harmed"] else 77 if not sum(total.values()) else 0)


def copy(source, cwd):
    shutil.copytree(source, cwd, symlinks=True, dirs_exist_ok=True)
