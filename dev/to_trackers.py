"""The log of a run (OUT/log.jsonl) for TensorBoard and Weights & Biases.

  python dev/to_trackers.py runs/NAME... --tensorboard DIR    (needs tensorboard) one run a subdirectory; then: tensorboard --logdir DIR
  python dev/to_trackers.py runs/NAME... --wandb PROJECT      (needs wandb) offline in ./wandb; then: wandb sync wandb/offline-run-*

A step that is there twice, since a run was resumed or went back to a checkpoint, counts as it was last; lines that are no JSON, such
as one that was being written when the machine went down, are left out and counted. Values that are not finite (null) are left out.
"""
import argparse
import json
import pathlib
import sys

NOT_NUMBERS = {"step", "skipped", "rolled_back_from", "next_sample", "time_limit", "repeats"}


def read_log(path):
    """[(step, {name: value})], steps growing; the number of lines left out."""
    steps, bad = {}, 0
    for line in path.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
            step = entry["step"]
            numbers = {k: float(v) for k, v in entry.items() if k not in NOT_NUMBERS and v is not None}
            assert isinstance(step, int) and step >= 0
        except (ValueError, KeyError, TypeError, AssertionError):
            bad += 1
            continue
        if "rolled_back_from" in entry:
            steps = {s: v for s, v in steps.items() if s <= step}
        steps.setdefault(step, {}).update(numbers)
    return sorted(steps.items()), bad


def to_tensorboard(directory, log):
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
    writer = EventFileWriter(str(directory))
    for step, numbers in log:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        if values:
            writer.add_event(Event(step=step, summary=Summary(value=values)))
    writer.close()


def to_wandb(project, name, log):
    import wandb
    with wandb.init(project=project, name=name, mode="offline") as run:
        for step, numbers in log:
            run.log(numbers, step=step)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=pathlib.Path)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--tensorboard", type=pathlib.Path, metavar="DIR")
    where.add_argument("--wandb", metavar="PROJECT")
    options = parser.parse_args()
    for run in options.runs:
        path = run / "log.jsonl" if run.is_dir() else run
        if not path.is_file():
            sys.exit(f"{run} is no run: there is no {path}")
        log, bad = read_log(path)
        if not log:
            sys.exit(f"{path} has no line of a log")
        name = path.resolve().parent.name
        if options.wandb:
            to_wandb(options.wandb, name, log)
        else:
            if any((options.tensorboard / name).glob("events.out.*")):
                sys.exit(f"{options.tensorboard / name} has events already: remove it, or choose another directory")
            to_tensorboard(options.tensorboard / name, log)
        print(f"{run}: {len(log)} steps" + (f", {bad} lines left out" if bad else ""))


main()
