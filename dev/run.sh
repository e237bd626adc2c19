#!/usr/bin/env bash
# Starts a training job under mpirun and, when it dies, starts it again from its last checkpoint.
usage() {
    cat <<'EOF'
dev/run.sh -np RANKS [--restarts N] [--keep-ranks] [MPIRUN'S OPTIONS] -- PROGRAM [train] OPTIONS -o DIR -n STEPS

    dev/run.sh -np 8 --restarts 3 -- ./train_gpt2cu train -e d12 -o runs/x -n 500
    dev/run.sh -np 32 --hostfile hosts --restarts 20 -- ./train_gpt2cu train -e d36 -z 1 -o runs/y -n 500

  -np RANKS       processes to start
  --restarts N    how often to start again, at most (default 3)
  --keep-ranks    always on RANKS ranks; else a restart leaves out one rank for one that died or hung, and with --hostfile
                  the machines that do not answer ssh
  other options go to mpirun: --hostfile FILE, --host NAMES, --oversubscribe, -x VARIABLE, ...

The program needs -o (--output), where this script looks for checkpoints, and -n (--checkpoint-every). What it says on
stderr, and a line for each start, is added to DIR/restarts.log. Ctrl-C and SIGTERM make the run save a checkpoint and
end; a second one ends it at once. No more restarts: when the run is done, after a wrong command line (exit code 2), when
it was stopped by a signal, and when two starts in a row came no step further.
EOF
}
set -uo pipefail

fail() { echo "run.sh: error: $1" >&2; exit 2; }
ranks='' restarts=3 keep='' hostfile='' mpi=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        -np | -n | --np) ranks=${2-} && shift ;;
        --restarts) restarts=${2-} && shift ;;
        --keep-ranks) keep=1 ;;
        --hostfile | -hostfile | --machinefile | -machinefile) hostfile=${2-} && shift ;;
        *) mpi+=("$1") ;;
    esac
    shift || break
done
[ "${1-}" = -- ] && shift
[ $# -gt 0 ] || fail "no program: put it and its options after -- (dev/run.sh --help)"
[[ $ranks =~ ^[1-9][0-9]*$ ]] || fail "-np needs a number of ranks (dev/run.sh --help)"
[[ $restarts =~ ^[0-9]+$ ]] || fail "--restarts needs a number"
[ -z "$hostfile" ] || [ -r "$hostfile" ] || fail "--hostfile: cannot read $hostfile"
command -v mpirun >/dev/null || fail "there is no mpirun (packages libopenmpi-dev and openmpi-bin; dev/setup.sh installs them)"

# value LONG SHORT: what the program's command line gives it, or ""
command=("$@")
value() {
    local i found=''
    for ((i = 1; i < ${#command[@]}; i++)); do
        case ${command[i]} in
            "--$1" | "-$2") found=${command[i + 1]-} ;;
            "--$1="*) found=${command[i]#*=} ;;
            "-$2"[!-a-z]*) found=${command[i]#-"$2"} ;;
        esac
    done
    echo "$found"
}
output=$(value output o) every=$(value checkpoint-every n)
[ -n "$output" ] || fail "the program has no -o (--output): without it the checkpoints are not found"
[[ $every =~ ^[1-9][0-9]*$ ]] || fail "the program has no -n (--checkpoint-every): a restart would begin anew"

newest_step() {  # -1: no checkpoint
    local dir step=-1
    for dir in "$output"/step_*; do
        [[ ${dir##*/} =~ ^step_0*([0-9]+)$ ]] && [ -e "$dir/trainer_state.json" ] && step=${BASH_REMATCH[1]}
    done
    echo "$step"
}
case " ${command[*]} " in
    *' --resume '* | *' -y '[!0]*) ;;
    *) { [ "$(newest_step)" -lt 0 ] && [ ! -s "$output/log.jsonl" ]; } ||
        fail "$output has a run already: continue it with --resume, or choose another -o" ;;
esac
mkdir -p "$output" || exit 1
log=$output/restarts.log
said=$(mktemp) hosts=$(mktemp)
trap 'rm -f "$said" "$hosts"' EXIT
say() { echo "run.sh: $1" >>"$log"; echo "run.sh: $1" >&2; } # by itself: a signal to the group would kill a tee

# A shell's background job is a process group of its own: Ctrl-C reaches this script alone, which passes it on as
# SIGUSR1. mpirun hands that to the ranks; of SIGINT and SIGTERM it kills them.
set -m
job='' stopping=0
stop() {
    signalled=1
    [ -n "$job" ] || exit 130
    if ((!stopping)); then
        stopping=1 stopping_since=$SECONDS
        kill -USR1 "$job" 2>/dev/null
        say "stopping after this step and a checkpoint"
    elif ((SECONDS - stopping_since > 2)); then # sooner it is the same one: timeout sends to the script, then to its group
        kill -TERM "$job" 2>/dev/null
    fi
}
trap stop INT TERM HUP USR1
[ "$(id -u)" != 0 ] || export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 # as in containers
[ -t 1 ] || export TERM=dumb                                                          # no progress line

# Of a rank that dies while it starts, mpirun may wait for ever: 30 seconds after an error it is ended.
watch() {
    until grep -qE '(^|: )error: |Primary job|noticed that process' "$said"; do sleep 2; done
    sleep 30
    say "mpirun does not end by itself"
    kill -TERM "$1"
    sleep 5
    kill -KILL "$1"
} 2>/dev/null

[ -z "$hostfile" ] || { cp "$hostfile" "$hosts" && mpi+=(--hostfile "$hosts"); }
drop_silent_hosts() {
    local host rest slots=0 n alive
    alive=$(mktemp)
    while read -r host rest; do
        [[ $host == '' || $host == \#* ]] && continue
        if [ "$host" = localhost ] || ssh -n -o BatchMode=yes -o ConnectTimeout=10 "$host" true 2>/dev/null; then
            echo "$host $rest" >>"$alive"
            n=1 && [[ $rest =~ slots=([0-9]+) ]] && n=${BASH_REMATCH[1]}
            slots=$((slots + n))
        else
            say "$host does not answer: it is left out"
        fi
    done <"$hosts"
    mv "$alive" "$hosts"
    [ "$slots" -gt 0 ] || { say "error: no machine of $hostfile answers" && exit 1; }
    [ "$slots" -ge "$ranks" ] || { ranks=$slots && lost=''; }
}

again=() stuck=0 before=$(newest_step)
for ((start = 0; ; start++)); do
    : >"$said"
    say "start $((start + 1)) on $ranks ranks, $([ "$before" -lt 0 ] && echo "no checkpoint yet" || echo "from step $before")"
    mpirun -np "$ranks" "${mpi[@]}" "${command[@]}" "${again[@]}" </dev/null 2> >(trap '' TERM INT HUP USR1; exec tee -a "$log" "$said" >&2) &
    job=$!
    watch "$job" &
    watcher=$! && disown "$watcher"
    while :; do # wait returns early when a signal comes
        signalled=0
        wait "$job"
        code=$?
        ((signalled)) || break
    done
    job=''
    kill -- "-$watcher" 2>/dev/null
    sleep 0.1 # tee
    step=$(newest_step)
    [ "$code" -ne 0 ] || { say "done, after $start restarts" && exit 0; }
    [ "$code" -ne 2 ] || { say "error: the command line is wrong; no restart" && exit 2; }
    lost=$(sed -nE 's/.*error: (rank [0-9]+ \(.*\) (died|hangs|stalls)).*/\1/p; s/.*noticed that process (rank [0-9]+) .*(exited on signal [0-9]+).*/\1 \2/p' "$said" | head -n 1)
    if ((stopping)) || { [ -z "$lost" ] && ! grep -q 'error: ' "$said" && [[ " 129 130 138 141 143 " == *" $code "* ]]; }; then
        say "stopped at step $step; go on with the same command and --resume"
        exit "$code"
    fi
    stuck=$((step > before ? 0 : stuck + 1)) before=$step
    why="${lost:-the run failed}, exit code $code, newest checkpoint: step $step"
    [ $start -lt "$restarts" ] || { say "error: $why; all $restarts restarts are used up" && exit "$code"; }
    [ $stuck -lt 2 ] || { say "error: $why; two starts in a row came no step further" && exit "$code"; }
    [ -z "$hostfile" ] || [ -n "$keep" ] || drop_silent_hosts
    [ -z "$lost" ] || [ -n "$keep" ] || [ "$ranks" -eq 1 ] || ranks=$((ranks - 1))
    say "$why; restart $((start + 1)) of $restarts"
    # what is left of the run that died may hold its directory for a moment
    flock -w 30 "$output/.lock" true 2>/dev/null
    again=(--resume --fall-back)
done
