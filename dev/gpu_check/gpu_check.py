"""The parts of dev/gpu_check.sh, in order, each limited in time, and the report, which is rewritten after each part.

A part is a list of checks. A check has passed, failed, or did not run, and then says why: nothing that is missing, refused
or out of time counts as passed. Speed is reported beside marks, which are met, missed, or not measured; a missed mark is no
failure.
"""
import argparse
import array
import datetime
import glob
import json
import os
import platform
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
# Part: (seconds kept for it while the parts before it run, the most it may take)
TIMES = {"environment": (5, 20), "build": (120, 200), "tests": (45, 120), "training": (60, 110), "ranks": (30, 60),
         "sanitizer": (45, 80), "speed": (85, 150), "pytorch": (60, 118)}
FP32_TOLERANCE, BF16_TOLERANCE = 1e-4, 2e-2
# The 124M run that is compared with the CPU program: two micro-steps of two sequences.
STEPS, SEQUENCE, MICRO_BATCH, TOKENS = 10, 64, 2, 256


def parse():
    p = argparse.ArgumentParser(prog="dev/gpu_check.sh", description="Checks and measures the CUDA program on this machine's GPU.")
    p.add_argument("--output", help="directory of the report [$OUT, else dev/reports/gpu_<name>_<date>]")
    p.add_argument("--minutes", type=float, default=8, help="for everything together; with more, each part may take "
                   "longer, too [8]")
    p.add_argument("--parts", default=",".join(TIMES), help="only these, in order: " + ", ".join(TIMES))
    p.add_argument("--python", help="a Python that has PyTorch [the one that runs this, else python3]")
    p.add_argument("--dry", action="store_true", help="try this script itself where there is no GPU: tiny sizes and stand-ins "
                   "(build/train_gpt2cu_cpu or ./train_gpt2 as the program); says nothing about a GPU")
    p.add_argument("--record", action="store_true", help="run ./train_gpt2 and write " + LOSSES)
    return p.parse_args()


O = parse()
BEGIN = time.time()


def left():
    return 60 * O.minutes - (time.time() - BEGIN)


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


# ---- 1: environment, build ----

def environment(part):
    e = report["environment"]
    e["date"] = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    commit = run(["git", "rev-parse", "HEAD"], 5)
    dirty = run(["git", "status", "--porcelain", "--untracked-files=no"], 5)
    if commit.code == 0:
        e["commit"] = commit.text.strip() + (", with changes that are not committed" if dirty.text.strip() else "")
    else:
        e["commit"] = (read(".gpu_pack/COMMIT") or "unknown") + " (as given by .gpu_pack)"
    smi = run(["nvidia-smi", "--query-gpu=name,driver_version,compute_cap,memory.total,clocks.max.sm,clocks.max.mem,power.limit",
               "--format=csv,noheader"], 15)
    fields = [f.strip() for f in smi.text.strip().splitlines()[0].split(",")] if smi.code == 0 and smi.text.strip() else []
    if len(fields) >= 4:
        e["gpu"], e["driver"], e["capability"], e["memory"] = fields[:4]
        e["clocks"] = f"SM at most {fields[4]}, memory {fields[5]}, power limit {fields[6]}" if len(fields) >= 7 else ""
        part.check("GPU", PASSED, f"{e['gpu']}, capability {e['capability']}, driver {e['driver']}")
    else:
        e["gpu"] = None
        part.check("GPU", NOT_RUN, "none found: nvidia-smi " + (smi.why() if smi.code else "named none"))
    nvcc = find_program("nvcc")
    version = re.search(r"release ([\d.]+), V([\d.]+)", run([nvcc, "--version"], 10).text) if nvcc else None
    e["nvcc"] = f"{version.group(2)} ({nvcc})" if version else "none found"
    e["compiler"] = run([os.environ.get("CXX", "g++"), "--version"], 10).text.splitlines()[0]
    cpu = re.search(r"model name\s*: (.*)", read("/proc/cpuinfo"))
    e["processor"] = f"{cpu.group(1) if cpu else platform.machine()}, {os.cpu_count()} cores"
    e["system"] = platform.platform()
    part.check("nvcc", PASSED if version else NOT_RUN, e["nvcc"])


def build(part):
    pack_gtest(part)
    jobs = os.cpu_count() or 1
    begin = {n: os.path.getmtime(p) if os.path.exists(p) else 0 for n, p in programs().items()}
    r = run(["make", f"-j{jobs}", "-k", "build_gpu_check"], part.left())
    for line in re.findall(r"^found: .*|^missing: .*", r.text, re.M):
        part.text.append(f"- {line}")
    up_to_date = r.code == 0 and not r.timed_out
    for name, path in programs().items():
        exists = os.access(path, os.X_OK)
        if up_to_date and exists:
            part.check(path, PASSED, f"all built in {r.seconds:.0f} s" if name == "train_gpt2cu" else "")
        elif exists and os.path.getmtime(path) > begin[name]:
            part.check(path, PASSED)
        else:
            if exists:
                os.remove(path)  # not of these sources: nothing may be measured with it
            part.check(path, NOT_RUN if r.timed_out else FAILED, r.why())


def pack_gtest(part):
    """GoogleTest's library from its sources, where the packed one is for another processor."""
    if not os.path.isdir(".gpu_pack/googletest") or (read(".gpu_pack/MACHINE") == platform.machine() and
                                                      os.path.exists(".gpu_pack/usr/lib/libgtest.a")):
        return
    cxx, base = os.environ.get("CXX", "g++"), ".gpu_pack/usr/lib/"
    ok = True
    for source, library in (("gtest-all.cc", "libgtest.a"), ("gtest_main.cc", "libgtest_main.a")):
        if os.path.exists(base + library):
            os.remove(base + library)
        obj = base + source + ".o"
        ok = ok and run([cxx, "-std=c++17", "-O1", "-I.gpu_pack/usr/include", "-I.gpu_pack/googletest", "-c", "-o", obj,
                         ".gpu_pack/googletest/src/" + source], part.left()).code == 0
        ok = ok and run(["ar", "rcs", base + library, obj], 20).code == 0
    part.check("GoogleTest from its sources", PASSED if ok else FAILED)


# ---- 2: tests ----

def tests(part):
    paths = there(part, "GoogleTest suites", "tests", "train_gpt2cu", "train_gpt2")
    if not paths:
        return
    r = run(["bash", "dev/run_tests.sh", paths[0]], part.left(),
            {"JOBS": "2" if O.dry else "1", "TEST_TIMEOUT": str(int(max(10, part.left() - 5))),
             "TRAIN_GPT2CU": os.path.abspath(paths[1]), "TRAIN_GPT2": os.path.abspath(paths[2])})
    last = re.findall(r"^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$", r.text, re.M)
    if r.timed_out:
        part.check("GoogleTest suites", NOT_RUN, r.why())
    elif not last:
        part.check("GoogleTest suites", FAILED, r.why())
    else:
        passed, failed, skipped = (int(n or 0) for n in last[-1])
        timeouts = len(re.findall(r"^failed: .*\(no end after", r.text, re.M))
        part.check("GoogleTest suites", FAILED if failed > timeouts or r.code != 0 and not timeouts or not passed else PASSED,
                   f"{passed} passed, {failed} failed, {skipped} skipped, {r.seconds:.0f} s")
        for line in re.findall(r"^failed: .*", r.text, re.M):
            out_of_time = "(no end after" in line
            part.check(line[8:], NOT_RUN if out_of_time else FAILED, "out of time" if out_of_time else "")
        for line in re.findall(r"^skipped: .*", r.text, re.M):
            part.check(line[9:].split(":")[0], NOT_RUN, line[9:].partition(": ")[2])


# ---- 3: training ----

def write_shard(path, vocabulary, count, version=1):
    """A token shard in llm.c's format (256 int32, then uint16): words that follow one another by a rule, and noise, so that
    there is something to learn. The same on every machine."""
    state, tokens, previous = 12345, array.array("H"), 0

    def random():
        nonlocal state
        state = (state * 6364136223846793005 + 1442695040888963407) % 2 ** 64
        return state >> 33
    for _ in range(count):
        small = random() % 97 * (random() % 7)
        previous = (previous * 31 + 17) % 1009 if random() % 4 else small
        tokens.append(previous % vocabulary)
    header = array.array("i", [20240520, version, count] + [0] * 253)
    with open(path, "wb") as f:
        header.tofile(f)
        tokens.tofile(f)


def write_byte_vocabulary(directory):
    """GPT-2's 256 byte tokens and <|endoftext|>, no merges: a vocabulary of 257 for tiny models."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    names = [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]
    vocabulary = {name: i for i, name in enumerate(names + ["<|endoftext|>"])}
    with open(directory + "/vocab.json", "w") as f:
        json.dump(vocabulary, f)
    with open(directory + "/merges.txt", "w") as f:
        f.write("#version: 0.2\n")


def make_data():
    for name, vocabulary, count in (("gpt2", 50257, 20000), ("tiny", 257, 20000)):
        directory = f"{WORK}/{name}"
        os.makedirs(directory, exist_ok=True)
        write_shard(directory + "/train_000000.bin", vocabulary, count)
        if name == "tiny":
            write_byte_vocabulary(directory)


def steps_of(directory):
    """step -> (loss, norm) of a run's log."""
    found = {}
    for line in read(directory + "/log.jsonl").splitlines():
        entry = json.loads(line)
        if "loss" in entry:
            found[entry["step"]] = (entry["loss"], entry["grad_norm"])
    return found


def train(program, name, data, options, limit, fresh=True):
    """One run of a program, or of a list of words that starts it; (result, its steps)."""
    output = f"{WORK}/runs/{name}"
    if fresh:
        shutil.rmtree(output, ignore_errors=True)
    r = run([*([program] if isinstance(program, str) else program), "train", "-i", f"{WORK}/{data}/train_000000.bin", "-j", f"{WORK}/{data}/train_000000.bin", "-v", "0",
             "-o", output, "--lr-schedule", "constant", *options], limit)
    return r, steps_of(output)


def losses_options(precision):
    model = ["-e", "L2:H2:C64:T64"] if O.dry else ["-e", "d12"]
    return model + ["-b", str(MICRO_BATCH), "-t", str(SEQUENCE), "-d", str(TOKENS), "-x", str(STEPS), "-l", "5e-5", "--precision",
                    precision]


def compare(expected, got, tolerance):
    """(status, detail) of losses by step."""
    missing = [s for s in expected if s not in got]
    if missing:
        return FAILED, f"steps {missing} are not in the log"
    error, step = max((abs(got[s][0] - expected[s][0]) / abs(expected[s][0]) if got[s][0] == got[s][0] else float("inf"), s)
                      for s in expected)
    norm = max(abs(got[s][1] - expected[s][1]) / abs(expected[s][1]) for s in expected)
    return (PASSED if error <= tolerance else FAILED,
            f"{len(expected)} losses, largest relative difference {error:.2g} at step {step} ({tolerance:g} is allowed); "
            f"gradient norms within {norm:.2g}")


def record():
    """The CPU program's losses, once, on the machine of a developer."""
    make_data()
    result = {"what": "losses and gradient norms of ./train_gpt2 on the shard of dev/gpu_check/gpu_check.py: "
              f"d12, {TOKENS} tokens a step in micro-batches of {MICRO_BATCH} x {SEQUENCE}, constant learning rate 5e-5"}
    for precision in ("fp32", "bf16"):
        r, steps = train("./train_gpt2", "record", "tiny" if O.dry else "gpt2", losses_options(precision), 1800)
        shutil.rmtree(f"{WORK}/runs/record", ignore_errors=True)
        if r.code != 0:
            sys.exit(f"dev/gpu_check.sh --record: ./train_gpt2: {r.why()}")
        result[precision] = {str(s): v for s, v in steps.items()}
        print(precision, *(f"{v[0]:.6f}" for v in steps.values()))
    if not O.dry:
        with open(LOSSES, "w") as f:
            json.dump(result, f, indent=1)
            f.write("\n")
    return result


def training(part):
    paths = there(part, "training of 124M", "train_gpt2cu")
    if not paths:
        return
    make_data()
    recorded = record() if O.dry else json.loads(read(LOSSES) or "{}")
    for matmul in ("cublaslt", "own"):
        for precision, tolerance in (("fp32", FP32_TOLERANCE), ("bf16", BF16_TOLERANCE)):
            name = f"{'tiny' if O.dry else '124M'}, {precision}, --matmul {matmul}"
            if not recorded.get(precision):
                part.check(name, NOT_RUN, f"{LOSSES} has no losses in {precision}: make gpu_check_losses")
                continue
            if part.left() < 5:
                part.check(name, NOT_RUN, "no time left")
                continue
            run_name = f"{precision}_{matmul}"
            r, steps = train(paths[0], run_name, "tiny" if O.dry else "gpt2", losses_options(precision) + ["--no-tf32", "--matmul", matmul],
                             part.left())
            shutil.rmtree(f"{WORK}/runs/{run_name}", ignore_errors=True)  # a gigabyte of checkpoint
            if r.code != 0 or r.timed_out:
                part.check(name, NOT_RUN if r.timed_out else FAILED, r.why())
            else:
                status, detail = compare({int(s): v for s, v in recorded[precision].items()}, steps, tolerance)
                part.check(name, status, f"{detail}; {r.seconds:.0f} s")
    resume(part)


def resume(part):
    """A checkpoint of one program goes on in the other: steps 5 to 8 as in one uninterrupted run of the CPU program."""
    paths = there(part, "resume across programs", "train_gpt2cu", "train_gpt2")
    if not paths:
        return
    gpu, cpu = paths
    for precision, tolerance in (("fp32", FP32_TOLERANCE), ("bf16", BF16_TOLERANCE)):
        if part.left() < 5:
            part.check(f"resume across programs, {precision}", NOT_RUN, "no time left")
            continue
        base = ["-e", "L2:H2:C64:T64", "-b", "2", "-d", "256", "--precision", precision]
        whole, expected = train(cpu, "whole", "tiny", base + ["-x", "8"], part.left())
        for first, second, name in ((cpu, gpu, "the CPU program's checkpoint on the GPU"),
                                    (gpu, cpu, "the CUDA program's checkpoint on the CPU")):
            name = f"resume {name}, {precision}"
            options = base + ["--no-tf32"]
            half, _ = train(first, "resume", "tiny", options + ["-x", "4"], part.left())
            rest, steps = train(second, "resume", "tiny", options + ["-x", "8", "--resume"], part.left(), fresh=False)
            bad = next((r for r in (whole, half, rest) if r.code != 0 or r.timed_out), None)
            if bad:
                part.check(name, NOT_RUN if bad.timed_out else FAILED, bad.why())
            else:
                part.check(name, *compare({s: v for s, v in expected.items() if s > 4}, steps, tolerance))


# Two ranks as torchrun would start them, both on GPU 0; NCCL allows that where each says that it is on a host of its own.
TWO_RANKS = """for r in 0 1; do
    RANK=$r WORLD_SIZE=2 LOCAL_RANK=$r LOCAL_WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29513 \\
        NCCL_HOSTID=rank$r NCCL_SOCKET_IFNAME=lo "$@" &
done
status=0
wait -n || status=$?
wait -n || status=$?
exit $status"""


def ranks(part):
    """Two ranks on the one GPU have the losses of one: correctness, not overlap."""
    paths = there(part, "two ranks on one GPU", "train_gpt2cu")
    if not paths:
        return
    make_data()
    start = (["mpirun", "--allow-run-as-root", "--oversubscribe", "-x", "NCCL_HOSTID=1", "-np", "2"] if O.dry else
             ["bash", "-c", TWO_RANKS, "two_ranks"])
    for precision, tolerance in (("fp32", 1e-5), ("bf16", BF16_TOLERANCE)):
        base = ["-e", "L2:H2:C64:T64", "-b", "2", "-d", "512", "-x", "6", "--precision", precision, "--no-tf32",
                "--comm-timeout", "30"]
        one, expected = train(paths[0], "one_rank", "tiny", base, part.left())
        for stage in range(4):
            name = f"two ranks on one GPU, ZeRO stage {stage}, {precision}"
            if part.left() < 5:
                part.check(name, NOT_RUN, "no time left")
                continue
            two, steps = train([*start, paths[0]], "two_ranks", "tiny", base + ["-z", str(stage)], part.left())
            bad = next((r for r in (one, two) if r.code != 0 or r.timed_out), None)
            if bad:
                missing = "NCCL" in bad.text and "is missing" in bad.text
                part.check(name, NOT_RUN if bad.timed_out or missing else FAILED, bad.why())
            else:
                part.check(name, *compare(expected, steps, tolerance))


# ---- 4: compute-sanitizer ----

def sanitizer(part):
    tool = find_program("compute-sanitizer")
    paths = there(part, "compute-sanitizer", "train_gpt2cu")
    if not paths:
        return
    if not tool:
        for name in ("memcheck", "racecheck"):
            part.check(name, NOT_RUN, "compute-sanitizer was not found")
        return
    part.text.append(f"- {tool}: {(run([tool, '--version'], 20).text.strip().splitlines() or ['?'])[-1]}")
    make_data()
    nvcc, planted = find_program("nvcc"), WORK + "/planted"
    built = nvcc and run([nvcc, "-arch=sm_" + report["environment"].get("capability", "").replace(".", ""), "-o", planted,
                          HERE + "/planted.cu"], 40).code == 0
    for mode in ("memcheck", "racecheck"):
        sanitize = [tool, "--tool", mode, "--error-exitcode", "1"]
        # It must find an error that is there, or its silence means nothing.
        if not built:
            part.check(f"{mode}: finds a planted error", NOT_RUN, "dev/gpu_check/planted.cu was not built")
            continue
        r = run(sanitize + [planted, mode], min(20, part.left()))
        found = re.search(r"ERROR SUMMARY: [1-9]|RACECHECK SUMMARY: [1-9]", r.text)
        if r.timed_out or not found:
            reason = next((line.strip("= ") for line in r.text.splitlines() if re.search(r"not supported|unable|error", line, re.I)),
                          "it reported nothing")
            part.check(f"{mode}: finds a planted error", NOT_RUN, r.why() if r.timed_out else f"refused: {reason}"[:300])
            continue
        part.check(f"{mode}: finds a planted error", PASSED)
        for precision in ("bf16", "fp32"):
            name = f"{mode}: two steps of a tiny GPT, {precision}, --matmul own"
            if part.left() < 5:
                part.check(name, NOT_RUN, "no time left")
                continue
            output = f"{WORK}/runs/sanitizer"
            shutil.rmtree(output, ignore_errors=True)
            r = run(sanitize + [paths[0], "train", "-i", f"{WORK}/tiny/train_000000.bin", "-j", f"{WORK}/tiny/train_000000.bin",
                                "-v", "2", "-m", "1", "-s", "2", "-g", "4", "-e", "L2:H2:C64:T32", "-b", "2", "-d", "128", "-x", "2",
                                "--precision", precision, "--matmul", "own", "--dropout", "0.1", "-o", output], part.left())
            summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .*", r.text)
            clean = summary and re.match(r"(ERROR|RACECHECK) SUMMARY: 0 ", summary[-1])
            if r.timed_out:
                part.check(name, NOT_RUN, r.why())
            else:
                part.check(name, PASSED if r.code == 0 and clean else FAILED, f"{(summary or [r.why()])[-1]}; {r.seconds:.0f} s")
    suites = there(part, "memcheck: the layers' tests", "tests")
    if suites and any(c["status"] == PASSED for c in part.checks):
        if part.left() < 15:
            part.check("memcheck: the layers' tests", NOT_RUN, "no time left")
            return
        r = run([tool, "--tool", "memcheck", "--error-exitcode", "1", suites[0],
                 "--gtest_filter=-*rogram*:*ublas*:*udnn*:*Zoo*"], part.left())
        part.check("memcheck: the layers' tests", NOT_RUN if r.timed_out else PASSED if r.code == 0 else FAILED,
                   r.why() if r.code else f"{r.seconds:.0f} s")


# ---- 5, 6: speed ----

def speed(part):
    paths = there(part, "bench_cuda", "bench")
    if not paths:
        return
    output = O.output + "/bench_cuda.json"
    if os.path.exists(output):
        os.remove(output)
    small = ["--model", "L2:H2:C64:T64:V500", "--large", "L3:H2:C64:T64:V500", "--seq-len", "64", "--batches", "1,2", "--tokens",
             "256", "--product", "128", "--copy-mb", "1"] if O.dry else []
    r = run([paths[0], "--json", output, "--limit", str(int(part.left() - 8)), *small], part.left())
    part.text.append(re.sub(r"^#", "###", r.text[r.text.find("# "):], flags=re.M) if "# Speed" in r.text else "")
    data = json.loads(read(output) or "{}")
    report["bench_cuda"] = data
    if os.path.exists(output):
        os.remove(output)  # it is in report.json
    for section in ("rates", "steps", "kernels", "products", "attention", "variants", "large"):
        if data.get(section):
            part.check(section, PASSED, f"{len(data[section])} rows")
        elif r.code != 0 and not r.timed_out and not any(c["status"] == FAILED for c in part.checks):
            part.check(section, FAILED, r.why())
        else:
            notes = [n["note"] for n in data.get("notes", []) if section in n["note"]]
            part.check(section, NOT_RUN, (notes or [r.why() if r.code else "out of time"])[-1])


def pytorch(part):
    with_torch = None
    for python in filter(None, [O.python, sys.executable, shutil.which("python3")]):
        r = run([python, "-c", "import torch; print(torch.__version__, torch.cuda.is_available())"], min(40, part.left()))
        if r.code == 0 and (O.dry or "True" in r.text):
            with_torch = python
            break
    if not with_torch:
        part.check("PyTorch", NOT_RUN, "no Python here has a PyTorch that finds the GPU: " + r.why() if r.code else "it finds no GPU")
        return
    output = WORK + "/torch.json"
    os.makedirs(WORK, exist_ok=True)
    if os.path.exists(output):
        os.remove(output)
    best = best_step()
    order = [best["B"]] if best else [32]
    order += [b for b in (32, 64, 16) if b not in order]
    small = ["--device", "cpu", "--model", "2,2,64", "--seq-len", "32", "--vocabulary", "500", "--steps", "3",
             "--no-compile"] if O.dry else []
    r = run([with_torch, "dev/bench/torch_gpt2.py", "--output", output, "--limit", str(int(part.left() - 6)), "--batches",
             ",".join(str(b) for b in order), *small], part.left())
    data = json.loads(read(output) or "{}")
    report["pytorch"] = data
    best = data.get("best")
    if not best:
        part.check("PyTorch", NOT_RUN if r.timed_out else FAILED, r.why())
        return
    part.check("PyTorch", PASSED, f"{best['tokens_per_second']:.0f} tokens/s, B={best['B']}, {best['precision']}, "
               + ("torch.compile" if best["compiled"] else "without torch.compile"))
    lines = ["", "| micro-batch | precision | torch.compile | ms | tokens/s | peak memory GB | warm-up s |", "|---|---|---|---|---|---|---|"]
    for t in data["runs"]:
        memory = f"{t['peak_memory_bytes'] * 1e-9:.1f}" if t["peak_memory_bytes"] else "-"
        lines.append(f"| {t['B']} | {t['precision']} | {'yes' if t['compiled'] else 'no'} | {t['ms']:.2f} | "
                     f"{t['tokens_per_second']:.0f} | {memory} | {t['warm_up_seconds']:.0f} |")
    if data.get("attention"):
        lines += ["", "| attention | B | heads | head size | forward TFLOP/s | backward | deterministic backward |",
                  "|---|---|---|---|---|---|---|"]
        for a in data["attention"]:
            lines.append(f"| {a['backend']} | {a['B']} | {a['NH']} | {a['HS']} | {a['forward_tflops']:.0f} | "
                         f"{a['backward_tflops']:.0f} | {a.get('backward_deterministic_tflops', float('nan')):.0f} |")
    part.text += lines + [f"- {n}" for n in data.get("notes", [])]
    part.text.append("\namp: fp32 weights and autocast to bf16, with the same fp32 optimizer as train_gpt2.cu; pure: everything in bf16.")


# ---- marks ----

def best_step():
    """The fastest whole step of one micro-batch of 124M."""
    steps = report.get("bench_cuda", {}).get("steps", [])
    single = [s for s in steps if s["tokens"] == s["B"] * s["T"]]
    return max(single, key=lambda s: s["tokens_per_second"], default=None)


def marks():
    found = []

    def mark(name, asked, measured, met, unit="", reason=""):
        found.append({"mark": name, "asked": asked, "measured": f"{measured}{unit}" if measured is not None else reason,
                      "status": "not run" if measured is None else "dry run" if O.dry else "met" if met else "missed"})
    bench, torch = report.get("bench_cuda", {}), report.get("pytorch", {})
    best, rival = best_step(), torch.get("best")
    ratio = best["tokens_per_second"] / rival["tokens_per_second"] if best and rival else None
    mark("124M bf16, T=1024: tokens/s over PyTorch's", "at least 1.15", ratio and f"{ratio:.2f}", ratio and ratio >= 1.15,
         f" ({best['tokens_per_second']:.0f} over {rival['tokens_per_second']:.0f})" if ratio else "",
         "no step was measured" if not best else "PyTorch was not measured")
    mark("124M bf16, T=1024: share of the floor by this card's own rates", "at least 65%", best and f"{100 * best['of_floor']:.1f}%",
         best and best["of_floor"] >= 0.65, f" of the strict floor, {100 * best['of_floor_separate']:.1f}% of the one with GELU and bias "
         f"gradients apart (B={best['B']})" if best else "", "no step was measured")
    memory = [k for k in bench.get("kernels", []) if k["limit"] == "memory"]
    slow = sorted((k for k in memory if k["of_floor"] < 0.85), key=lambda k: k["floor_ms"] - k["ms"])
    mark("memory-bound kernels: share of copy bandwidth", "each at least 85%", memory and f"{len(memory) - len(slow)} of {len(memory)} do"
         or None, not slow, ("; below: " + ", ".join(f"{k['kernel']} {100 * k['of_floor']:.0f}%" for k in slow)) if slow else "",
         "no kernel was measured")
    capability = float(report["environment"].get("capability") or 0)
    own_attention, own_product = (0.6, 0.6) if capability >= 9 else (0.8, 0.7)
    for what in ("forward", "backward"):
        rows = bench.get("attention", [])
        own = next((a for a in rows if a["by"] == "own"), None)
        cudnn = next((a[what + "_tflops"] for a in rows if a["by"] == "cudnn" and own and a["HS"] == own["HS"]), None)
        source = "built in"
        if cudnn is None:
            other = next((a for a in torch.get("attention", []) if a["backend"] == "cudnn" and own and a["HS"] == own["HS"]), {})
            cudnn, source = other.get(what + "_tflops"), "as PyTorch calls it"
            if what == "backward":
                fixed = other.get("backward_deterministic_tflops")
                cudnn, source = fixed or cudnn, source + ("" if fixed else ", not deterministic, which is faster than what the mark "
                                                          "asks for")
        ratio = own[what + "_tflops"] / cudnn if own and cudnn else None
        mark(f"own attention {what} over cuDNN's, deterministic", f"at least {own_attention}", ratio and f"{ratio:.2f}",
             ratio and ratio >= own_attention, f" ({own[what + '_tflops']:.0f} over {cudnn:.0f} TFLOP/s, cuDNN {source})" if ratio else "",
             "own attention was not measured" if not own else "cuDNN is neither built in nor in PyTorch here")
    products = bench.get("products", [])
    library, own = (sum(p["calls"] * p[by + "_ms"] for p in products) for by in ("cublaslt", "own"))
    ratio = library / own if products else None
    worst = min(products, key=lambda p: p["own_over_cublaslt"], default=None)
    mark("own matmul over cuBLASLt, all of the model's shapes", f"at least {own_product}", ratio and f"{ratio:.2f}",
         ratio and ratio >= own_product, f" by the times of a step's products; worst {worst['product']} {worst['kind']} {worst['own_over_cublaslt']:.2f}"
         if worst else "", "no product was measured")
    report["marks"] = found
    missed = [m for m in found if m["status"] == "missed"]
    kernels = sorted(bench.get("kernels", []), key=lambda k: k["floor_ms"] - k["ms"])[:5]
    report["where_the_time_is"] = [f"{k['kernel']}: {k['ms'] - k['floor_ms']:.2f} ms above its floor" for k in kernels] if missed else []


# ---- all of it ----

def main():
    global log
    os.chdir(REPO)
    if O.record:
        os.makedirs(WORK, exist_ok=True)
        record()
        return 0
    unknown = [p for p in O.parts.split(",") if p not in TIMES]
    if unknown:
        sys.exit(f"dev/gpu_check.sh: --parts: {unknown[0]} is none of {', '.join(TIMES)}")
    wanted = [p for p in TIMES if p in O.parts.split(",") or p == "environment"]
    if not O.output:
        O.output = os.environ.get("OUT")
    if not O.output:
        smi = run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], 15)
        name = smi.text.strip().splitlines()[0] if smi.code == 0 and smi.text.strip() else "none"
        O.output = "dev/reports/gpu_" + re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") + time.strftime("_%Y-%m-%d")
    if O.dry and O.output.startswith("dev/reports"):
        O.output = WORK + "/dry"
    os.makedirs(O.output, exist_ok=True)
    os.makedirs(WORK, exist_ok=True)
    log = open(O.output + "/log.txt", "w")
    print(f"report: {O.output}/report.md", flush=True)
    parts = []
    work = {"environment": environment, "build": build, "tests": tests, "training": training, "ranks": ranks, "sanitizer": sanitizer,
            "speed": speed, "pytorch": pytorch}
    short = min(1.0, 60 * O.minutes / sum(TIMES[p][0] for p in wanted))  # --minutes smaller than what is kept for the parts
    long = max(1.0, O.minutes / 8)  # a slow machine was given more
    for i, name in enumerate(wanted):
        later = short * sum(TIMES[p][0] for p in wanted[i + 1:])
        part = Part(name, min(long * TIMES[name][1], left() - later))
        write_report(parts, name)
        print(f"{name} (at most {part.left():.0f} s)", flush=True)
        gpu = O.dry or report["environment"].get("gpu")
        try:
            if name != "environment" and not gpu:
                part.check(name, NOT_RUN, "there is no GPU in this machine")
            elif O.dry and name == "build":
                part.check(name, NOT_RUN, "dry run: the stand-ins are those that are there")
            elif part.left() < 4 and name != "environment":
                part.check(name, NOT_RUN, "the time is up")
            else:
                work[name](part)
        except Exception as e:  # a bug of this script is a failure of the check, and the other parts still run
            part.check(name, FAILED, f"{type(e).__name__}: {e}")
        part.seconds = time.time() - part.begin
        parts.append(part)
        marks()
        write_report(parts)
    for m in report["marks"]:
        print(f"  {m['status']:8} {m['mark']}: {m['measured']} ({m['asked']})")
    for line in report["where_the_time_is"]:
        print("           " + line)
    shutil.rmtree(WORK + "/runs", ignore_errors=True)
    states = [c["status"] for p in parts[1:] for c in p.checks]
    if O.dry:
        print("dry run, with stand-ins on a CPU:")
    print(f"{states.count(PASSED)} passed, {states.count(FAILED)} failed, {states.count(NOT_RUN)} skipped")
    return 1 if FAILED in states else 0 if PASSED in states else 3


if __name__ == "__main__":
    sys.exit(main())
