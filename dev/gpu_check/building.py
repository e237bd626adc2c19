"""The machine, the build, the GoogleTest suites."""
import datetime
import os
import platform
import re

from common import FAILED, NOT_RUN, O, PASSED, Background, find_program, programs, read, report, run, there


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


def built_at(names):
    return {n: os.path.getmtime(programs()[n]) if os.path.exists(programs()[n]) else 0 for n in names}


def check_built(part, begin, r):
    up_to_date = r.code == 0 and not r.timed_out
    for i, name in enumerate(begin):
        path = programs()[name]
        exists = os.access(path, os.X_OK)
        if up_to_date and exists:
            part.check(path, PASSED, f"built in {r.seconds:.0f} s" if i == 0 else "")
        elif exists and os.path.getmtime(path) > begin[name]:
            part.check(path, PASSED)
        else:
            if exists:
                os.remove(path)  # not of these sources: nothing may be measured with it
            part.check(path, NOT_RUN if r.timed_out else FAILED, r.why())


def make(*goals):
    return ["make", f"-j{os.cpu_count() or 1}", "-k", *goals]


rest = None  # the second build, from when the first ends


def build(part):
    global rest
    pack_gtest(part)
    begin = built_at(("train_gpt2cu", "train_gpt2"))
    r = run(make("train_gpt2cu", "train_gpt2"), part.left())
    for line in re.findall(r"^found: .*|^missing: .*", r.text, re.M):
        part.text.append(f"- {line}")
    check_built(part, begin, r)
    if not r.timed_out:  # beside runs that leave the processors to it
        rest = (built_at(("tests", "bench")), Background(["nice", "-n", "10", *make("build_gpu_check")]))


def build_rest(part):
    begin, running = rest or (built_at(("tests", "bench")), Background(make("build_gpu_check")))
    check_built(part, begin, running.wait(part.left()))


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
