"""Training: 124M against losses of the CPU program, resuming across programs, two ranks on one GPU."""
import array
import json
import os
import shutil
import sys

from common import FAILED, LOSSES, NOT_RUN, O, PASSED, WORK, read, report, run, there

FP32_TOLERANCE, BF16_TOLERANCE = 1e-4, 2e-2
# The 124M run that is compared with the CPU program: two micro-steps of two sequences.
STEPS, SEQUENCE, MICRO_BATCH, TOKENS = 10, 64, 2, 256


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
            r, steps = train(paths[0], run_name, "tiny" if O.dry else "gpt2", losses_options(precision) + ["--no-tf32", "--matmul", matmul, "--attention", "own" if matmul == "own" else "auto"],
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


def throughput(part):
    """Tokens a second of a whole run of 124M as a user starts it, by its own log: the data's way to the GPU, graphs, the
    algorithms that the first step times."""
    paths = there(part, "a whole run of 124M", "train_gpt2cu")
    if not paths:
        return
    os.makedirs(WORK + "/long", exist_ok=True)
    write_shard(WORK + "/long/train_000000.bin", 257 if O.dry else 50257, 3000 if O.dry else 140000)
    size = (["-e", "L2:H2:C64:T64:V257", "-d", "256", "-x", "6"] if O.dry else
            ["-e", "d12", "-d", "65536", "-x", "30"]) + ["--precision", "bf16"]
    r, _ = train(paths[0], "throughput", "long", size, part.left())
    log = [json.loads(line) for line in read(f"{WORK}/runs/throughput/log.jsonl").splitlines()]
    shutil.rmtree(f"{WORK}/runs/throughput", ignore_errors=True)
    speeds = sorted(e["tok_s"] for e in log if e.get("step", 0) > 3 and "tok_s" in e)
    if r.code != 0 or r.timed_out or not speeds:
        part.check("a whole run of 124M", NOT_RUN if r.timed_out else FAILED, r.why())
        return
    median = speeds[len(speeds) // 2]
    mfu = next((f", MFU {100 * e['mfu']:.1f}%" for e in log if e.get("tok_s") == median and e.get("mfu")), "")
    report["throughput"] = {"tokens_per_second": median}
    part.check("a whole run of 124M", PASSED, f"{median:.0f} tokens/s in bf16, T=1024, the median of {len(speeds)} steps{mfu}; "
               f"{r.seconds:.0f} s with its start and its checkpoint")
    part.text += ["- " + line for line in r.text.splitlines() if line.startswith(("attention:", "products:", "batch:"))]


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
