"""The parts of dev/gpu_check.sh, in order, each limited in time, and the report, which is rewritten after each part.

A part is a list of checks. A check has passed, failed, or did not run, and then says why: nothing that is missing, refused
or out of time counts as passed. Speed is reported beside marks, which are met, missed, or not measured; a missed mark is no
failure.
"""
import os
import re
import shutil
import sys
import time

import common
from building import build, build_rest, environment, tests
from common import BUILDS, FAILED, NOT_RUN, O, PASSED, REPO, TIMES, WORK, Part, left, report, run, write_report
from counters import counters
from sanitizer import sanitizer
from speed import marks, pytorch, speed
from training import ranks, record, throughput, training


def main():
    os.chdir(REPO)
    if O.record:
        os.makedirs(WORK, exist_ok=True)
        record()
        return 0
    unknown = [p for p in O.parts.split(",") if p not in TIMES]
    if unknown:
        sys.exit(f"dev/gpu_check.sh: --parts: {unknown[0]} is none of {', '.join(TIMES)}")
    asked = O.parts.split(",") + ["environment"] + (["rest"] if "build" in O.parts.split(",") else [])
    wanted = [p for p in TIMES if p in asked]
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
    common.log = open(O.output + "/log.txt", "w")
    print(f"report: {O.output}/report.md", flush=True)
    parts = []
    work = {"environment": environment, "build": build, "training": training, "throughput": throughput, "rest": build_rest,
            "tests": tests, "sanitizer": sanitizer, "speed": speed, "counters": counters, "ranks": ranks, "pytorch": pytorch}
    short = min(1.0, 60 * O.minutes / sum(TIMES[p][0] for p in wanted))  # --minutes smaller than what is kept for the parts
    long = max(1.0, O.minutes / 8)  # a slow machine was given more
    for i, name in enumerate(wanted):
        later = short * sum(TIMES[p][0] for p in wanted[i + 1:])
        # a slow machine may build as long as it needs, and still has its minutes for the rest
        limit = TIMES[name][1] if name in BUILDS else min(long * TIMES[name][1], left() - later)
        part = Part(name, limit)
        write_report(parts, name)
        print(f"{name} (at most {part.left():.0f} s)", flush=True)
        gpu = O.dry or report["environment"].get("gpu")
        try:
            if name != "environment" and not gpu:
                part.check(name, NOT_RUN, "there is no GPU in this machine")
            elif O.dry and name in BUILDS:
                part.check(name, NOT_RUN, "dry run: the stand-ins are those that are there")
            elif part.left() < 4 and name != "environment":
                part.check(name, NOT_RUN, "the time is up")
            else:
                work[name](part)
        except Exception as e:  # a bug of this script is a failure of the check, and the other parts still run
            part.check(name, FAILED, f"{type(e).__name__}: {e}")
        part.seconds = time.time() - part.begin
        if name in BUILDS:
            common.not_counted += part.seconds
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
