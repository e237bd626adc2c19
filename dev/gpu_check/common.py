"""What the parts of gpu_check.py share: the options, commands with a time limit, the paths of programs, checks and the report."""
import argparse
import atexit
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

REPO = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HERE = "dev/gpu_check"
WORK = "build/gpu_check"  # scratch: shards, runs
LOSSES = HERE + "/cpu_losses.json"
# Part: (seconds kept for it while the parts before it run, the most it may take). What is built takes its own time, not that
# of --minutes: first (build) the programs, with which a whole run is compared and timed; the tests and bench_cuda, which are most of the
# work, are compiled meanwhile, and waited for (rest) when nothing else is left to do.
TIMES = {"environment": (5, 20), "build": (0, 600), "training": (60, 110), "throughput": (30, 60), "rest": (0, 1200),
         "tests": (60, 240), "sanitizer": (45, 80), "speed": (85, 150), "counters": (30, 120), "ranks": (30, 60),
         "pytorch": (60, 118)}
BUILDS = ("build", "rest")


def parse():
    p = argparse.ArgumentParser(prog="dev/gpu_check.sh", description="Checks and measures the CUDA program on this machine's GPU.")
    p.add_argument("--output", help="directory of the report [$OUT, else dev/reports/gpu_<name>_<date>]")
    p.add_argument("--minutes", type=float, default=8, help="for everything but the build; with more, each part may "
                   "take longer, too [8]")
    p.add_argument("--parts", default=",".join(TIMES), help="only these, in order: " + ", ".join(TIMES))
    p.add_argument("--python", help="a Python that has PyTorch [the one that runs this, else python3]")
    p.add_argument("--dry", action="store_true", help="try this script itself where there is no GPU: tiny sizes and stand-ins "
                   "(build/train_gpt2cu_cpu or ./train_gpt2 as the program); says nothing about a GPU")
    p.add_argument("--record", action="store_true", help="run ./train_gpt2 and write " + LOSSES)
    return p.parse_args()


O = parse()
BEGIN = time.time()
not_counted = 0.0  # seconds of the build


def left():
    return 60 * O.minutes - (time.time() - BEGIN - not_counted)


def read(path):
    try:
        with open(path) as f:
            return f.read().strip()
    except OSError:
        return ""


# ---- commands ----

class Result:
    def __init__(self, code, text, seconds, timed_out):
        self.code, self.text, self.seconds, self.timed_out = code, text, seconds, timed_out

    def why(self):
        """Why it did not end with 0, in a line."""
        if self.timed_out:
            return f"no end after {self.seconds:.0f} s"
        lines = [line.strip() for line in self.text.splitlines() if line.strip()]
        compiler = [line for line in lines if re.search(r"\berror:", line)][:1]  # the first says what is wrong
        errors = [line for line in lines if re.search(r"error|fatal|cannot|failed|refused", line, re.I)]
        return f"exit status {self.code}: " + (compiler or errors or lines or ["no output"])[-1][:300]


log = None


def run(command, limit, env=None, stdout_file=None):
    """Runs a command for at most `limit` seconds, then ends it and all it started. Output goes to the log, too."""
    begin = time.time()
    if log:
        log.write(f"\n$ {' '.join(command)}    # at most {limit:.0f} s\n")
        log.flush()
    try:
        p = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
                             errors="replace", start_new_session=True, env={**os.environ, **(env or {})})
    except OSError as e:
        return Result(127, f"{command[0]}: {e.strerror}", 0, False)
    timed_out = False
    try:
        text, _ = p.communicate(timeout=max(1, limit))
    except subprocess.TimeoutExpired:
        timed_out = True
        os.killpg(p.pid, signal.SIGTERM)
        try:
            text, _ = p.communicate(timeout=3)
        except subprocess.TimeoutExpired:
            os.killpg(p.pid, signal.SIGKILL)
            text, _ = p.communicate()
    except BaseException:  # this script is interrupted: what it started ends, too
        os.killpg(p.pid, signal.SIGKILL)
        raise
    seconds = time.time() - begin
    if log:
        log.write(text[-200000:] + f"\n# {'ended, out of time' if timed_out else f'exit status {p.returncode}'}, {seconds:.1f} s\n")
        log.flush()
    return Result(p.returncode, text, seconds, timed_out)


class Background:
    """A command that runs beside others until it is waited for."""
    def __init__(self, command):
        self.command, self.begin = command, time.time()
        self.output = open(f"{WORK}/background.txt", "w+")
        self.process = subprocess.Popen(command, stdout=self.output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                        start_new_session=True)
        atexit.register(self.end)

    def wait(self, limit):
        """At most so many seconds from now, then it is ended, and all it started."""
        timed_out = False
        try:
            self.process.wait(max(1, limit))
        except subprocess.TimeoutExpired:
            timed_out = True
            self.end()
        seconds = time.time() - self.begin
        self.output.seek(0)
        text = self.output.read()
        if log:
            log.write(f"\n$ {' '.join(self.command)}    # beside what is above\n{text[-200000:]}\n# "
                      f"{'ended, out of time' if timed_out else f'exit status {self.process.returncode}'}, {seconds:.1f} s\n")
            log.flush()
        return Result(self.process.returncode, text, seconds, timed_out)

    def end(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


# ---- the report ----

PASSED, FAILED, NOT_RUN = "passed", "failed", "not run"
report = {"environment": {}, "parts": [], "marks": [], "where_the_time_is": []}


class Part:
    def __init__(self, name, limit):
        self.name, self.begin, self.end = name, time.time(), time.time() + limit
        self.checks, self.text, self.seconds = [], [], 0.0

    def left(self):
        return self.end - time.time()

    def check(self, name, status, detail=""):
        self.checks.append({"check": name, "status": status, "detail": detail})
        print(f"  {status:8} {name}{': ' if detail else ''}{detail}", flush=True)

    def status(self):
        all_of = [c["status"] for c in self.checks]
        return FAILED if FAILED in all_of else PASSED if PASSED in all_of else NOT_RUN

    def as_json(self):
        return {"part": self.name, "status": self.status(), "seconds": round(self.seconds, 1), "checks": self.checks}


def write_report(parts, running=None):
    report["parts"] = [p.as_json() for p in parts]
    report["seconds"] = round(time.time() - BEGIN, 1)
    with open(O.output + "/report.json", "w") as f:
        json.dump(report, f, indent=1)
        f.write("\n")
    e = report["environment"]
    lines = [f"# GPU check: {e.get('gpu') or 'no GPU'}, {e.get('date')}", ""]
    if O.dry:
        lines += ["**Dry run with stand-ins on a CPU: this tries the script and says nothing about a GPU.**", ""]
    lines += ["| | |", "|---|---|"] + [f"| {k} | {v} |" for k, v in e.items()] + [""]
    lines += ["| part | status | seconds | not run |", "|---|---|---|---|"]
    for p, j in zip(parts, report["parts"]):
        missing = sum(c["status"] == NOT_RUN for c in p.checks)
        lines.append(f"| {p.name} | {p.status()} | {j['seconds']:.0f} | {f'{missing} of {len(p.checks)}' if missing else ''} |")
    if running:
        lines.append(f"| {running} | (running, or the check was cut off here) | | |")
    lines.append("")
    if report["marks"]:
        lines += ["## Marks", "", "| mark | asked | measured | |", "|---|---|---|---|"]
        lines += [f"| {m['mark']} | {m['asked']} | {m['measured']} | **{m['status']}** |" for m in report["marks"]] + [""]
        lines += [f"- {line}" for line in report["where_the_time_is"]] + [""]
    for p in parts:
        lines += [f"## {p.name.capitalize()}", "", "| check | status | |", "|---|---|---|"]
        lines += [f"| {c['check']} | {c['status']} | {c['detail'].replace('|', '/')} |" for c in p.checks]
        lines += [""] + p.text + [""]
    with open(O.output + "/report.md", "w") as f:
        f.write("\n".join(lines).rstrip() + "\n")


# ---- where things are ----

def programs():
    """The programs under test; in a dry run, stand-ins that run on a CPU."""
    if not O.dry:
        return {"train_gpt2cu": "./train_gpt2cu", "train_gpt2": "./train_gpt2", "tests": "build/test/cuda/run_tests",
                "bench": "build/bench_cuda"}
    found = {"train_gpt2": "./train_gpt2", "tests": "build/test/run_cuda_tests", "bench": "build/bench_cuda_cpu"}
    found["train_gpt2cu"] = "build/train_gpt2cu_cpu" if os.access("build/train_gpt2cu_cpu", os.X_OK) else "./train_gpt2"
    return found


def there(part, check, *names):
    """The paths of programs; None, and the check has not run, if one is missing."""
    paths = [programs()[n] for n in names]
    for path in paths:
        if not os.access(path, os.X_OK):
            part.check(check, NOT_RUN, f"{path} was not built")
            return None
    return paths


def find_program(name):
    roots = [os.environ.get("CUDA_HOME", ""), "/usr/local/cuda"] + sorted(glob.glob("/usr/local/cuda-*"), reverse=True)
    roots += [p + "/nvidia/*" for p in sys.path if p.endswith("-packages")] + [".deps/python/nvidia/*"]
    roots += ["/opt/nvidia/*/*", "/opt/nvidia/*"]
    candidates = [shutil.which(name)]
    for root in filter(None, roots):
        for under in ("bin", "compute-sanitizer", "."):
            candidates += sorted(glob.glob(f"{root}/{under}/{name}"), reverse=True)
    return next((c for c in candidates if c and os.path.isfile(c) and os.access(c, os.X_OK)), None)
