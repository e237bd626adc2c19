#!/usr/bin/env bash
# Installs what the build and the tests need. Runs again at no cost: with everything there, it says so and ends.
#
#   dev/setup.sh [--yes] [PACKAGE...]      PACKAGE: only these, fetched in the same way
#
# As root, or where sudo asks for no password: apt-get install (asks before, on a terminal without --yes).
# Else: the libraries are unpacked into .deps/, where the Makefile looks first; nothing outside this directory changes.
# Where neither works: the one line to run.
set -euo pipefail
cd "$(dirname "$0")/.."

commands=(g++ make git curl clang-format)
libraries=(libcli11-dev nlohmann-json3-dev libdnnl-dev libgtest-dev libpcre2-dev)
required=" g++ make git curl libcli11-dev nlohmann-json3-dev "
header() {  # the file by which a library is known
    case $1 in
        libcli11-dev) echo CLI/CLI.hpp ;;
        nlohmann-json3-dev) echo nlohmann/json.hpp ;;
        libdnnl-dev) echo dnnl.hpp ;;
        libgtest-dev) echo gtest/gtest.h ;;
        libpcre2-dev) echo pcre2.h ;;
    esac
}

yes=${CI:-}
more=()
for argument in "$@"; do
    case $argument in
        -y | --yes) yes=1 ;;
        -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit ;;
        -*) echo "dev/setup.sh: unknown option $argument (there is --yes)" >&2; exit 2 ;;
        *) more+=("$argument") ;;
    esac
done

is_there() {
    local name include
    case $1 in
        g++ | make | git | curl | clang-format) command -v "$1" >/dev/null; return ;;
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
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}")
    echo "installing with apt-get: ${missing[*]}"
    # only when the package lists are missing or out of date is there a need to fetch them
    "${root[@]}" "${install[@]}" </dev/null >"$log" 2>&1 && return
    "${root[@]}" apt-get update -q </dev/null >"$log" 2>&1 || true
    "${root[@]}" "${install[@]}" </dev/null >"$log" 2>&1 && return
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

list_missing
if [ ${#missing[@]} -eq 0 ]; then
    echo "set-up: everything is there"
    exit 0
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
