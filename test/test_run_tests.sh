#!/usr/bin/env bash
# dev/run_tests.sh itself, with binaries that pass, fail, skip, crash and hang. Last line: "N passed, N failed".
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
work=$(mktemp -d)
trap 'kill -KILL "$(cat "$work/child" 2>/dev/null)" 2>/dev/null; rm -rf "$work"' EXIT
passed=0 failed=0

# fake NAME TEST...: a binary that lists these tests and runs those that it is asked for as GoogleTest would. What a test does
# is its name's beginning.
fake() {
    local name=$1
    shift
    { echo '#!/usr/bin/env bash'; printf 'tests="%s" here=%s\n' "$*" "$work"; cat <<'EOF'; } >"$work/$name"
for argument; do
    case $argument in
        --gtest_list_tests)
            echo "Fake."
            for test in $tests; do echo "  $test"; done
            exit ;;
        --gtest_filter=*) wanted=":${argument#*=}:" ;;
    esac
done
status=0
for test in $tests; do
    [[ $wanted == *":Fake.$test:"* ]] || continue
    echo "$test $$" >>"$here/order"
    [[ $test == Silent* ]] && continue
    echo "[ RUN      ] Fake.$test"
    case $test in
        Passes*) end=OK ;;
        Sleeps*) sleep 3; end=OK ;;
        Fails*) echo "output of $test"; end=FAILED status=1 ;;
        Skips*) printf 'file:1: Skipped\nthere is no %s\n\n' "$test"; end=SKIPPED ;;
        Crashes*) kill -SEGV $$ ;;
        Exits*) exit 0 ;;
        # with a child that has a process group of its own and would not end for a SIGTERM
        Hangs*) bash -c 'trap "" TERM; echo $$ >"$0"; while :; do sleep 1; done' "$here/child" & wait ;;
    esac
    case $end in
        OK) echo "[       OK ] Fake.$test (7 ms)" ;;
        FAILED) echo "[  FAILED  ] Fake.$test (7 ms)" ;;
        SKIPPED) echo "[  SKIPPED ] Fake.$test (0 ms)" ;;
    esac
done
[[ $tests == *AtTheEnd* ]] && exit 3
exit $status
EOF
    chmod +x "$work/$name"
}
# run VARIABLES... BINARY...: its output is in $out, its status in $status
run() {
    rm -f "$work/order"
    status=0
    out=$(cd "$work" && env "$@" 2>&1) || status=$?
}
script=$PWD/dev/run_tests.sh
expect() {  # expect WHAT STATUS TEXT...: the run's status, and lines that its output has (the last of them at its end)
    local what=$1 wanted=$2 line good=1
    shift 2
    [ "$status" -eq "$wanted" ] || good=0
    for line in "$@"; do grep -qxF -- "$line" <<<"$out" || good=0; done
    [ "$(tail -n 1 <<<"$out")" = "${!#}" ] || good=0
    if [ $good = 1 ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'failed: %s (status %s)\n%s\n' "$what" "$status" "$out"
    fi
}

fake good Passes1 Passes2 Skips1 Passes3 Passes4 Passes5 Passes6
run JOBS=2 bash "$script" ./good
expect "tests that pass" 0 "skipped: Fake.Skips1: there is no Skips1" "6 passed, 0 failed, 1 skipped"

fake bad Passes1 Fails1 Crashes1 Passes2 Exits1 Passes3
run JOBS=1 bash "$script" ./bad ./good
expect "tests that fail" 1 "output of Fails1" "failed: Fake.Fails1" "failed: Fake.Crashes1 (killed by signal 11)" \
    "failed: Fake.Exits1 (exit status 0)" "9 passed, 3 failed, 1 skipped"

# one process of many tests may take longer than the limit; a test that hangs is ended with its children, the others go on
fake slow Sleeps1 Sleeps2 Sleeps3 Hangs1 Passes1
run JOBS=1 TEST_TIMEOUT=8 bash "$script" ./slow
lives() { [ -e "/proc/$1/stat" ] && ! grep -q ') Z ' "/proc/$1/stat"; }
for _ in {1..50}; do lives "$(cat "$work/child")" || break; sleep 0.2; done
lives "$(cat "$work/child")" && out+=$'\nthe child lives'
expect "a test that hangs" 1 "failed: Fake.Hangs1 (no end after 8 s)" "4 passed, 1 failed"

fake end Passes1 PassesAtTheEnd
run JOBS=1 bash "$script" ./end
expect "a process that fails when its tests have passed" 1 "failed: end after Fake.PassesAtTheEnd (exit status 3)" "2 passed, 1 failed"

fake silent Passes1 Silent1
run JOBS=1 bash "$script" ./silent
expect "a test that the process leaves out" 1 "failed: Fake.Silent1 (did not run)" "1 passed, 1 failed"

fake none
run JOBS=2 bash "$script" ./none
expect "no tests" 1 "no test ran" "0 passed, 0 failed"
run JOBS=2 bash "$script" ./missing
expect "no binary" 1 "failed: ./missing does not run" "0 passed, 1 failed"

# long tests first, and the slowest are named
printf 'Fake.Passes%d %d\n' 1 10 2 20 3 9000 4 5 5 8000 6 10 >"$work/good.times"
run JOBS=1 SLOWEST=1 bash "$script" ./good
out+=$'\n'$(head -n 2 "$work/order" | sed 's/ .*//' | paste -sd ' ')
expect "the order of tests" 0 "     0.0 s  Fake.Passes1" "6 passed, 0 failed, 1 skipped" "Passes3 Passes5"

# all cores work: while one is busy with a long test, the other runs the rest
fake shared Sleeps1 Passes1 Passes2 Passes3 Passes4 Passes5 Passes6 Passes7 Passes8
echo "Fake.Sleeps1 60000" >"$work/shared.times"
run JOBS=2 bash "$script" ./shared
out+=$'\n'$(grep -c " $(sed -n 's/Sleeps1 //p' "$work/order")$" "$work/order")" test in the process of the long one"
expect "two cores" 0 "9 passed, 0 failed" "1 test in the process of the long one"

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
