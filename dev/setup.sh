#!/usr/bin/env bash
# Installs what the build and the tests need. Runs again at no cost: with everything there, it says so and ends.
#
#   dev/setup.sh [--yes] [--cuda] [--fuzz] [PACKAGE...]      PACKAGE: only these, fetched in the same way
#
# As root, or where sudo asks for no password: apt-get install (asks before, on a terminal without --yes).
# Else: the libraries are unpacked into .deps/, where the Makefile looks first; nothing outside this directory changes.
# Where neither works: the one line to run.
# --cuda (in CI: always): where this machine has no CUDA Toolkit, nvcc and CUDA's headers and libraries as well, by pip into
# .deps/python (about 1.5 GB); enough to build the CUDA program and to test it on the CPU. A GPU needs NVIDIA's driver besides.
# --fuzz (in CI: always): clang and its libFuzzer, for `make fuzz`; strace, for `make faults`.
set -euo pipefail
cd "$(dirname "$0")/.."

commands=(g++ make git curl clang-format openmpi-bin libopenmpi-dev)  # Open MPI looks for itself in /usr: not for .deps/
libraries=(libcli11-dev nlohmann-json3-dev libdnnl-dev libgtest-dev libpcre2-dev libboost-context-dev)
required=" g++ make git curl libcli11-dev nlohmann-json3-dev "
header() {  # the file by which a library is known
    case $1 in
        libcli11-dev) echo CLI/CLI.hpp ;;
        nlohmann-json3-dev) echo nlohmann/json.hpp ;;
        libdnnl-dev) echo dnnl.hpp ;;
        libgtest-dev) echo gtest/gtest.h ;;
        libpcre2-dev) echo pcre2.h ;;
        libboost-context-dev) echo boost/context/detail/fcontext.hpp ;;
    esac
}

yes=${CI:-} cuda=${CI:-} fuzz=${CI:-}
more=()
for argument in "$@"; do
    case $argument in
        -y | --yes) yes=1 ;;
        --cuda) cuda=1 ;;
        --fuzz) fuzz=1 ;;
        -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit ;;
        -*) echo "dev/setup.sh: unknown option $argument (there are --yes, --cuda and --fuzz)" >&2; exit 2 ;;
        *) more+=("$argument") ;;
    esac
done

if [ -n "$fuzz" ]; then  # libFuzzer is in a package that has clang's version in its name
    clang=$( (clang++ -dumpversion || apt-cache depends clang | sed -n 's/.*Depends: clang-//p') 2>/dev/null | sed 's/\..*//;q' || true)
    commands+=(strace clang "libclang-rt-${clang:-14}-dev")
fi

is_there() {
    local name include
    case $1 in
        g++ | make | git | curl | clang-format) command -v "$1" >/dev/null; return ;;
        clang) command -v clang++ >/dev/null; return ;;
        libclang-rt-*) compgen -G "$(clang++ -print-resource-dir 2>/dev/null)/lib/*/libclang_rt.fuzzer*.a" >/dev/null; return ;;
        openmpi-bin) command -v mpirun >/dev/null; return ;;
        libopenmpi-dev) command -v mpicc >/dev/null; return ;;  # another MPI will do
    esac
    name=$(header "$1")
    if [ -n "$name" ]; then
        for include in .deps/usr/include .deps/usr/include/*-linux-gnu /usr/include /usr/include/*-linux-gnu /usr/local/include; do
            [ ! -e "$include/$name" ] || return 0
        done
        return 1
    fi
    [ -e ".deps/packages/$1" ] || dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed
}
list_missing() {
    missing=()
    local package wanted=("${commands[@]}" "${libraries[@]}")
    [ ${#more[@]} -eq 0 ] || wanted=("${more[@]}")
    for package in "${wanted[@]}"; do
        is_there "$package" || missing+=("$package")
    done
}

with_apt() {
    local root=()
    [ "$(id -u)" -eq 0 ] || root=(sudo -n)
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends) package known=()
    echo "installing with apt-get: ${missing[*]}"
    # only when the package lists are missing or out of date is there a need to fetch them
    "${root[@]}" "${install[@]}" "${missing[@]}" </dev/null >"$log" 2>&1 && return
    "${root[@]}" apt-get update -q </dev/null >"$log" 2>&1 || true
    # a package that this system does not have keeps no other out
    for package in "${missing[@]}"; do ! apt-cache show "$package" >/dev/null 2>&1 || known+=("$package"); done
    "${root[@]}" "${install[@]}" "${known[@]}" </dev/null >"$log" 2>&1 && return
    grep '^E:' "$log" | tail -n 3 >&2 || tail -n 3 "$log" >&2
    return 1
}

# Downloads the missing libraries, and what they need that is not installed, and unpacks them into .deps/.
without_root() {
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || return 1
    local wanted=() left=() package
    for package in "${missing[@]}"; do
        case " ${commands[*]} " in *" $package "*) left+=("$package") ;; *) wanted+=("$package") ;; esac
    done
    [ ${#left[@]} -eq 0 ] || echo "cannot be had without root: ${left[*]}"
    [ ${#wanted[@]} -gt 0 ] || return 1
    echo "no root: unpacking into .deps/: ${wanted[*]}"
    local debs=$PWD/.deps/debs
    mkdir -p "$debs" .deps/packages
    rm -f "$debs"/*.deb
    # lists of our own where the system's are missing or out of date; apt needs no root for that
    local own=(-o "Dir::State::lists=$PWD/.deps/apt/lists" -o "Dir::Cache=$PWD/.deps/apt/cache")
    if ! download "$debs" "${wanted[@]}"; then
        mkdir -p .deps/apt/lists/partial .deps/apt/cache/archives/partial
        apt-get "${own[@]}" update -q >"$log" 2>&1 || true
        if ! download "$debs" "${own[@]}" "${wanted[@]}"; then
            grep '^E:' "$log" | tail -n 3 >&2 || true
            rm -rf .deps/apt "$debs"
            return 1
        fi
    fi
    local deb
    for deb in "$debs"/*.deb; do dpkg -x "$deb" .deps; done
    for package in "${wanted[@]}"; do : >".deps/packages/$package"; done
    rm -rf .deps/apt "$debs"
}
download() {  # download DIR [-o OPTION]... PACKAGE...
    local dir=$1 options=(-q) packages
    shift
    while [ "$1" = -o ]; do options+=("$1" "$2"); shift 2; done
    packages=$(apt-get "${options[@]}" --simulate --no-install-recommends install "$@" 2>"$log" | awk '$1 == "Inst" { print $2 }')
    # shellcheck disable=SC2086  # one word a package
    [ -n "$packages" ] && (cd "$dir" && apt-get "${options[@]}" download $packages >"$log" 2>&1)
}

# What CUDA lacks, as pip's packages, in the places where the Makefile looks.
list_missing_cuda() {
    cuda_packages=()
    local nvcc roots site
    nvcc=$(command -v nvcc) && nvcc=$(realpath "$nvcc") || nvcc=
    site=$(python3 -c 'import sys; print(*(p for p in sys.path if p.endswith("-packages")))' 2>/dev/null || true)
    # shellcheck disable=SC2086,SC2206  # one word a directory
    roots=(${CUDA_HOME:-} .deps/python/nvidia/* ${nvcc%/bin/nvcc} /usr/local/cuda ${site:+$(printf '%s/nvidia/* ' $site)} .deps/python $site /usr/local /usr)
    has() {
        local root
        for root in "${roots[@]}"; do [ ! -e "$root/$1" ] || return 0; done
        return 1
    }
    # one version for the parts of the compiler; cuBLAS and NCCL have numbers of their own
    has bin/nvcc || cuda_packages+=(nvidia-{cuda-nvcc,nvvm,cuda-crt,cuda-runtime,cuda-cccl}"==13.0.*")
    has include/cublasLt.h || cuda_packages+=("nvidia-cublas==13.0.*")
    has include/nccl.h || cuda_packages+=(nvidia-nccl-cu13)
    ! has include/cudnn.h || has include/cudnn_frontend.h || cuda_packages+=(nvidia-cudnn-frontend)  # for its attention
}
with_pip() {
    list_missing_cuda
    if [ ${#cuda_packages[@]} -eq 0 ]; then
        echo "set-up: CUDA is there"
    elif ! python3 -m pip --version >/dev/null 2>&1; then
        echo "set-up: no CUDA: install the CUDA Toolkit, or python3-pip and run dev/setup.sh --cuda again" >&2
        return 1
    else
        echo "set-up: by pip into .deps/python: ${cuda_packages[*]}"
        # into a directory of its own first: pip replaces nvidia/ as a whole where it finds one
        local out
        rm -rf .deps/python.new
        if ! out=$(python3 -m pip install -q --disable-pip-version-check --no-deps --target .deps/python.new "${cuda_packages[@]}" 2>&1 </dev/null); then
            rm -rf .deps/python.new
            tail -n 3 <<<"$out" >&2
            echo "set-up: CUDA could not be fetched; the CPU program needs none of it" >&2
            return 1
        fi
        mkdir -p .deps/python
        cp -r .deps/python.new/. .deps/python/
        rm -rf .deps/python.new
    fi
}
status=0
if [ -n "$cuda" ]; then
    with_pip || status=$?
    # in CI what needs CUDA is then skipped, and says so
    [ -z "${CI:-}" ] || status=0
fi

list_missing
if [ ${#missing[@]} -eq 0 ]; then
    echo "set-up: everything is there"
    exit $status
fi
echo "set-up: missing: ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT

allowed=
if command -v apt-get >/dev/null && { [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null; }; then
    allowed=1
    if [ -z "$yes" ] && [ -t 0 ] && [ -t 1 ]; then
        read -r -p "install them with apt-get? [Y/n] " answer
        case $answer in [nN]*) allowed= ;; esac
    fi
fi
if [ -n "$allowed" ]; then with_apt || true; else without_root || true; fi

list_missing
hash -r
fatal=
for package in ${missing[@]+"${missing[@]}"}; do
    case "$required ${more[*]-} " in *" $package "*) fatal=1 ;; esac
done
if [ ${#missing[@]} -eq 0 ]; then
    echo "set-up: everything is there now"
elif [ -n "$fatal" ]; then
    echo "set-up: still missing; please run:  sudo apt-get update && sudo apt-get install -y ${missing[*]}" >&2
    exit 1
else
    echo "set-up: the programs can be built; for speed or tests, also:  sudo apt-get update && sudo apt-get install -y ${missing[*]}"
fi
exit $status
