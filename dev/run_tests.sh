#!/usr/bin/env bash
# Runs GoogleTest binaries on all cores and sums up.
#
#   dev/run_tests.sh BINARY...
#
# In the environment: GTEST_FILTER, JOBS (cores), TEST_TIMEOUT (seconds that one test may take, 600), SLOWEST=1 (names the ten
# slowest tests).
#
# All tests wait in one queue, long ones first. Whoever is idle takes the next few, fewer towards the end, so that all cores
# work until the last test. How long a test takes is known from the run before (BINARY.times); where it is not, tests of
# whole programs are believed to take longer than others.
#
# Prints what failed with its output, names what was skipped and why; the last line is "N passed, N failed" (", N skipped").
# A test in which the process crashes, or which has not ended after TEST_TIMEOUT seconds of its own, has failed; the tests
# after it still run, in a new process. Status 1 if anything failed or no test ran.
set -euo pipefail

jobs=${JOBS:-$(nproc)}
limit=${TEST_TIMEOUT:-600}
# Two threads even in small tests, so that races can show; they sleep while they wait, because other tests need the cores.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
export UBSAN_OPTIONS=print_stacktrace=1${UBSAN_OPTIONS:+:$UBSAN_OPTIONS}
work=$(mktemp -d)
start=$SECONDS
workers=()

# kill_session SIGNAL ID: all processes of a session, those too that have a process group of their own
kill_session() {
    local ids
    ids=$(cat /proc/[0-9]*/stat 2>/dev/null | awk -v session="$2" '{ id = $1; sub(/^.*\) /, "") } $4 == session { print id }') || true
    [ -z "$ids" ] || kill -s "$1" $ids 2>/dev/null || true
}
clean_up() {
    trap '' INT TERM
    [ ${#workers[@]} -eq 0 ] || kill "${workers[@]}" 2>/dev/null || true
    for session in $(cat "$work"/*.session 2>/dev/null || true); do kill_session KILL "$session"; done
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# list_tests BINARY: Suite.Name, a line each
list_tests() {
    timeout "$limit" "$1" --gtest_list_tests 2>"$work/list.err" |
        awk '/^[^ ]+\.( |$)/ { suite = $1; next } /^  / { if ($1 !~ /^DISABLED_/ && suite !~ /^DISABLED_/) print suite $1 }'
}

# What a log of a run says: "P name ms", "F name ms", "S name <tab> reason", and "R name" for a test that began and did not end.
read_log() {
    awk '
        function ms() { return match($0, /\([0-9]+ ms\)$/) ? " " substr($0, RSTART + 1, RLENGTH - 5) : "" }
        match($0, /\[ RUN      \] [^ ]+$/) { name = substr($0, RSTART + 13); open = 1; reason = ""; next }
        open && match($0, /\[       OK \] [^ ]+ \(/) && index($0, "] " name " (") { print "P " name ms(); open = 0; next }
        open && match($0, /\[  FAILED  \] [^ ]+/) && index($0, "] " name) { print "F " name ms(); open = 0; next }
        open && match($0, /\[  SKIPPED \] [^ ]+ \(/) { print "S " name "\t" reason; open = 0; next }
        open && !/: Skipped$/ && NF { reason = reason (reason == "" ? "" : " ") $0 }
        END { if (open) print "R " name }' "$1"
}

# ---- the queue: "milliseconds binary test", a line each --------------------------------------------------------------------

make_queue() {  # make_queue BINARY...
    for binary in "$@"; do
        if ! list_tests "$binary" >"$work/all"; then
            # under a debugger, or where ptrace is forbidden, leaks cannot be looked for
            if grep -q 'LeakSanitizer has encountered a fatal error' "$work/list.err"; then
                echo "LeakSanitizer cannot run here: leaks are not looked for"
                export ASAN_OPTIONS=detect_leaks=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}
            fi
            if ! list_tests "$binary" >"$work/all"; then
                cat "$work/list.err"
                echo "F $binary does not run" >>"$work/results"
                continue
            fi
        fi
        echo "running $(wc -l <"$work/all") tests of $binary on $jobs cores"
        awk -v binary="$binary" '
            listing { print ($1 in ms) ? ms[$1] : /Program/ ? 4000 : 200, binary, $1; next }
            { ms[$1] = $2 }' \
            "$([ -s "$binary.times" ] && echo "$binary.times" || echo /dev/null)" listing=1 "$work/all" >>"$work/unsorted"
    done
    sort -s -k1,1nr "$work/unsorted" >"$work/queue"
}

# take WHO: moves the next tests of one binary into $work/WHO.todo and its name into WHO.binary; status 1: there are none left.
# A share of what is left, so that shares get smaller, but no process for a moment's work.
take() {
    local base=$work/$1
    exec 9>"$work/lock"
    flock 9
    rm -f "$base.todo"
    if [ -s "$work/queue" ]; then
        awk -v jobs="$jobs" -v base="$base" -v rest="$work/rest" '
            { ms[NR] = $1; binary[NR] = $2; test[NR] = $3; total += $1 }
            END {
                share = total / (4 * jobs)
                if (share < 2000) share = 2000
                for (i = 1; i <= NR; i++) {
                    if (i > 1 && (sum + ms[i] > share || binary[i] != binary[1])) full = 1
                    if (full) print ms[i], binary[i], test[i] > rest
                    else print test[i] > (base ".todo")
                    sum += ms[i]
                }
                print binary[1] > (base ".binary")
            }' "$work/queue"
        if [ -e "$work/rest" ]; then mv "$work/rest" "$work/queue"; else : >"$work/queue"; fi
    fi
    exec 9>&-
    [ -s "$base.todo" ]
}

# ---- running -------------------------------------------------------------------------------------------------------------

# watch LOG SESSION MARK: ends the session when a test in the log, or what comes before the first or after the last, takes more
# than the limit; MARK then exists.
watch() {
    local now before="" since=$SECONDS
    while sleep 1; do
        now=$(grep -c '\[ *\(RUN\|OK\|FAILED\|SKIPPED\) *\] ' "$1") || true
        if [ "$now" != "$before" ]; then
            before=$now since=$SECONDS
        elif [ $((SECONDS - since)) -ge "$limit" ]; then
            : >"$3"
            kill_session TERM "$2"
            sleep 5
            kill_session KILL "$2"
            return
        fi
    done
}

# run_once BINARY BASE: the tests in BASE.todo in one process, as far as it comes; results to BASE.results, output of failures to
# BASE.output. BASE.todo then has those that are still to run.
run_once() {
    local binary=$1 base=$2 status=0 how current session watcher
    rm -f "$base.hung"
    # A session of its own: all that a test started can be ended with it. A shell's background processes ignore Ctrl-C, which
    # programs under test should not inherit.
    setsid env --default-signal=INT,QUIT "$binary" --gtest_color=no --gtest_filter="$(paste -sd : "$base.todo")" >"$base.log" 2>&1 &
    session=$!
    echo $session >"$base.session"
    watch "$base.log" $session "$base.hung" >/dev/null 2>&1 &
    watcher=$!
    { wait $session || status=$?; } 2>/dev/null  # the shell's own message about a process that died
    if [ -e "$base.hung" ]; then wait $watcher || true; else { kill $watcher && wait $watcher; } 2>/dev/null || true; fi
    rm -f "$base.session"

    read_log "$base.log" >"$base.now"
    grep -v '^R ' "$base.now" >>"$base.results" || true
    current=$(sed -n 's/^R //p' "$base.now")
    # the output of failed tests, from RUN to FAILED, or to the end of a process that died
    awk '/\[ RUN      \]/ { text = "" } { text = text $0 "\n" }
         /\[       OK \]|\[  SKIPPED \]/ { text = "" } /\[  FAILED  \] .*\([0-9]+ ms\)$/ { printf "%s", text; text = "" }
         END { if (dead) printf "%s", text }' dead=$((status > 1 || ${#current} > 0)) "$base.log" >"$base.output"
    case $status in
        12[89] | 1[3-9]?) how="killed by signal $((status - 128))" ;;
        *) how="exit status $status" ;;
    esac
    [ ! -e "$base.hung" ] || how="no end after $limit s"
    sed 's/^. //; s/[ \t].*//' "$base.now" >"$base.done"
    grep -vxFf "$base.done" "$base.todo" >"$base.rest" || true
    mv "$base.rest" "$base.todo"
    if [ -n "$current" ]; then
        echo "F $current ($how)" >>"$base.results"
    elif [ $status -gt 1 ] || { [ $status -eq 1 ] && ! grep -q '^F ' "$base.now"; }; then
        # all tests ended, and then the process failed: a leak report, say, or a crash in a destructor
        echo "F $(basename "$binary") after $(tail -n 1 "$base.done" | grep . || echo its start) ($how)" >>"$base.results"
        tail -n 40 "$base.log" >>"$base.output"
        [ -s "$base.done" ] || : >"$base.todo"
    elif [ -s "$base.todo" ]; then
        sed 's/^/F /; s/$/ (did not run)/' "$base.todo" >>"$base.results"
        : >"$base.todo"
    fi
    flock "$work/lock" cat "$base.output"
}

# worker NUMBER: takes tests and runs them until there are none left.
worker() {
    local base=$work/$1 binary
    while take "$1"; do
        binary=$(cat "$base.binary")
        : >"$base.results"
        while [ -s "$base.todo" ]; do run_once "$binary" "$base"; done
        { flock 9 && cat "$base.results" >>"$work/results" && sed -n "s|^[PF] \([^ ]*\) \([0-9]*\)\$|$binary \1 \2|p" "$base.results" >>"$work/times"; } 9>"$work/lock"
    done
}

: >"$work/results" >"$work/times" >"$work/unsorted"
make_queue "$@"
for ((i = 0; i < jobs; i++)); do
    worker $i &
    workers+=($!)
done
wait
workers=()

# ---- summing up ------------------------------------------------------------------------------------------------------------

for binary in "$@"; do
    { cat "$binary.times" || true; sed -n "s|^$binary ||p" "$work/times"; } 2>/dev/null | awk '{ ms[$1] = $2 } END { for (t in ms) print t, ms[t] }' >"$work/merged"
    { [ ! -s "$work/merged" ] || cp "$work/merged" "$binary.times"; } 2>/dev/null || true
done
count() { grep -c "^$1 " "$work/results" || true; }
passed=$(count P) failed=$(count F) skipped=$(count S)
sed -n 's/^S \([^\t]*\)\t\(.*\)/skipped: \1: \2/p' "$work/results" | sort
sed -n 's/^F \([^ ]*\) [0-9]*$/failed: \1/p; t; s/^F /failed: /p' "$work/results" | sort
if [ -n "${SLOWEST:-}" ]; then
    echo "slowest:"
    sort -k3,3nr "$work/times" | head -n 10 | awk '{ printf "%8.1f s  %s\n", $3 / 1000, $2 }'
fi
[ $((passed + failed)) -gt 0 ] || echo "no test ran"
echo "took $((SECONDS - start)) s"
summary="$passed passed, $failed failed"
[ "$skipped" -eq 0 ] || summary+=", $skipped skipped"
echo "$summary"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
