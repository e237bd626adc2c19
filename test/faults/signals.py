#!/usr/bin/env python3
"""Kills, stops and signals processes at random moments: a run alone, one rank of two to four, and a rank under dev/run.sh.

    test/faults/signals.py [--count N] [--seed N] [--only TEXT] [--kills N] [--ranks N]    in a built project

Right is: SIGTERM, SIGINT and SIGUSR1 end all ranks, with the exit code that says so; SIGSTOP and SIGCONT change nothing;
afterwards --resume comes to the bits of the undisturbed run (after a kill under dev/run.sh without being asked) and leaves
nothing behind. Moments cannot be repeated, only drawn again: the same name is the same moment by the clock.
"""
import os
import shutil
import signal
import subprocess
import time

from faults import (ENVIRONMENT, PROGRAM, TRAIN, WENT_ON, Harm, Sweep, checkpoint, copy, good, leftovers, losses, make_data,
                    read, run, same)

STEPS, RANK_STEPS = 30, 400
ALONE = [*TRAIN, "-x", str(STEPS), "-n", "3"]
RANKS = [PROGRAM, "train", "-i", "data", "-e", "L1:H1:C8:T8", "-b", "1", "-d", "96", "-v", "100", "-m", "1", "-x",
         str(RANK_STEPS), "-n", "20", "-o", "run"]
RUN_SH = os.path.abspath(f"{os.path.dirname(__file__)}/../../dev/run.sh")
ENVIRONMENT.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_rmaps_base_oversubscribe="1",
                   OMP_WAIT_POLICY="passive")


def processes(cwd):
    """The program's processes that work in this directory."""
    found = []
    for number in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{number}/cwd") == cwd and os.readlink(f"/proc/{number}/exe") == os.path.realpath(PROGRAM):
                found.append(int(number))
        except OSError:  # it has just ended, or is another user's
            pass
    return sorted(found)


def send(process, number):
    try:
        os.kill(process, number)
        return True
    except ProcessLookupError:
        return False


class Disturbed:
    """A command that runs while it is disturbed."""

    def __init__(self, command, cwd):
        self.out = open(f"{cwd}/.out", "w+b")
        self.process = subprocess.Popen(command, cwd=cwd, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=self.out,
                                        stderr=subprocess.STDOUT, start_new_session=True)

    def end(self, timeout=200):
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            code = None
        self.out.seek(0)
        self.text = f"exit code {code}\n" + self.out.read().decode(errors="replace")[-2000:]
        self.out.close()
        if code is None:
            raise Harm("it hangs: " + self.text)
        return code

    def ranks(self, cwd, n):
        """Waits until all are there; [] if the command has ended before."""
        here = os.path.realpath(cwd)
        while self.process.poll() is None:
            found = processes(here)
            if len(found) == n:
                return found
            time.sleep(0.002)
        return []


def compare(cwd, wanted):
    left = leftovers(cwd)
    if left:
        raise Harm(f"{left} are left behind")
    same("log.jsonl", losses(cwd), wanted[0])
    same("the checkpoint", checkpoint(cwd, wanted[1][1][0]), wanted[1])


def alone(made, wanted, seconds, number, draw):
    def harm(cwd):
        copy(made, cwd)
        it = Disturbed(ALONE, cwd)
        time.sleep(draw.uniform(0, seconds))
        if number == signal.SIGSTOP:
            send(it.process.pid, number)
            time.sleep(draw.uniform(0, 0.3))
            send(it.process.pid, signal.SIGCONT)
        elif not send(it.process.pid, number):
            it.end()
            return "not reached"
        code = it.end()
        if code == 0 and number != signal.SIGSTOP:
            outcome = "not reached"  # the signal came when all was done
        elif code not in {signal.SIGSTOP: (0,)}.get(number, (-number, 128 + number)):
            raise Harm(it.text)
        else:
            outcome = WENT_ON
        good(run([*ALONE, "--resume"], cwd))
        compare(cwd, wanted)
        return outcome
    return harm


def several(made, wanted, n, stage, number, draw):
    def harm(cwd):
        copy(made, cwd)
        command = ["mpirun", "-np", str(n), *RANKS, "-z", str(stage)]
        it = Disturbed(command, cwd)
        ranks = it.ranks(cwd, n)
        time.sleep(draw.uniform(0, 0.6))
        victim = draw.choice(ranks or [0])
        reached = victim and send(victim, number)
        if number == signal.SIGSTOP and reached:
            time.sleep(draw.uniform(0, 0.5))
            send(victim, signal.SIGCONT)
        code = it.end()
        if code == 0 and number == signal.SIGKILL and reached and b"done: " not in read(f"{cwd}/.out"):
            raise Harm("a rank was killed and the job says that all is well: " + it.text)
        if code != 0 and number == signal.SIGSTOP:
            raise Harm(it.text)
        good(run([*command, "--resume"], cwd))
        compare(cwd, wanted)
        return WENT_ON if reached and (code != 0 or number == signal.SIGSTOP) else "not reached"
    return harm


def under_run_sh(made, wanted, n, stage, draw):
    def harm(cwd):
        copy(made, cwd)
        it = Disturbed(["bash", RUN_SH, "-np", str(n), "--keep-ranks", "--restarts", "4", "--", *RANKS, "-z", str(stage)], cwd)
        ranks = it.ranks(cwd, n)
        time.sleep(draw.uniform(0, 0.6))
        hit = bool(ranks) and send(draw.choice(ranks), signal.SIGKILL)
        if it.end() != 0:
            raise Harm(it.text)
        compare(cwd, wanted)
        return WENT_ON if hit else "not reached"
    return harm


def main():
    sweep = Sweep(__doc__, kills=(100, "kills of a run alone; a fifth as many signals of each other kind"),
                  ranks=(8, "signals of each kind to ranks, 0: none"))
    made = f"{sweep.base}/made"
    os.mkdir(made)
    make_data(made)

    def undisturbed(command, steps):
        cwd = f"{sweep.base}/whole"
        copy(made, cwd)
        begin = time.time()
        good(run(command, cwd))
        wanted = losses(cwd), checkpoint(cwd, steps)
        shutil.rmtree(cwd)
        return wanted, time.time() - begin

    wanted, seconds = undisturbed(ALONE, STEPS)
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGSTOP):
        for i in range(sweep.options.kills if number == signal.SIGKILL else sweep.options.kills // 5):
            name = f"{number.name} {i}."
            sweep.add("one process", name, alone(made, wanted, 1.1 * seconds, number, sweep.draw(name)))
    try_it = f"{sweep.base}/try"
    copy(made, try_it)
    if not sweep.options.ranks:
        pass
    elif not shutil.which("mpirun"):
        sweep.skip("several ranks: there is no mpirun")
    elif "no MPI" in run(["mpirun", "-np", "2", *RANKS, "-x", "1"], try_it).err:
        sweep.skip("several ranks: this build has no MPI")
    else:
        known = {}
        for kind in ("ranks", "a rank under dev/run.sh"):
            for number in [signal.SIGKILL] + [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGSTOP] * (kind == "ranks"):
                for i in range(sweep.options.ranks):
                    n, stage, name = 2 + i % 3, i % 4, f"{number.name} {i}."
                    if (n, stage) not in known:
                        known[n, stage] = undisturbed(["mpirun", "-np", str(n), *RANKS, "-z", str(stage)], RANK_STEPS)[0]
                    rest = known[n, stage], n, stage
                    draw = sweep.draw(kind + name)
                    sweep.add(kind, name, several(made, *rest, number, draw) if kind == "ranks" else
                              under_run_sh(made, *rest, draw))
    sweep.run()


main()
