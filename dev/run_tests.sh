#!/usr/bin/env bash
# Runs GoogleTest binaries on all cores and sums up.
#
#   dev/run_tests.sh BINARY...        GTEST_FILTER, JOBS (cores), TEST_TIMEOUT (seconds a process, 600) in the environment
#
# Prints what failed with its output, names what was skipped and why; the last line is "N passed, N failed" (", N skipped").
# A test in which the process crashes or hangs has failed; the tests after it still run, in a new process.
# Status 1 if anything failed or no test ran.
set -euo pipefail

jobs=${JOBS:-$(nproc)}
limit=${TEST_TIMEOUT:-600}
# Two threads even in small tests, so that races can show; they sleep while they wait, because other tests need the cores.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
export UBSAN_OPTIONS=print_stacktrace=1${UBSAN_OPTIONS:+:$UBSAN_OPTIONS}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
start=$SECONDS

# list_tests BINARY: Suite.Name, a line each
list_tests() {
    timeout "$limit" "$1" --gtest_list_tests 2>"$work/list.err" |
        awk '/^[^ ]+\.( |$)/ { suite = $1; next } /^  / { if ($1 !~ /^DISABLED_/ && suite !~ /^DISABLED_/) print suite $1 }'
}

# What a log of a run says: "P name", "F name", "S name <tab> reason", and "R name" for a test that began and did not end.
read_log() {
    awk '
        match($0, /\[ RUN      \] [^ ]+$/) { name = substr($0, RSTART + 13); open = 1; reason = ""; next }
        open && match($0, /\[       OK \] [^ ]+ \(/) && index($0, "] " name " (") { print "P " name; open = 0; next }
        open && match($0, /\[  FAILED  \] [^ ]+/) && index($0, "] " name) { print "F " name; open = 0; next }
        open && match($0, /\[  SKIPPED \] [^ ]+ \(/) { print "S " name "\t" reason; open = 0; next }
        open && !/: Skipped$/ && NF { reason = reason (reason == "" ? "" : " ") $0 }
        END { if (open) print "R " name }' "$1"
}

# run_shard BINARY NUMBER: the tests in $work/NUMBER.todo, results to $work/NUMBER.results, output of failures to NUMBER.output
run_shard() {
    local binary=$1 base=$work/$2 status how current
    while [ -s "$base.todo" ]; do
        status=0
        # The braces swallow the shell's own message about a process that died. A shell's background processes ignore Ctrl-C,
        # which programs under test should not inherit.
        { timeout -k 10 "$limit" env --default-signal=INT,QUIT "$binary" --gtest_color=no \
            --gtest_filter="$(paste -sd : "$base.todo")" >"$base.log" 2>&1; } 2>/dev/null || status=$?
        read_log "$base.log" >"$base.now"
        grep -v '^R ' "$base.now" >>"$base.results" || true
        current=$(sed -n 's/^R //p' "$base.now")
        # the output of failed tests, from RUN to FAILED, or to the end of a process that died
        awk '/\[ RUN      \]/ { text = "" } { text = text $0 "\n" }
             /\[       OK \]|\[  SKIPPED \]/ { text = "" } /\[  FAILED  \] .*\([0-9]+ ms\)$/ { printf "%s", text; text = "" }
             END { if (dead) printf "%s", text }' dead=$((status > 1 || ${#current} > 0)) "$base.log" >>"$base.output"
        case $status in
            124 | 137) how="no end after $limit s" ;;
            12[89] | 1[3-9]?) how="killed by signal $((status - 128))" ;;
            *) how="exit status $status" ;;
        esac
        if [ -n "$current" ]; then
            echo "F $current ($how)" >>"$base.results"
        elif [ $status -gt 1 ] || { [ $status -eq 1 ] && ! grep -q '^F ' "$base.now"; }; then
            # all tests ended, and then the process failed: a leak report, say, or a crash in a destructor
            echo "F $(basename "$binary") at its end ($how)" >>"$base.results"
            tail -n 40 "$base.log" >>"$base.output"
            break
        fi
        sed 's/^. //; s/\t.*//' "$base.now" >"$base.done"
        [ -s "$base.done" ] || break
        [ -n "$current" ] || break
        grep -vxFf "$base.done" "$base.todo" >"$base.rest" || true
        mv "$base.rest" "$base.todo"
    done
}

: >"$work/results"
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
    rm -f "$work"/*.todo
    awk -v n="$jobs" -v base="$work/" '{ print > (base (NR % n) ".todo") }' "$work/all"
    echo "running $(wc -l <"$work/all") tests of $binary on $jobs cores"
    for todo in "$work"/*.todo; do
        [ -e "$todo" ] || continue
        run_shard "$binary" "$(basename "$todo" .todo)" &
    done
    wait
    cat "$work"/*.output 2>/dev/null || true
    cat "$work"/*.results >>"$work/results" 2>/dev/null || true
    rm -f "$work"/*.output "$work"/*.results
done

count() { grep -c "^$1 " "$work/results" || true; }
passed=$(count P) failed=$(count F) skipped=$(count S)
sed -n 's/^S \([^\t]*\)\t\(.*\)/skipped: \1: \2/p' "$work/results" | sort
sed -n 's/^F /failed: /p' "$work/results" | sort
[ $((passed + failed)) -gt 0 ] || echo "no test ran"
echo "took $((SECONDS - start)) s"
summary="$passed passed, $failed failed"
[ "$skipped" -eq 0 ] || summary+=", $skipped skipped"
echo "$summary"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
