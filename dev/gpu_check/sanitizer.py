"""compute-sanitizer over the program and the layers' tests."""
import re
import shutil

from common import FAILED, HERE, NOT_RUN, PASSED, WORK, find_program, report, run, there
from training import make_data


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
