#!/usr/bin/env bash
# The share of a training step that is communication which nothing hides, of the CPU program under mpirun, as a page for
# dev/reports. Usage: dev/bench/bench_comm.sh BENCH_COMM [STEPS]; RANKS="1 2 4" in the environment
set -euo pipefail
bench=$1 steps=${2:-30}
export OMP_NUM_THREADS=1 OMPI_MCA_rmaps_base_oversubscribe=1
[ "$(id -u)" != 0 ] || export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
cat <<EOF
# Communication that is not hidden

Command: \`make bench_comm\`, $(date +%F). Machine: $(nproc --all) cores of an $cpu, $(awk '/MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo); load average before the start $(cut -d ' ' -f 1 /proc/loadavg).
$(mpirun --version | head -n 1), all ranks on this machine, one thread each: from the third rank on they share cores.

Model L4:H4:C256:T128 with 5,000 words, fp32; each rank 2 micro-steps of 2 sequences. Milliseconds: medians of $steps steps, means over ranks.
"communication" is the time in which collectives were under way, "waited for" the part of it in which the step stood still: this is not
hidden. The last four columns are the same steps with each collective waited for at once, a step of one kind after one of the other.
Waiting includes that for a rank that is late.

| ranks | ZeRO stage | step | communication | waited for | share of the step | step, at once | communication | waited for | share of the step |
|---|---|---|---|---|---|---|---|---|---|
EOF
for ranks in ${RANKS:-1 2 4}; do
    if [ "$ranks" -eq 1 ]; then "$bench" "$steps"; else mpirun -np "$ranks" "$bench" "$steps"; fi | tr -d '\r'
done
