#!/usr/bin/env bash
# Runs the fuzz targets, as many at a time as there are cores. The last line: "N passed, N failed[, N skipped]".
#
#   test/fuzz/run.sh SECONDS [TARGET]...     of each target
#
# FUZZ_SEED in the environment: the inputs are made up alike each time (.ci/run), but for how many there is time.
# Each begins with test/fuzz/corpus/TARGET, which it leaves as it is. What it finds that leads to new lines stays in
# build-fuzz/corpus/TARGET, and it begins with that, too, the next time; test/fuzz/run.sh --keep [TARGET]... puts the smallest
# set of inputs that leads everywhere in place of test/fuzz/corpus/TARGET. An input that is a fault stays in
# build-fuzz/faults/; build-fuzz/TARGET FILE runs it again.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
limits=(-max_len=4096 -rss_limit_mb=2048 -malloc_limit_mb=1024 -timeout=20 -close_fd_mask=1)
export ASAN_OPTIONS=detect_stack_use_after_return=0:allocator_may_return_null=0 UBSAN_OPTIONS=print_stacktrace=1
rt=("$(clang++ -print-resource-dir 2>/dev/null)"/lib/*/libclang_rt.fuzzer*.a)
if [ ! -e "${rt[0]}" ]; then
    echo "skipped: fuzzing: clang++ or its libFuzzer is missing (packages clang and libclang-rt-14-dev, or of another version; dev/setup.sh --fuzz installs them)"
    echo "0 passed, 0 failed, 1 skipped"
    exit
fi
make -s -j "$(nproc)" FUZZ=1 CXX=clang++ NO_ONEDNN=1 NO_OPENMP=1 NO_MPI=1 build-fuzz/fuzz || { echo "0 passed, 1 failed"; exit 1; }

work=$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo /tmp)")
trap 'trap "" INT TERM; kill $(jobs -p) 2>/dev/null; wait; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

seconds=$1
shift
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(build-fuzz/fuzz)

fuzz() {  # fuzz TARGET: a line of what came of it, in $work/TARGET.result
    local target=$1 kept=test/fuzz/corpus/$1 found=build-fuzz/corpus/$1 dictionary=test/fuzz/$1.dict status=0
    mkdir -p "$kept" "$found" build-fuzz/faults "$work/$target"
    ln -sf fuzz "build-fuzz/$target"
    local command=("build-fuzz/$target" "${limits[@]}" -artifact_prefix="build-fuzz/faults/$target-")
    [ -z "${FUZZ_SEED:-}" ] || command+=(-seed="$FUZZ_SEED")
    [ ! -e "$dictionary" ] || command+=(-dict="$dictionary")
    export TMPDIR=$work/$target
    if [ "$seconds" = --keep ]; then
        mkdir "$work/$target.kept"
        "${command[@]}" -merge=1 "$work/$target.kept" "$kept" "$found" >"$work/$target.log" 2>&1 || status=$?
        [ $status -ne 0 ] || { rm -rf "$kept" && cp -r "$work/$target.kept" "$kept"; }
    else
        "${command[@]}" -max_total_time="$seconds" -print_final_stats=1 "$found" "$kept" >"$work/$target.log" 2>&1 || status=$?
    fi
    {
        printf '%-12s %s inputs tried, %s kept' "$target" \
            "$(sed -n 's/^stat::number_of_executed_units: *//p' "$work/$target.log" | grep . || echo no)" \
            "$(find "$found" "$kept" -type f | wc -l)"
        [ $status -eq 0 ] && echo || {
            echo; grep -v '^#[0-9]*[[:space:]]' "$work/$target.log" | tail -n 60
            echo "failed: $target; once more: build-fuzz/$target $(sed -n 's/.*written to //p' "$work/$target.log" | tail -n 1)"
        }
    } >"$work/$target.result"
    cat "$work/$target.result"
}

failed=0
for target in "${targets[@]}"; do
    while [ "$(jobs -pr | wc -l)" -ge "$(nproc)" ]; do wait -n; done
    fuzz "$target" &
done
wait
failed=$(cat "$work"/*.result | grep -c '^failed: ')
echo "$((${#targets[@]} - failed)) passed, $failed failed"
[ "$failed" -eq 0 ]
