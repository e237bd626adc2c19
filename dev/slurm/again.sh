# Part of the job scripts beside it: one start of the run in this job, then, unless the run is done, `scontrol requeue`:
# the scheduler starts the job again, as soon as there are machines, and it goes on from its last checkpoint.
#
# At most RESTARTS times (default 20; SLURM's own requeues after a machine's failure count, too), and not after a wrong
# command line, nor when two starts in a row came no step further.
# shellcheck shell=bash
set -u

say() { echo "$(date '+%F %T') job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)): $1"; }
stop() { say "error: $1" >&2; exit "${2:-2}"; }

output='' every='' options=("$@")
for ((i = 0; i < $#; i++)); do
    case ${options[i]} in
        -o | --output) output=${options[i + 1]-} ;;
        --output=*) output=${options[i]#*=} ;;
        -n | --checkpoint-every | --checkpoint-every=*) every=given ;;
    esac
done
[ -n "$output" ] || stop "give -o DIR (--output), where the checkpoints are"
[ -n "$every" ] || stop "give -n STEPS (--checkpoint-every): a restart would begin anew"
# shellcheck disable=SC2012
newest_step() { ls -d "$output"/step_????????/trainer_state.json 2>/dev/null | sed -n '$s/.*step_0*\([0-9][0-9]*\).*/\1/p'; }

# srun does not take this over from sbatch by itself
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
before=$(newest_step)
say "$SLURM_NTASKS ranks on $SLURM_JOB_NODELIST, from ${before:-the beginning}"
# --resume: from the newest checkpoint; where there is none, from the beginning
# shellcheck disable=SC2086 # several options
srun $SRUN_OPTIONS --kill-on-bad-exit=1 "$PROGRAM" "$@" --resume
code=$?
step=$(newest_step)
[ $code -ne 0 ] || { say "done" && exit 0; }
[ $code -ne 2 ] || stop "the command line is wrong"
stuck=$output/.no_progress # left by a start that came no step further
if [ "$step" != "$before" ]; then rm -f "$stuck"
elif [ -e "$stuck" ]; then rm -f "$stuck" && stop "exit code $code; two starts in a row came no step further" "$code"
else touch "$stuck"; fi
[ "${SLURM_RESTART_COUNT:-0}" -lt "${RESTARTS:-20}" ] || stop "exit code $code after ${RESTARTS:-20} restarts" "$code"
# 138: SIGUSR1, as --signal says
say "$([ $code -eq 138 ] && echo 'stopped before the time limit' || echo "exit code $code"), newest checkpoint: ${step:-none}; once more"
scontrol requeue "$SLURM_JOB_ID"
sleep 60 # it ends this script
