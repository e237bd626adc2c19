#!/usr/bin/env bash
# Whether two builds of the programs compute the same bits: weights, optimizer state, logged losses and norms, sampled text.
#
#   dev/same_bits.sh OLD NEW [cpu|cuda]      OLD and NEW: directories with ./train_gpt2 and ./tokenize, built there
#
# cuda: the CUDA program compiled for the CPU (build/train_gpt2cu_cpu of each). Runs small models of odd sizes; a line for
# each, and at the end "N the same, N differ". What a change may alter on purpose, a reader sees by the file that differs.
set -uo pipefail
[ $# -ge 2 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
old=$(realpath "$1") new=$(realpath "$2") what=${3:-cpu}
program=train_gpt2
[ "$what" = cuda ] && program=build/train_gpt2cu_cpu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
export OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

# A text that is the same everywhere: words of a small language, by a multiplicative generator.
awk 'BEGIN { split("the a king queen of and to in said went saw old new river house stone bird long way home", w, " "); x = 1
    for (i = 1; i <= 9000; i++) { x = (x * 48271) % 2147483647; printf "%s%s", w[x % 20 + 1], i % 11 ? " " : ".\n" } }' >text.txt
"$old/tokenize" train-vocab --vocab-size 300 -o vocab text.txt >/dev/null 2>&1 || "$old/tokenize" train --vocab-size 300 -o vocab text.txt >/dev/null 2>&1
"$old/tokenize" encode --vocab vocab -o data text.txt >/dev/null || { echo "no data could be made" >&2; exit 1; }

same=0 differ=0
# hashes DIR: a line a file that must be equal
hashes() {
    for f in "$1"/step_*/*.safetensors; do [ -e "$f" ] && printf '%s %s\n' "$(sha256sum <"$f" | cut -c1-16)" "${f#"$1"/}"; done
    grep -o '"\(loss\|grad_norm\|norm\|val_loss\)":[^,}]*' "$1/log.jsonl" 2>/dev/null | sha256sum | awk '{ print substr($1, 1, 16), "losses" }'
    [ -e "$1/sample" ] && printf '%s sample\n' "$(sha256sum <"$1/sample" | cut -c1-16)"
}
# compare NAME: the runs old/ and new/ that were just made
compare() {
    local name=$1 a b
    a=$(hashes old) b=$(hashes new)
    if [ -n "$a" ] && [ "$a" = "$b" ]; then
        same=$((same + 1)) && printf 'same    %-58s %s\n' "$name" "$(printf %s "$a" | sha256sum | cut -c1-16)"
    else
        differ=$((differ + 1)) && printf 'DIFFERS %-58s\n' "$name" && diff <(echo "$a") <(echo "$b") | sed 's/^/          /'
    fi
    rm -rf old new
}
run() {  # run RANKS OPTIONS...
    local ranks=$1 side prefix
    shift
    for side in old new; do
        prefix=
        [ "$ranks" -gt 1 ] && prefix="mpirun --oversubscribe --bind-to none -np $ranks"
        # shellcheck disable=SC2086
        $prefix "${!side}/$program" train -i data -x 6 -v 3 -o $side "$@" >$side.out 2>&1 ||
            { echo "$side: $* failed: $(tail -n 1 $side.out)"; }
        [ "$ranks" -gt 1 ] || "${!side}/$program" sample -e $side --prompt "the king" --max-tokens 20 --temperature 0.9 >$side/sample 2>/dev/null
    done
    compare "$(echo "ranks $ranks: $*" | sed 's/-e L2:H2:C36:T24 -b 3 -d 192 //')"
}
model="-e L2:H2:C36:T24 -b 3 -d 192"
# shellcheck disable=SC2086
{
    run 1 $model --precision fp32
    run 1 $model --precision fp32 --dropout 0.1 --recompute 3
    run 1 $model --precision fp32 --dropout 0.1 --recompute 1
    run 1 $model --precision bf16
    run 1 $model --precision bf16 --stochastic-rounding --recompute 2
    run 1 $model --precision bf16 --no-master-weights --dropout 0.2
    run 1 -e L1:H1:C64:T17 -b 1 -d 17 --precision fp32 --dropout 0.3
    run 1 -e L3:H3:C48:T32 -b 2 -d 128 --precision fp32 --grad-clip 0.1 --weight-decay 0.3
    if [ "$what" = cuda ]; then
        run 1 $model --precision bf16 --matmul own --dropout 0.1 --recompute 3
        run 1 $model --precision fp32 --matmul own --no-tf32
        CUDAHOST_SEED=7 run 1 $model --precision bf16 --dropout 0.1
    fi
    for stage in 0 1 2 3; do run 2 $model --precision fp32 --dropout 0.1 -z $stage; done
    for stage in 1 3; do run 3 $model --precision bf16 -z $stage; done
}
echo "$same the same, $differ differ"
[ "$differ" -eq 0 ]
